"""Checks of what users pass in; every error names the argument, what it was and what is allowed."""
import numbers
import sys
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Callable, Sequence, Tuple, Union

import torch

Alpha = Union[float, Tuple[float, float]]
LARGEST = sys.float_info.max
_looks_at_values = ContextVar('looks_at_values', default=True)

REJECTIONS = (AssertionError, ImportError, OSError, ValueError)
"""What timm and torch raise for a user's value; other errors are bugs, except where a call is known to raise them."""


class UsageError(ValueError):
    """A user's mistake: names the argument or flag, what it was and what is allowed. One line on the command line."""


def call_library(what: str, function: Callable, *args: Any, errors: Any = REJECTIONS, **kwargs: Any) -> Any:
    """Call a function of timm or torch that may reject the user's value.

    Args:
        what: The argument or flag and its value; the error message starts with it.
        errors: The exceptions that mean a rejected value, as for `except`. A TypeError that names an unexpected keyword
            among `kwargs` always does: what the user chose does not take that flag.

    Raises:
        UsageError: If the value is rejected: `what` and the library's message, in one line.
    """
    try:
        return function(*args, **kwargs)
    except Exception as error:
        if not isinstance(error, errors) and not any(
                f"unexpected keyword argument '{name}'" in str(error) for name in kwargs):
            raise
        reason = ' '.join(str(error).split())[:300]
        if not isinstance(error, UsageError):
            reason = f'{reason} ({type(error).__name__})'.lstrip()
        raise UsageError(f'{what}: {reason}') from error


def not_compiled(reason: str) -> Callable:
    """Return a decorator for a function that torch.compile leaves out; with `fullgraph=True` its error says why."""
    try:
        return torch.compiler.disable(reason=reason)
    except TypeError:  # an older torch
        return torch.compiler.disable


def check_choice(name: str, value: object, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise UsageError(f'{name} must be one of {", ".join(map(repr, allowed))}, got {value!r}')


def check_integer(name: str, value: object, low: int = 1) -> int:
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_integer or not low <= value < 2 ** 31:
        upper = ' and < 2 ** 31' if is_integer and value > low else ''
        raise UsageError(f'{name} must be {"" if is_integer else "an integer "}>= {low}{upper}, got {value!r}')
    return int(value)


def check_number(name: str, value: object, low: float = 0., high: float = LARGEST, *, open_low: bool = False) -> float:
    is_finite = isinstance(value, numbers.Real) and not isinstance(value, bool) and abs(value) <= LARGEST  # nor NaN
    if not is_finite or not low <= value <= high or (open_low and value == low):
        bounds = f'{">" if open_low else ">="} {low:g}' + (f' and <= {high:g}' if high < LARGEST else '')
        raise UsageError(f'{name} must be {"" if is_finite else "a finite number "}{bounds}, got {value!r}')
    return float(value)


def check_alpha(alpha: object) -> Alpha:
    """Check a Dirichlet concentration, a number > 0 or a (low, high) range; a range of one value becomes that value."""
    if not isinstance(alpha, (tuple, list)):
        return check_number('alpha', alpha, open_low=True)
    ends = [check_number(f'alpha[{i}]', end, open_low=True) for i, end in enumerate(alpha)]
    if len(ends) != 2 or ends[0] > ends[1]:
        raise UsageError(f'alpha must be a number > 0 or a range (low, high) with low <= high, got {alpha!r}')
    return ends[0] if ends[0] == ends[1] else tuple(ends)


@contextmanager
def any_values():
    """Accept NaN and infinities on the CPU too, for a loop that handles them itself."""
    token = _looks_at_values.set(False)
    try:
        yield
    finally:
        _looks_at_values.reset(token)


def check_floats(name: str, value: object, *shapes: Sequence[Union[int, str]], finite: bool = False) -> None:
    """Check for a floating-point tensor of one of the shapes, in which a letter stands for any size.

    Values are checked on the CPU only: on an accelerator the host would wait for the device at every step. Non-finite
    values there reach the loss, where loss scaling handles them.
    """
    form = ' or '.join(f'[{", ".join(map(str, shape))}]' for shape in shapes)
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        kind = getattr(value, 'dtype', type(value).__name__)
        raise UsageError(f'{name} must be a floating-point tensor {form}, got {kind}')
    fitting = [shape for shape in shapes if len(shape) == value.ndim and all(
        isinstance(allowed, str) or allowed == size for allowed, size in zip(shape, value.shape))]
    if not fitting:
        raise UsageError(f'{name} must be {form}, got shape {list(value.shape)}')
    if not finite or not _looks_at_values.get() or value.device.type != 'cpu' or torch.isfinite(value.detach().sum()):
        return
    if bad := int((~torch.isfinite(value)).sum()):  # a sum of finite values may overflow
        raise UsageError(f'{name} must be finite, got {bad} NaN or infinite values of {value.numel()}')


def check_several_classes(name: str, num_classes: int, instead: str) -> None:
    """Refuse a single class, for which cross-entropy has nothing to learn."""
    if num_classes == 1:
        raise UsageError(
            f'{name}: cross-entropy needs at least 2 classes (the probability of a single class is always 1), got 1; '
            f'for one class use binary cross-entropy: {instead}')


def check_target(target: torch.Tensor, batch_size: int, num_classes: int) -> None:
    """Check for class indices `[b]` in 0..c-1, or finite soft targets `[b, c]` >= 0; values on the CPU only."""
    shape = tuple(target.shape) if isinstance(target, torch.Tensor) else type(target).__name__
    if shape == (batch_size, num_classes):
        check_floats('soft targets', target, shape)
        if target.device.type == 'cpu' and not bool((torch.isfinite(target) & (target >= 0)).all()):
            raise UsageError('target must be finite and >= 0, got a negative, infinite or NaN value')
    elif shape != (batch_size,):
        raise UsageError(
            f'target must be a tensor of [{batch_size}] class indices or [{batch_size}, {num_classes}] soft targets, '
            f'got {list(shape) if isinstance(shape, tuple) else shape}')
    elif target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise UsageError(f'target must hold integer class indices when it has one dimension, got {target.dtype}')
    elif target.device.type == 'cpu' and batch_size and not 0 <= target.min() <= target.max() < num_classes:
        bad = int(target.min() if target.min() < 0 else target.max())
        raise UsageError(f'target must hold class indices in 0..{num_classes - 1}, got {bad}')


def check_logits(logits: torch.Tensor, finite: bool = True) -> None:
    """Check for logits `[b, c]` or `[b, r, c]` that are not empty, and finite if `finite`."""
    if not isinstance(logits, torch.Tensor) and hasattr(logits, 'logits'):
        raise UsageError(
            f'logits must be a tensor, got {type(logits).__name__}: take its .logits (for a task, in a wrapper of the '
            'model)')
    check_floats('logits', logits, 'bc', 'brc', finite=finite)
    if 0 in logits.shape:
        raise UsageError(f'logits must not be empty, got shape {list(logits.shape)}')
