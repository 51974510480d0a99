"""The criterion of loss, head and tasks: which ones are cross-entropy, and how the others are called on mixed rows."""
import functools
import numbers
from typing import Callable, Optional, Tuple

import timm.loss
import torch
import torch.nn as nn
import torch.nn.functional as F

from .checks import UsageError, check_number

_TARGET_ERRORS = (AssertionError, IndexError, RuntimeError, TypeError, ValueError)


def _timm_losses(*names: str) -> Tuple[type, ...]:
    return tuple(getattr(timm.loss, name) for name in names if hasattr(timm.loss, name))  # older ones lack some


_CROSS_ENTROPY = (nn.CrossEntropyLoss, *_timm_losses('SoftTargetCrossEntropy', 'LabelSmoothingCrossEntropy'))
_SMOOTHS_LABELS = _timm_losses('BinaryCrossEntropy', 'PolyCrossEntropy')
_WITH_ELEMENT_WEIGHTS = (nn.BCEWithLogitsLoss, *_timm_losses('BinaryCrossEntropy'))
_REFUSED = {
    'it takes probabilities, and MultiMix mixes logits': (nn.BCELoss, nn.KLDivLoss, nn.NLLLoss),
    'it takes class indices only': _timm_losses('AsymmetricLossSingleLabel'),
    'it takes targets of 0 and 1 only': _timm_losses('TwoWayLoss', 'ZlprLoss'),
    'it compares augmented copies of a batch': _timm_losses('JsdCrossEntropy'),
}


def resolve_criterion(
        criterion: Optional[Callable],
        label_smoothing: Optional[float] = None,
) -> Tuple[Optional[Callable], float]:
    """Return the criterion for rows of logits and soft targets, and the label smoothing of the targets.

    A criterion is cross-entropy, or another one that is known, if it is an instance of the very class, without hooks or
    a forward of its own; of a subclass nothing is assumed.

    Args:
        criterion: None for cross-entropy, or a callable.
        label_smoothing: None for that of the criterion, else 0.

    Returns:
        The criterion, or None if it is cross-entropy without class weights; and the smoothing of the targets before
        they are mixed.

    Raises:
        ValueError: If the criterion cannot be used on mixed rows, or label smoothing is given twice.
    """
    if isinstance(criterion, type) or not (criterion is None or callable(criterion)):
        raise UsageError(f'criterion must be None or callable, and not a class, got {criterion!r}')
    if criterion is F.cross_entropy:
        criterion = nn.CrossEntropyLoss()
    elif isinstance(criterion, functools.partial) and criterion.func is F.cross_entropy and not criterion.args:
        criterion = nn.CrossEntropyLoss(**criterion.keywords)
    for reason, kinds in _REFUSED.items():
        if _is(criterion, kinds):
            raise UsageError(f'criterion must take mixed logits and soft targets, got {one_line(criterion)}: {reason}')
    # timm's sum over classes is still a mean over rows
    reduction = 'mean' if getattr(criterion, 'sum_classes', False) else getattr(criterion, 'reduction', 'mean')
    if isinstance(reduction, str) and reduction not in ('mean', 'batchmean'):
        raise UsageError(f"criterion must average over rows, reduction='mean', got {reduction!r}")
    ignored = getattr(criterion, 'ignore_index', -100)
    if isinstance(ignored, int) and ignored >= 0:
        raise UsageError(f'criterion must not ignore a class, because labels are mixed, got ignore_index={ignored}')
    for name in ('weight', 'pos_weight') if _is(criterion, _WITH_ELEMENT_WEIGHTS) else ():
        weight = getattr(criterion, name)
        if weight is not None and weight.ndim > 1 and len(weight) > 1:
            raise UsageError(f'{name} of the criterion must be [c], one for each class, got {list(weight.shape)}')

    own = _own_smoothing(criterion)
    smoothing = one_smoothing(label_smoothing, own, 'criterion')
    is_weighted = class_weight(criterion) is not None
    if is_weighted and label_smoothing:
        raise UsageError(
            f'label_smoothing must be that of the criterion if this has class weights, got {label_smoothing!r}')
    if criterion is None or _is(criterion, _CROSS_ENTROPY) and not is_weighted:
        return None, smoothing
    return criterion, smoothing if smooths_labels(criterion) or not own else 0.


