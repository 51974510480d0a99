"""The drop-in for `timm.data.Mixup`."""
import logging
import types
from dataclasses import dataclass
from typing import Any, Callable, Dict, Optional, Sequence, Tuple, Union

import torch
import torch.nn as nn
from torch.nn.parallel import DistributedDataParallel

from ._checks import UsageError, check_integer, check_number, check_target
from .embeddings import check_classifier
from .functional import soft_targets
from .head import DenseOptions, MultiMixHead, refuse_arguments
from .input_mixing import InputMixing
from .loss import MultiMixLoss

_logger = logging.getLogger(__name__)
_COPIES = 6  # of the rows that a criterion and its gradient take, about


class MultiMix:
    """Drop-in for `timm.data.Mixup` that mixes embeddings: a stock training loop works unchanged.

    ```python
    mixup_fn = MultiMix(num_classes=1000).attach(model)
    loss_fn = SoftTargetCrossEntropy()
    for x, y in loader:
        x, y = mixup_fn(x, y)           # y: soft targets [N, c]
        loss = loss_fn(model(x), y)     # in train mode the model returns mixed logits [N, c]
    ```

    The N rows are mixed ones and copies of the clean batch for `clean_weight`, together about as many as the tuples of
    the loss (see `MultiMixLoss.row_counts`); the first batch logs how many. Every row goes to the criterion, so timm's
    SoftTargetCrossEntropy and BinaryCrossEntropy work as they are. `MultiMixTask` and `MultiMixHead` compute the loss
    faster and without rows. Inputs are never changed; any batch size >= 1 will do.

    `y` holds NaN until `model(x)` has run, which fills it in place (dense targets depend on the attention): hand the
    criterion that very tensor, not a copy made before. After `model(x)`, `clean_logits` holds the ordinary logits
    `[b, c]` of the images, for train accuracy; it is None where the images were mixed.

    In eval mode the model is untouched, and this object returns the images and their own soft targets. A second
    training forward of a batch is an error, unless `reuse` is set. `nn.DataParallel` is not supported.

    Args:
        mixup_alpha: Mixup of the images is active if > 0. By default it is not, unlike in timm: embeddings are mixed.
        cutmix_alpha: CutMix of the images is active if > 0.
        cutmix_minmax: CutMix with boxes of these (min, max) shares of the image, active if not None.
        prob: Probability that a batch is mixed at all.
        switch_prob: Probability of CutMix instead of Mixup, where both are active.
        mode: 'multimix' or 'dense-multimix'.
        correct_lam: Correct CutMix's λ where the image's border clips the box.
        label_smoothing: Label smoothing of the targets, applied once.
        num_classes: Number of classes c.
        multi_label: Targets are multi-hot `[b, c]`; smoothing then draws each label towards 0.5.
        input_prob: Where image mixing is active, the share of batches whose images are mixed and not their embeddings,
            or 'auto': see `InputMixing`.
        num_batches: Batches that the whole run trains on, for 'auto'. Save `state_dict()` with your checkpoints then.
        reuse: Let every training forward until the next call mix the same batch by the same tuples, as SAM, LBFGS and
            activation checkpointing of the whole model need it.
        **kwargs: For `DenseOptions`: attention, activation, attention_grad, input_size. For `MultiMixLoss`: num_tuples,
            alpha, length, concentration, clean_weight.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
            self,
            mixup_alpha: float = 0.,
            cutmix_alpha: float = 0.,
            cutmix_minmax: Optional[Sequence[float]] = None,
            prob: float = 1.0,
            switch_prob: float = 0.5,
            mode: str = 'multimix',
            correct_lam: bool = True,
            label_smoothing: float = 0.1,
            num_classes: int = 1000,
            multi_label: bool = False,
            *,
            input_prob: Union[float, str] = 0.5,
            num_batches: Optional[int] = None,
            reuse: bool = False,
            **kwargs: Any,
    ):
        self._options = DenseOptions.take(mode, kwargs)
        self.mode = mode
        self.label_smoothing = check_number('label_smoothing', label_smoothing, high=1.)
        self.num_classes = check_integer('num_classes', num_classes)
        self.multi_label = multi_label
        self.reuse = reuse
        self.mixup_enabled = True
        self.input_mixing = InputMixing(
            mixup_alpha, cutmix_alpha, cutmix_minmax, prob, switch_prob, correct_lam, input_prob, num_batches)
        if multi_label and self.input_mixing.found_share is not None:
            raise UsageError("input_prob='auto' follows top-1 accuracy, so it does not go with multi_label=True")
        # smoothing happens to the targets, before they are mixed
        refuse_arguments(
            'MultiMix', kwargs, criterion='the loop has its own', implementation='whose rows are there',
            gamma='MultiMixTask has one, with its teacher')
        self._loss_kwargs = kwargs
        self.loss = MultiMixLoss(**kwargs)
        self._forward: Optional[_AttachedForward] = None

    def __repr__(self) -> str:
        names = ('mode', 'num_classes', 'label_smoothing', 'multi_label', 'reuse')
        own = ', '.join(f'{name}={getattr(self, name)!r}' for name in names)
        state = 'not attached' if self._forward is None else f'attached to {type(self._forward.model).__name__}'
        return f'MultiMix({own}, {self.loss.extra_repr()}; {self.input_mixing}; {state})'

    @property
    def clean_logits(self) -> Optional[torch.Tensor]:
        """Ordinary logits `[b, c]` of the last training forward, without gradient; None where images were mixed."""
        return None if self._forward is None else self._forward.clean_logits

    def state_dict(self) -> Dict[str, Any]:
        """What resuming needs: the share that `input_prob='auto'` has found."""
        return self.input_mixing.state_dict()

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        self.input_mixing.load_state_dict(state)

    def attach(self, model: nn.Module) -> 'MultiMix':
        """Make `model(x)` return mixed logits in train mode, for the batch that last went through this object.

        Call it on the bare model, before DistributedDataParallel or torch.compile. `detach` undoes it.

        Args:
            model: For mode 'multimix' any module that returns logits; for 'dense-multimix' a timm model.

        Raises:
            ValueError: If the model cannot serve the mode, has another number of classes, or is attached already.
        """
        _refuse_wrapped(model)
        check_classifier(model)
        num_classes = getattr(model, 'num_classes', None)
        if isinstance(num_classes, int) and num_classes != self.num_classes:
            raise UsageError(f'num_classes must be that of the model, {num_classes}, got {self.num_classes}')
        if 'forward' in vars(model):
            raise UsageError(f'{type(model).__name__} already has a forward of its own; detach what was attached to it')
        if self._forward is not None:
            raise UsageError('this MultiMix is attached to a model already; call detach() first')
        head = None
        if self.mode == 'dense-multimix':
            head = MultiMixHead(model, self.mode, **vars(self._options), **self._loss_kwargs)
        self._forward = _AttachedForward(self, model, head)
        _logger.info(
            f'{self.mode}: {self.loss.describe() if head is None else head.describe()}, label smoothing '
            f'{self.label_smoothing:g}; {self.input_mixing}.')
        # a bound method, so that deepcopy and pickle of the model rebind it to the copy
        model.forward = types.MethodType(_AttachedForward.run, self._forward)
        return self

    def detach(self) -> None:
        """Give the model its own forward back."""
        if self._forward is not None:
            del self._forward.model.forward
            self._forward = None

    def __call__(self, x: torch.Tensor, target: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        """Draw for the batch what happens to it.

        Args:
            x: Images `[b, ch, h, w]`.
            target: `[b]` class indices or `[b, c]` soft targets.

        Returns:
            The images, as they are or mixed, and soft targets: `[N, c]` where embeddings are mixed, else `[b, c]`.

        Raises:
            ValueError: If no model is attached, or the target does not fit.
        """
        if self._forward is None:
            raise UsageError(f"mode '{self.mode}' mixes inside the model; call attach(model) before the first batch")
        if self.multi_label:
            target = target.float()  # as timm's Mixup takes them: multi-hot, of any type
        check_target(target, x.shape[0], self.num_classes)
        soft_target = soft_targets(target, self.num_classes, self.label_smoothing, multi_label=self.multi_label)
        what = self.input_mixing.draw() if self.mixup_enabled and self._forward.model.training else 'none'
        if what == 'embeddings':
            self._forward.batch = self._forward.prepare(x, target, soft_target)
            return x, self._forward.batch.rows
        self._forward.batch = _Batch(what, target)
        if what == 'none':
            return x, soft_target
        mixed = self.input_mixing.mix(x)
        return mixed.images, mixed.mix_target(soft_target)


def _refuse_wrapped(model: nn.Module) -> None:
    """Attach to the bare model: a wrapper's forward is not its own."""
    if isinstance(model, nn.DataParallel):
        raise UsageError('nn.DataParallel is not supported: use DistributedDataParallel, and attach to the bare model')
    if isinstance(model, DistributedDataParallel):
        raise UsageError('attach to the bare model, before DistributedDataParallel wraps it: attach(model.module)')
    if hasattr(model, '_orig_mod'):
        raise UsageError('attach before torch.compile: torch.compile(model) after MultiMix(...).attach(model)')


