"""Checks of what a user passes in: every error names the argument, what it was and what is allowed."""
import math
import numbers
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Mapping, Optional, Sequence, Tuple, Union

import numpy as np
import torch

Alpha = Union[float, Tuple[float, float]]
_looks_at_values = ContextVar('looks_at_values', default=True)


def check_choice(name: str, value: object, allowed: Sequence[str]) -> None:
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f'{name} must be one of {", ".join(map(repr, allowed))}, got {value!r}')


def check_flag(name: str, value: object) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f'{name} must be True or False, got {value!r}')
    return bool(value)


def check_integer(name: str, value: object, low: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ValueError(f'{name} must be an integer >= {low}, got {value!r}')
    if value < low:
        raise ValueError(f'{name} must be >= {low}, got {value}')
    if value >= 2 ** 31:
        raise ValueError(f'{name} must be < 2 ** 31, got {value}')
    return int(value)


def check_number(name: str, value: object, low: float = 0., high: float = math.inf, *, open_low: bool = False) -> float:
    bounds = f'{"> " if open_low else ">= "}{low:g}' + ('' if high == math.inf else f' and <= {high:g}')
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not _is_finite(value):
        raise ValueError(f'{name} must be a finite number {bounds}, got {value!r}')
    if value > high or value < low or (open_low and value == low):
        raise ValueError(f'{name} must be {bounds}, got {value!r}')
    return float(value)


def _is_finite(value: numbers.Real) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float can hold
        return False


def refuse_gamma(kwargs: Mapping[str, object], name: str) -> None:
    """Of the arguments of a loss, γ means nothing where there is no teacher."""
    if 'gamma' in kwargs:
        raise ValueError(
            f'gamma is not an argument of {name}, which has no teacher; MultiMixTask has one, got {kwargs["gamma"]!r}')


def check_device(device: object, name: str = 'device') -> torch.device:
    """A device by name, or as it is; that it is there is for torch to say."""
    try:
        if isinstance(device, bool) or not isinstance(device, (str, int, torch.device)):
            raise TypeError(f'it is a {type(device).__name__}')
        return torch.device(device)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{name} must be a torch.device or the name of one, such as 'cpu', got {device!r}") from error


def check_generator(generator: object) -> None:
    if generator is not None and not isinstance(generator, torch.Generator):
        raise ValueError(f'generator must be a torch.Generator or None, got {generator!r}')


def check_dtype(dtype: object, name: str = 'dtype') -> torch.dtype:
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f'{name} must be a floating-point type of torch, got {dtype!r}')
    return dtype


def check_input_size(input_size: object) -> None:
    """None, or `(channels, height, width)`."""
    if input_size is None:
        return
    sizes = input_size if isinstance(input_size, (tuple, list)) else ()
    if len(sizes) != 3 or not all(isinstance(n, numbers.Integral) and 0 < n < 2 ** 31 for n in sizes):
        raise ValueError(f'input_size must be (channels, height, width), integers >= 1, got {input_size!r}')


def check_pair_of_shares(name: str, pair: object) -> None:
    """None, or `(min, max)` with 0 <= min < max <= 1."""
    if pair is None:
        return
    numeric = isinstance(pair, (tuple, list)) and len(pair) == 2 and all(isinstance(x, numbers.Real) for x in pair)
    if not numeric or not 0. <= pair[0] < pair[1] <= 1.:
        raise ValueError(f'{name} must be (min, max) with 0 <= min < max <= 1, got {pair!r}')


def check_alpha(alpha: object, name: str = 'alpha') -> Alpha:
    """A Dirichlet concentration: a number > 0, or a (low, high) range of them; a range of one value is that value."""
    if isinstance(alpha, (tuple, list)):
        if len(alpha) != 2:
            raise ValueError(f'{name} must be a number > 0 or a (low, high) range, got {alpha!r}')
        low, high = (check_number(f'{name}[{i}]', a, open_low=True) for i, a in enumerate(alpha))
        if low > high:
            raise ValueError(f'{name} must be a range (low, high) with low <= high, got {alpha!r}')
        return low if low == high else (low, high)
    return check_number(name, alpha, open_low=True)


def check_alpha_tensor(alpha: torch.Tensor) -> None:
    """A scalar > 0 (looked at on the CPU only)."""
    if alpha.numel() != 1 or not alpha.is_floating_point():
        raise ValueError(f'alpha must be one floating-point number > 0, got {alpha.dtype} of shape {list(alpha.shape)}')
    if alpha.device.type == 'cpu':
        check_number('alpha', float(alpha), open_low=True)


def check_tensor(name: str, value: object) -> None:
    if not isinstance(value, torch.Tensor):
        raise ValueError(f'{name} must be a tensor, got {type(value).__name__}')


def check_target(target: torch.Tensor, batch_size: int, num_classes: int) -> None:
    """Class indices `[b]` in 0..c-1, or soft targets `[b, c]` without a negative or non-finite value.

    Values are looked at on the CPU only: on an accelerator it would make the host wait for the device at every step.
    """
    check_tensor('target', target)
    allowed = f'[{batch_size}] class indices or [{batch_size}, {num_classes}] soft targets'
    if target.ndim == 1 and target.shape[0] == batch_size:
        if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
            raise ValueError(f'target must hold integer class indices when it has one dimension, got {target.dtype}')
        if target.device.type == 'cpu' and target.numel():
            low, high = int(target.min()), int(target.max())
            if low < 0 or high >= num_classes:
                raise ValueError(
                    f'target must hold class indices in 0..{num_classes - 1} (the logits have {num_classes} classes), '
                    f'got {low if low < 0 else high}')
    elif target.ndim == 2 and tuple(target.shape) == (batch_size, num_classes):
        if not target.is_floating_point():
            raise ValueError(f'soft targets must be floating-point, got {target.dtype}')
        if target.device.type == 'cpu' and not bool((torch.isfinite(target) & (target >= 0)).all()):
            raise ValueError('soft targets must be finite and >= 0, got a negative, infinite or NaN value')
    else:
        raise ValueError(f'target must be {allowed}, got shape {list(target.shape)}')