def one_smoothing(label_smoothing: Optional[float], other: float, source: str) -> float:
    """Return the one of both that is given; `source` says where the other is from."""
    other = check_number('label_smoothing', other, high=1.)
    if label_smoothing is None:
        return other
    if other:
        raise UsageError(
            f'label_smoothing is given twice, {label_smoothing!r} and {other!r} by {source}; give one of them')
    return check_number('label_smoothing', label_smoothing, high=1.)


def smooths_labels(criterion: Optional[Callable]) -> bool:
    """Return whether the criterion has smoothing for class indices alone: soft targets are to be smoothed before."""
    return _is(criterion, _SMOOTHS_LABELS) and bool(criterion.smoothing) and not _smooths_rows(criterion)


def smooths_itself(criterion: Optional[Callable]) -> bool:
    """Return whether the criterion, if it is not plain cross-entropy, smooths whatever targets it gets."""
    return bool(_own_smoothing(criterion)) and not smooths_labels(criterion)


def _own_smoothing(criterion: Optional[Callable]) -> float:
    own = getattr(criterion, 'label_smoothing', None) or getattr(criterion, 'smoothing', None)
    return own if isinstance(own, numbers.Real) else 0.


def class_weight(criterion: Optional[Callable]) -> Optional[torch.Tensor]:
    """Return the class weights `[c]` of torch's cross-entropy."""
    return criterion.weight if _is(criterion, (nn.CrossEntropyLoss,)) else None


def mean_over_rows(criterion: Callable, logits: torch.Tensor, target: torch.Tensor, from_labels: bool) -> torch.Tensor:
    """Return the value of a criterion that is not plain cross-entropy.

    Torch's weighted cross-entropy divides by the sum of the weights of the labels, but for soft targets by their
    number. Targets that come from labels are divided by Σ_k ỹ_kᵀw, which is the former if nothing is mixed.

    Args:
        logits: `[N, c]`.
        target: `[N, c]`, or for class weights also `[N]`.
        from_labels: The user's targets were class indices.

    Raises:
        ValueError: If the criterion does not take soft targets, or returns more than one number.
    """
    weight = class_weight(criterion)
    if weight is not None and len(weight) != logits.shape[1]:
        raise UsageError(f'weight of the criterion must have {logits.shape[1]} classes, got {len(weight)}')
    if from_labels and _smooths_rows(criterion):
        raise UsageError(
            f'target must be [b, c] for a criterion with smooth_dense, got class indices for {one_line(criterion)}')
    try:
        loss = criterion(logits, target.long() if target.ndim == 1 else target)
    except _TARGET_ERRORS as error:
        reason = _reason(criterion, logits.detach()[:2], target[:2])
        if reason is None:
            raise
        raise UsageError(
            f'criterion must take logits {list(logits.shape)} and targets {list(target.shape)}, '
            f'got {one_line(criterion)}: {reason}') from error
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        what = f'shape {list(loss.shape)}' if isinstance(loss, torch.Tensor) else type(loss).__name__
        raise UsageError(f'criterion must average over rows and return one number, got {what} of {one_line(criterion)}')
    if weight is None or not from_labels or target.ndim == 1:
        return loss
    return loss * (len(target) / (target @ weight.to(target.dtype)).sum())


def one_line(thing: object) -> str:
    return ' '.join(str(thing).split())


def _is(criterion: object, kinds: Tuple[type, ...]) -> bool:
    if type(criterion) not in kinds:
        return False
    return not ('forward' in vars(criterion) or criterion._forward_hooks or criterion._forward_pre_hooks)


def _smooths_rows(criterion: Callable) -> bool:
    return bool(getattr(criterion, 'smooth_dense', False) and criterion.smoothing)


def _reason(criterion: Callable, logits: torch.Tensor, target: torch.Tensor) -> Optional[str]:
    """Say why the criterion fails on two rows, in one line; None if it does not."""
    try:
        criterion(logits, target)
        return None
    except _TARGET_ERRORS as error:
        reason = f'{one_line(error)[:200]} ({type(error).__name__})'
    try:
        criterion(logits, target.argmax(dim=-1))
        return 'it takes class indices only'
    except _TARGET_ERRORS:
        return reason
