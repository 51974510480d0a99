"""MultiMix as a loss on any model's own logits."""
import logging
from typing import Any, Callable, Dict, Iterator, Optional

import torch
import torch.nn as nn
import torch.nn.functional as F
from typing_extensions import Unpack

from . import functional
from .checks import UsageError, check_floats, check_logits, check_several_classes, check_target, not_compiled
from .criteria import class_weight, mean_over_rows, one_line, resolve_criterion, smooths_itself, smooths_labels
from .distributed import num_processes
from .ops.saturate import saturate
from .ops.triton_impl import check_triton
from .sampling import check_length
from .settings import LossArguments, Settings, former_attribute
from .strength import create_strength, draw

_logger = logging.getLogger(__name__)

# Number of weights sampled at a time over all positions, to bound memory for large n; matrix products of fewer rows
# per position than the minimum are slow.
_BLOCK_ELEMENTS = {'cpu': 1 << 17}
_BLOCK_ELEMENTS_ACCELERATOR = 1 << 26
_MIN_BLOCK_ROWS = 256


class MultiMixLoss(nn.Module):
    """Cross-entropy of n tuples of the batch, each mixed by its own Dirichlet vector (arXiv 2311.05538, section 3).

    ```python
    criterion = MultiMixLoss()
    logits = model(images)              # the model as it is, no hooks
    criterion(logits, target).backward()
    ```

    The loss is (mixed + w·clean) / (1 + w), where w is `clean_weight`. It is a mean, on the scale of plain
    cross-entropy, so that the same learning rates work. Memory does not grow with `num_tuples`. Sampling is seeded by
    `torch.manual_seed`. In eval mode the loss is the plain criterion on the clean logits, with label smoothing. The
    mode is its own: validation needs `criterion.eval()` as well as `model.eval()`.

    Under torch.compile the loss is one graph break, because numpy draws Λ (several with strength 'auto');
    `fullgraph=True` says so.

    Args:
        num_tuples: Number of tuples n per step, see `Settings`.
        criterion: None, or cross-entropy of torch or timm, for the fast exact loss. Any other mean-reduced criterion
            for `(logits [N, c], soft targets [N, c])` gets every mixed row, which takes more time and memory; class
            weights of torch's cross-entropy keep its weighted mean.
        settings: Settings to use in place of keyword arguments.
        **arguments: Of `Settings`: alpha, length, concentration, clean_weight, label_smoothing, implementation, gamma
            and strength, here the probability that `forward` mixes a batch; otherwise it is the plain criterion. For
            strength 'auto', save `state_dict()` in your checkpoints.

    Raises:
        ValueError: If an argument is out of range, or the criterion cannot be used on mixed rows.
    """
    _has_warned = False
    num_tuples, alpha, length, concentration, clean_weight, implementation, gamma = map(former_attribute, (
        'num_tuples', 'alpha', 'length', 'concentration', 'clean_weight', 'implementation', 'gamma'))

    def __init__(
            self,
            num_tuples: Optional[int] = None,
            *,
            criterion: Optional[Callable] = None,
            settings: Optional[Settings] = None,
            **arguments: Unpack[LossArguments],
    ):
        super().__init__()
        if settings is not None and (arguments or num_tuples is not None):
            raise UsageError(f'pass settings or keyword arguments, not both; got {arguments}, num_tuples={num_tuples}')
        self._settings = settings or Settings.of(MultiMixLoss, LossArguments, arguments, num_tuples=num_tuples)
        self.criterion, self.label_smoothing = resolve_criterion(criterion, self.settings.label_smoothing)
        if self.settings.is_adaptive and smooths_itself(self.criterion):
            raise UsageError(
                "strength 'auto' leaves label smoothing out of mixed batches, so the criterion must not have its own, "
                f'got {one_line(self.criterion)}')
        self.strength = create_strength(self.settings.strength)
        self.register_load_state_dict_pre_hook(_with_or_without_strength)

    @property
    def settings(self) -> Settings:
        return self._settings

    @settings.setter
    def settings(self, settings: Settings) -> None:
        for name in ('strength', 'label_smoothing'):  # which only a new loss takes
            own, given = getattr(self._settings, name), getattr(settings, name)
            if given != own:
                raise UsageError(f'{name} must stay {own!r}, got {given!r}: build another loss')
        self._settings = settings

    def extra_repr(self) -> str:
        listed = self.settings.listed('num_tuples', 'alpha', 'length', 'concentration', 'clean_weight', 'gamma')
        strength = '' if self.settings.is_adaptive else f', strength={self.settings.strength:g}'
        return f'{listed}, label_smoothing={self.label_smoothing:g}{strength}'

    def forward(
            self,
            logits: torch.Tensor,
            target: torch.Tensor,
            attention: Optional[torch.Tensor] = None,
            clean_logits: Optional[torch.Tensor] = None,
            teacher_logits: Optional[torch.Tensor] = None,
    ) -> torch.Tensor:
        """Compute the loss.

        Args:
            logits: `[b, c]`, or `[b, r, c]` at r positions for Dense MultiMix.
            target: `[b]` class indices or `[b, c]` soft targets.
            attention: `[b, r]`, for dense logits; None for uniform.
            clean_logits: `[b, c]`, the logits used at test time, for the clean term of the dense form. None for the
                mean over the positions, which is the same for average pooling and a linear classifier.
            teacher_logits: The teacher's logits, in the shape of `logits`, without gradient; None for no teacher. They
                are mixed with the student's weights and attention.

        Returns:
            Scalar loss in at least float32. It and its gradient are finite for all finite bfloat16 logits; a term above
            1e30, which only logits of that size can give, is clipped, but its gradient is not.

        Raises:
            ValueError: If shapes do not fit, labels are out of range, values are not finite (checked on the CPU only),
                `length` exceeds the batch size, cross-entropy gets a single class, or another criterion a teacher.
        """
        is_mixed = self.training and self.is_mixed()
        if is_mixed or not self.training:
            loss = self.terms(logits, target, attention, clean_logits, teacher_logits)['loss']
        else:
            self.check_inputs(logits, target, attention, clean_logits)
            loss = self.plain(pooled_logits(logits, clean_logits), target)
        self.warn_without_gradient(loss, is_mixed)
        self.observe(pooled_logits(logits, clean_logits), target)
        return loss

    def is_mixed(self, model: Optional[nn.Module] = None) -> bool:
        """Draw whether to mix the next batch, see `strength.draw`; a strength of 0 or 1 needs no random number."""
        share = self.strength.value
        return share == 1. or share > 0. and draw(share, model=model) == 'embeddings'

    def observe(self, clean_logits: torch.Tensor, target: torch.Tensor) -> None:
        """Let strength 'auto' count a training batch; `forward` does so."""
        if self.training and self.settings.is_adaptive:
            self.strength.observe(clean_logits, target)

    def warn_without_gradient(self, loss: torch.Tensor, is_mixed: bool) -> None:
        """Warn, once, of train mode where nothing is trained, as in validation, if batches are or may become mixed."""
        warns = self.training and not loss.requires_grad and (is_mixed or self.settings.is_adaptive)
        if warns and not self._has_warned:
            self._has_warned = True
            _logger.warning(
                'The MultiMix loss, head or task is in train mode, but nothing has a gradient. For validation call its '
                'own eval(), and train() before training again: model.eval() does not change its mode.')

    @not_compiled('numpy draws the weights of the tuples')  # one graph break, instead of one at each draw and chunk
    def terms(
            self, logits: torch.Tensor, target: torch.Tensor, attention: Optional[torch.Tensor] = None,
            clean_logits: Optional[torch.Tensor] = None, teacher_logits: Optional[torch.Tensor] = None,
    ) -> Dict[str, torch.Tensor]:
        """Return 'loss' and its parts: 'mixed_loss' in train mode, 'clean_loss' if it has a part in the loss.

        It mixes every training batch, whatever the strength.
        """
        is_fast = self.training and self.criterion is None
        self.check_inputs(logits, target, attention, clean_logits, finite=not is_fast)  # the fast loss checks
        if not self.training:
            clean = self.plain(pooled_logits(logits, clean_logits), target)
            return {'loss': clean, 'clean_loss': clean}
        if teacher_logits is not None and self.criterion is not None:
            raise UsageError(
                f'teacher_logits need the criterion to be cross-entropy (None), got {one_line(self.criterion)}')
        if self.criterion is None:
            _check_several_classes(logits)
            learned = attention is not None and attention.requires_grad
            implementation = self.settings.implementation
            mixed = functional.mixed_cross_entropy(
                logits, target, self._weight_blocks(logits, attention), label_smoothing=self._smoothing(mixed=True),
                teacher_logits=teacher_logits, gamma=self.settings.gamma,
                implementation='reference' if learned and implementation == 'auto' else implementation)
        else:
            weights = self.sample_weights(logits, attention)
            soft_target = self.smooth_target(target, logits, mixed=True)
            rows = (functional.interpolate(weights, values).flatten(0, -2) for values in (logits, soft_target))
            mixed = mean_over_rows(self.criterion, *rows, from_labels=target.ndim == 1)
        weight = self.settings.clean_weight
        if not weight:
            return {'loss': mixed, 'mixed_loss': mixed}
        clean = self.plain(pooled_logits(logits, clean_logits), target, mixed=True)
        loss = (mixed + weight * clean) / (1. + weight)
        return {'loss': loss, 'mixed_loss': mixed, 'clean_loss': clean}

    def check_inputs(self, logits, target, attention=None, clean_logits=None, finite=True) -> None:
        check_logits(logits, finite)
        batch_size, num_classes = logits.shape[0], logits.shape[-1]
        check_target(target, batch_size, num_classes)
        if clean_logits is not None:
            check_floats('clean_logits', clean_logits, (batch_size, num_classes), finite=True)
        if attention is not None and logits.ndim != 3:
            raise UsageError(f'attention needs dense logits [b, r, c], got logits of shape {list(logits.shape)}')
        if attention is not None:
            check_floats('attention', attention, logits.shape[:2], finite=True)
            if attention.device.type == 'cpu' and bool((attention < 0).any()):
                raise UsageError(f'attention must be >= 0, got {attention.min().item():g}')

    def sample_weights(
            self, logits: torch.Tensor, attention: Optional[torch.Tensor] = None, num_tuples: Optional[int] = None,
    ) -> torch.Tensor:
        """Sample all weights of one step, `[n, b]` or `[r, n, b]`, as the loss draws them from the same seed."""
        return torch.cat(list(self._weight_blocks(logits, attention, num_tuples)), dim=-2)

    def smooth_target(self, target: torch.Tensor, logits: torch.Tensor, mixed: bool = False) -> torch.Tensor:
        """Return soft targets `[b, c]` with the label smoothing of this batch, which is mixed or not."""
        is_smooth = target.ndim == 2 and smooths_labels(self.criterion)
        return functional.soft_targets(
            target, logits.shape[-1], 0. if is_smooth else self._smoothing(mixed),
            dtype=torch.float64 if logits.dtype == torch.float64 else torch.float32)

    def _smoothing(self, mixed: bool) -> float:
        return 0. if mixed and self.settings.is_adaptive else self.label_smoothing

    def plain(
            self, logits: torch.Tensor, target: torch.Tensor, mix_target: Optional[Callable] = None,
            mixed: bool = False,
    ) -> torch.Tensor:
        """Return the criterion on logits `[b, c]`, with the label smoothing of a batch that is mixed or not.

        `mix_target` mixes soft targets as the images were mixed.
        """
        logits, from_labels = functional.at_least_float32(logits), target.ndim == 1
        if self.training and self.settings.is_adaptive:  # at the first batch, though mixing may begin much later
            check_length(self.settings.length, len(logits) * (num_processes() if self.settings.gather else 1))
            if self.criterion is None and self.settings.implementation == 'triton':
                check_triton(logits)
        mixed = mixed or mix_target is not None
        is_weighted = class_weight(self.criterion) is not None
        takes_labels = from_labels and (is_weighted or self.criterion is None and not self._smoothing(mixed))
        if mix_target is not None or not takes_labels:
            target = self.smooth_target(target, logits, mixed)
        if mix_target is not None:
            target = mix_target(target)
        if self.criterion is not None:
            return mean_over_rows(self.criterion, logits, target, from_labels)
        _check_several_classes(logits)
        log_probabilities = saturate(logits.log_softmax(dim=-1))
        if target.ndim == 1:
            return F.nll_loss(log_probabilities, target.long())
        return -(target * log_probabilities).sum(dim=-1).mean()

    def _weight_blocks(
            self, logits: torch.Tensor, attention: Optional[torch.Tensor], num_tuples: Optional[int] = None,
    ) -> Iterator[torch.Tensor]:
        batch_size, device = logits.shape[0], logits.device
        positions = logits.shape[1] if logits.ndim == 3 else None
        num_tuples = num_tuples or self.settings.tuples(positions)
        alpha = functional.draw_alpha(self.settings.alpha, device=device)
        budget = _BLOCK_ELEMENTS.get(device.type, _BLOCK_ELEMENTS_ACCELERATOR)
        block = max(budget // (batch_size * (positions or 1)), _MIN_BLOCK_ROWS)
        for start in range(0, num_tuples, block):
            lam = functional.sample_dirichlet(
                min(block, num_tuples - start), batch_size, alpha, concentration=self.settings.concentration,
                length=self.settings.length, positions=positions, device=device,
                dtype=torch.float64 if logits.dtype == torch.float64 else torch.float32)
            yield lam if attention is None else functional.dense_weights(lam, attention)


def _with_or_without_strength(loss: MultiMixLoss, state_dict: Dict[str, Any], prefix: str, *_: Any) -> None:
    """Let a state of strength 'auto' be loaded without it, as for validation, and the reverse."""
    key = f'{prefix}strength._extra_state'
    if loss.settings.is_adaptive:
        state_dict.setdefault(key, loss.strength.get_extra_state())
    else:
        state_dict.pop(key, None)


def _check_several_classes(logits: torch.Tensor) -> None:
    check_several_classes('the number of classes', logits.shape[-1], 'criterion=timm.loss.BinaryCrossEntropy()')


def pooled_logits(logits: torch.Tensor, clean_logits: Optional[torch.Tensor]) -> torch.Tensor:
    if logits.ndim == 2:
        return logits
    if clean_logits is not None:
        return clean_logits
    logits = functional.at_least_float32(logits)
    return (logits / logits.shape[1]).sum(dim=1)  # not mean(): a sum of large bfloat16 logits overflows