@contextmanager
def any_values():
    """Let NaN and infinities pass on the CPU too, for a loop that meets them itself."""
    token = _looks_at_values.set(False)
    try:
        yield
    finally:
        _looks_at_values.reset(token)


def check_finite(name: str, value: torch.Tensor) -> None:
    """Refuse NaN and infinities on the CPU; on an accelerator they reach the loss, where loss scaling meets them."""
    if not _looks_at_values.get() or value.device.type != 'cpu' or bool(torch.isfinite(value.detach().sum())):
        return  # a sum of finite values may overflow, so that it is looked at each of them then
    bad = int((~torch.isfinite(value)).sum())
    if bad:
        raise ValueError(f'{name} must be finite, got {bad} NaN or infinite values of {value.numel()}')


def check_float_tensor(name: str, value: object, ndim: Optional[Sequence[int]] = None, form: str = '') -> None:
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        kind = value.dtype if isinstance(value, torch.Tensor) else type(value).__name__
        raise ValueError(f'{name} must be a floating-point tensor{" " + form if form else ""}, got {kind}')
    if ndim is not None and value.ndim not in ndim:
        raise ValueError(f'{name} must be {form}, got shape {list(value.shape)}')


def check_logits(logits: object) -> None:
    """`[b, c]` or `[b, r, c]`, not empty, finite."""
    check_float_tensor('logits', logits, (2, 3), '[b, c] or [b, r, c]')
    if 0 in logits.shape:
        raise ValueError(f'logits must not be empty, got shape {list(logits.shape)}')
    check_finite('logits', logits)


def check_teacher_logits(teacher_logits: object, logits: torch.Tensor) -> None:
    """None, or finite logits in the shape of the student's."""
    if teacher_logits is None:
        return
    form = str(list(logits.shape))
    check_float_tensor('teacher_logits', teacher_logits, (logits.ndim,), form)
    if teacher_logits.shape != logits.shape:
        raise ValueError(
            f'teacher_logits must be {form}, as the logits are, got shape {list(teacher_logits.shape)}')
    check_finite('teacher_logits', teacher_logits)


def check_kwargs(name: str, kwargs: object) -> None:
    """None, or a dictionary of arguments by name."""
    if kwargs is not None and not (isinstance(kwargs, dict) and all(isinstance(key, str) for key in kwargs)):
        raise ValueError(f'{name} must be a dictionary of arguments by name, got {kwargs!r}')


def check_criterion(criterion: object) -> object:
    """None, or a callable that does not say that it sums or keeps the rows."""
    if criterion is not None and not callable(criterion):
        raise ValueError(f'criterion must be None or callable, got {criterion!r}')
    # timm's sum over classes is still a mean over rows
    reduction = 'mean' if getattr(criterion, 'sum_classes', False) else getattr(criterion, 'reduction', 'mean')
    if isinstance(reduction, str) and reduction not in ('mean', 'batchmean'):
        raise ValueError(f"criterion must average over rows, reduction='mean', got {reduction!r}")
    return criterion


def check_attention(attention: object, batch_size: int, num_positions: int) -> None:
    """`[b, r]`, finite and >= 0 (values are looked at on the CPU only)."""
    form = f'[b, r] = [{batch_size}, {num_positions}]'
    check_float_tensor('attention', attention, (2,), form)
    if tuple(attention.shape) != (batch_size, num_positions):
        raise ValueError(f'attention must be {form}, got {list(attention.shape)}')
    check_finite('attention', attention)
    if attention.device.type == 'cpu' and bool((attention < 0).any()):
        raise ValueError(f'attention must be >= 0, got {attention.min().item():g}')


def check_loss_inputs(
        logits: torch.Tensor,
        target: torch.Tensor,
        attention: Optional[torch.Tensor],
        clean_logits: Optional[torch.Tensor],
        length: Optional[int],
) -> None:
    """What `MultiMixLoss.forward` is given, and that the batch is long enough."""
    check_logits(logits)
    check_target(target, logits.shape[0], logits.shape[-1])
    if clean_logits is not None:
        expected = [logits.shape[0], logits.shape[-1]]
        check_float_tensor('clean_logits', clean_logits, (2,), f'[b, c] = {expected}')
        if list(clean_logits.shape) != expected:
            raise ValueError(f'clean_logits must be [b, c] = {expected}, got {list(clean_logits.shape)}')
        check_finite('clean_logits', clean_logits)
    if attention is not None:
        if logits.ndim != 3:
            raise ValueError(f'attention needs dense logits [b, r, c], got logits of shape {list(logits.shape)}')
        check_attention(attention, *logits.shape[:2])
    if length is not None and length > logits.shape[0]:
        raise ValueError(f'length must be at most the batch size ({logits.shape[0]}), got {length}')