@dataclass
class _Batch:
    """A batch between `mixup_fn(x, y)` and `model(x)`: what is mixed of it, its targets, and where embeddings are
    mixed the rows that the forward fills, and Λ from the first forward on."""
    what: str
    target: torch.Tensor
    soft_target: Optional[torch.Tensor] = None
    rows: Optional[torch.Tensor] = None
    lam: Optional[torch.Tensor] = None
    seen: bool = False


class _AttachedForward:
    """The training forward of an attached model: ordinary logits in, mixed rows out."""

    def __init__(self, mixup_fn: MultiMix, model: nn.Module, head: Optional[MultiMixHead]):
        self.mixup_fn = mixup_fn
        self.model = model
        self.head = head
        self.batch: Optional[_Batch] = None
        self.clean_logits: Optional[torch.Tensor] = None
        self._num_positions: Dict[torch.Size, int] = {}
        self._told = False

    def prepare(self, x: torch.Tensor, target: torch.Tensor, soft_target: torch.Tensor) -> _Batch:
        batch_size, num_classes = soft_target.shape
        positions = None if self.head is None else self._positions(x)
        num_tuples, clean_copies = self.mixup_fn.loss.row_counts(batch_size, positions)
        num_rows = num_tuples * (positions or 1) + batch_size * clean_copies
        rows = soft_target.new_full((num_rows, num_classes), float('nan'))
        if not self._told:
            self._told = True
            _logger.info(
                f'MultiMix makes {num_rows:,} rows of {num_classes:,} classes of a batch of {batch_size}; with the '
                f'criterion and its gradient they take about {_COPIES * rows.nbytes / 2 ** 20:,.0f} MiB.')
        return _Batch('embeddings', target, soft_target, rows)

    def run(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        forward = types.MethodType(type(self.model).forward, self.model)
        mixup_fn, batch = self.mixup_fn, self.batch
        if not self.model.training:
            return forward(x, *args, **kwargs)
        if batch is None or not mixup_fn.mixup_enabled:
            logits = forward(x, *args, **kwargs)
            self.clean_logits = logits.detach()
            return logits
        if batch.seen and not mixup_fn.reuse:
            raise UsageError(
                'the batch went through the model already: call x, y = mixup_fn(x, y) before every training forward, '
                'or build MultiMix(reuse=True), as SAM and LBFGS need it')
        if len(batch.target) != len(x):
            raise UsageError(
                f'x must be the batch that was mixed last, of {len(batch.target)} images, got {len(x)}; '
                'nn.DataParallel, which splits batches, is not supported: use DistributedDataParallel')
        if batch.what == 'embeddings':
            clean_logits, logits = self._mixed(batch, x, lambda: forward(x, *args, **kwargs))
        else:
            clean_logits = logits = forward(x, *args, **kwargs)
        self.clean_logits = None if batch.what == 'images' else clean_logits.detach()
        if not batch.seen:
            mixup_fn.input_mixing.observe(self.clean_logits, batch.target)
        batch.seen = True
        return logits

    def _mixed(
            self,
            batch: _Batch,
            x: torch.Tensor,
            forward: Callable[[], torch.Tensor],
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """Ordinary logits `[b, c]` and mixed ones `[N, c]`; fills the rows of the targets."""
        loss, positions = self.mixup_fn.loss, None
        if self.head is None:
            clean_logits = forward()
            inputs = dict(logits=clean_logits, target=batch.soft_target)
        else:
            outputs = self.head.outputs(self.model.forward_features(x), batch.target)
            clean_logits, inputs = outputs.clean_logits, outputs.loss_inputs(batch.soft_target)
            positions = inputs['logits'].shape[1]
        if batch.lam is None:
            batch.lam = loss.sample(inputs['logits'], loss.row_counts(len(x), positions).num_tuples)
        mixed_logits, mixed_target = loss.mix(**inputs, lam=batch.lam)
        batch.rows.copy_(mixed_target.detach())
        return clean_logits, mixed_logits

    def _positions(self, x: torch.Tensor) -> int:
        """Number of positions r that the model has for images of this size, found by one small forward."""
        if x.shape[1:] not in self._num_positions:
            self._num_positions[x.shape[1:]] = self.head.dense.num_positions(x[:1])
        return self._num_positions[x.shape[1:]]
