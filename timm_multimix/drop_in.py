"""A drop-in replacement for `timm.data.Mixup`."""
import logging
import types
from dataclasses import dataclass, replace
from typing import Any, Dict, Optional, Sequence, Tuple

import torch
import torch.nn as nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import get_worker_info
from typing_extensions import Unpack

from .checks import UsageError, check_integer, check_several_classes, check_target
from .embeddings import check_classifier
from .functional import soft_targets
from .head import HeadOutput, MultiMixHead
from .input_mixing import InputMixing
from .loss import MultiMixLoss
from .pending_targets import PendingTargets, StaleTargets
from .rows import mix, mixed_rows, row_counts
from .settings import DropInArguments, Settings

_logger = logging.getLogger(__name__)
_COPIES = 6  # approximate memory of a criterion and its gradient, in copies of the rows


class MultiMix:
    """Drop-in replacement for `timm.data.Mixup` that mixes embeddings in an unchanged training loop.

    ```python
    mixup_fn = MultiMix(num_classes=1000).attach(model)
    loss_fn = SoftTargetCrossEntropy()
    for x, y in loader:
        x, y = mixup_fn(x, y)           # y: soft targets [N, c]
        loss = loss_fn(model(x), y)     # in train mode the model returns mixed logits [N, c]
    ```

    The N rows are mixed rows and, for `clean_weight`, copies of the clean batch. N is close to the number of tuples of
    the loss (see `rows.row_counts`) and is logged at the first batch. Every row goes to the criterion, so
    timm's SoftTargetCrossEntropy and BinaryCrossEntropy work as they are. `MultiMixTask` and `MultiMixHead` compute the
    loss faster, without rows. Inputs are never changed, and any batch size >= 1 works.

    Dense targets depend on the attention, so in mode 'dense-multimix' `y` has no values before `model(x)` fills it in:
    until then every operation on it, even a copy, is an error. After `model(x)`, `clean_logits` holds the ordinary
    logits `[b, c]` of the images, without gradient, for train accuracy; it is None if the images were mixed.

    In eval mode the model is untouched, and this object returns the images and their soft targets. So is a copy of the
    model, in train mode too. A second training forward of the same batch is an error, unless `reuse` is set.
    `nn.DataParallel` and calls in a worker of a DataLoader are not supported.

    Args:
        mixup_alpha: Mixup of the images is active if > 0. Unlike in timm it is off by default: embeddings are mixed.
        label_smoothing: Label smoothing of the targets, applied once.
        num_classes: Number of classes c.
        multi_label: Targets are multi-hot `[b, c]`; smoothing then pulls each label towards 0.5.
        reuse: Let every training forward until the next call mix the same batch with the same tuples, as SAM, LBFGS and
            activation checkpointing of the whole model need.
        **arguments: Of `Settings`, like the others above: num_tuples, alpha, length, concentration, clean_weight,
            strength, attention, activation, attention_grad, input_size, input_prob. For strength 'auto', save
            `state_dict()` in your checkpoints.

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
            reuse: bool = False,
            **arguments: Unpack[DropInArguments],
    ):
        self._settings = Settings.of(
            MultiMix, DropInArguments, arguments, mixup_alpha=mixup_alpha, cutmix_alpha=cutmix_alpha,
            cutmix_minmax=cutmix_minmax, prob=prob, switch_prob=switch_prob, mode=mode, correct_lam=correct_lam,
            label_smoothing=label_smoothing, multi_label=multi_label)
        self.num_classes = check_integer('num_classes', num_classes)
        if not multi_label:
            check_several_classes('num_classes', self.num_classes, 'multi_label=True, and targets [b, 1]')
        self.reuse = reuse
        self.mixup_enabled = True
        self.input_mixing = InputMixing(self.settings)
        # without label smoothing: targets are smoothed before they are mixed
        self.loss = MultiMixLoss(settings=replace(self.settings, label_smoothing=None, strength=1.))
        self.clean_logits: Optional[torch.Tensor] = None
        self.model: Optional[nn.Module] = None
        self._head: Optional[MultiMixHead] = None
        self._batch: Optional[_Batch] = None
        self._num_positions: Dict[torch.Size, int] = {}
        self._has_logged = False

    @property
    def settings(self) -> Settings:
        return self._settings

    def __repr__(self) -> str:
        state = 'not attached' if self.model is None else f'attached to {type(self.model).__name__}'
        return f'MultiMix(num_classes={self.num_classes}, reuse={self.reuse}, {self.settings}, {state})'

    def __getstate__(self) -> Dict[str, Any]:
        # a copy, such as an average of the weights, is not in the middle of a step
        return {**vars(self), '_batch': None, 'clean_logits': None}

    def state_dict(self) -> Dict[str, Any]:
        """Return what resuming needs: the state of `strength='auto'`."""
        return self.input_mixing.state_dict()

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        self.input_mixing.load_state_dict(state)

    def attach(self, model: nn.Module) -> 'MultiMix':
        """Make `model(x)` return mixed logits in train mode, for the last batch that this object was called with.

        Call it on the bare model, before DistributedDataParallel or torch.compile. `detach` undoes it.

        Args:
            model: For mode 'multimix' any module that returns logits; for 'dense-multimix' a timm model.

        Raises:
            ValueError: If the model does not support the mode, has another number of classes or is attached already.
        """
        if isinstance(model, (nn.DataParallel, DistributedDataParallel)) or hasattr(model, '_orig_mod'):
            raise UsageError(
                f'attach to the bare model, not to {type(model).__name__}: attach before torch.compile and '
                'DistributedDataParallel; nn.DataParallel is not supported: use DistributedDataParallel')
        check_classifier(model)
        num_classes = getattr(model, 'num_classes', None)
        if isinstance(num_classes, int) and num_classes != self.num_classes:
            raise UsageError(
                f'num_classes must be that of the model, {num_classes}, got {self.num_classes}; if its classifier was '
                f'replaced, set model.num_classes = {self.num_classes}')
        if 'forward' in vars(model):
            raise UsageError(f'{type(model).__name__} already has a replaced forward; detach what was attached to it')
        if self.model is not None:
            raise UsageError('this MultiMix is attached to a model already; call detach() first')
        if self.settings.mode == 'dense-multimix':
            self._head = _AttachedHead(model, settings=self.loss.settings)
        self.model = model
        _logger.info(f'{self.settings.describe(None if self._head is None else self._head.dense.example_positions)}.')
        # a bound method, so that deepcopy and pickle of the model rebind it to the copy
        model.forward = types.MethodType(MultiMix._training_forward, self)
        return self

    def detach(self) -> None:
        """Restore the model's own forward."""
        if self.model is not None:
            del self.model.forward
            self.model = self._head = self._batch = self.clean_logits = None
            self._num_positions, self._has_logged = {}, False

    @torch.compiler.disable
    def __call__(self, x: torch.Tensor, target: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        """Draw how the batch is mixed, for the next forward of the model.

        Args:
            x: Images `[b, ch, h, w]`.
            target: `[b]` class indices or `[b, c]` soft targets.

        Returns:
            The images, unchanged or mixed, and soft targets: `[N, c]` if embeddings are mixed, else `[b, c]`.

        Raises:
            ValueError: If no model is attached, the target does not fit, or this is a worker of a DataLoader.
        """
        if get_worker_info() is not None:
            raise UsageError(
                'call x, y = mixup_fn(x, y) in the training loop, not in collate_fn or a dataset: it prepares the next '
                'forward of the model, and a worker of a DataLoader has another copy of it')
        if self.model is None:
            raise UsageError(
                f"mode '{self.settings.mode}' mixes inside the model; call attach(model) before the first batch")
        if self.settings.multi_label:
            target = target.float()  # multi-hot targets of any dtype, as timm's Mixup accepts
        check_target(target, x.shape[0], self.num_classes)
        if self._batch is not None and not self._batch.seen and self._batch.rows is not None:
            self._batch.rows.__class__ = StaleTargets
        what = 'none'
        if self.mixup_enabled and self.model.training:
            what = self.input_mixing.draw(None if self._head is None else self.model)
            if self.settings.is_adaptive:  # a mistake shows at the first batch, though mixing may begin much later
                row_counts(self.loss, len(x), self._positions(x))
        is_smooth = what == 'none' or not self.settings.is_adaptive
        smoothing = (self.settings.label_smoothing or 0.) if is_smooth else 0.
        soft_target = soft_targets(target, self.num_classes, smoothing, multi_label=self.settings.multi_label)
        if what == 'embeddings':
            self._batch = self._prepare(x, target, soft_target)
            return x, self._batch.rows
        self._batch = _Batch(what, target)
        if what == 'none':
            return x, soft_target
        mixed = self.input_mixing.mix(x)
        return mixed.images, mixed.mix_target(soft_target)

    def _prepare(self, x: torch.Tensor, target: torch.Tensor, soft_target: torch.Tensor) -> '_Batch':
        batch_size, num_classes = soft_target.shape
        positions = self._positions(x)
        num_tuples, clean_copies = row_counts(self.loss, batch_size, positions)
        num_rows = num_tuples * (positions or 1) + batch_size * clean_copies
        if not self._has_logged:
            self._has_logged = True
            num_bytes = num_rows * num_classes * soft_target.element_size()
            _logger.info(
                f'MultiMix makes {num_rows:,} rows of {num_classes:,} classes from a batch of {batch_size}; with the '
                f'criterion and its gradient they take about {_COPIES * num_bytes / 2 ** 20:,.0f} MiB.')
        if positions is None:
            lam = self.loss.sample_weights(soft_target, num_tuples=num_tuples)
            return _Batch('embeddings', target, soft_target, mixed_rows(self.loss, lam, soft_target, soft_target), lam)
        empty = soft_target.new_full((), float('nan')).expand(num_rows, num_classes)
        rows = torch.Tensor._make_subclass(PendingTargets, empty)  # not a view, as as_subclass makes
        return _Batch('embeddings', target, soft_target, rows, num_tuples=num_tuples)

    def _positions(self, x: torch.Tensor) -> Optional[int]:
        """Return the number of positions r for images of this size, found by a forward on one image; None if pooled."""
        if self._head is None:
            return None
        if x.shape[1:] not in self._num_positions:
            self._num_positions[x.shape[1:]] = self._head.dense.num_positions(x[:1])
        return self._num_positions[x.shape[1:]]

    def _training_forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Run the attached model; where it mixes embeddings, return the mixed rows `[N, c]` and fill the targets."""
        model, batch = self.model, self._batch
        forward = types.MethodType(type(model).forward, model)
        if not model.training:
            return forward(x, *args, **kwargs)
        if batch is None or batch.seen and not self.mixup_enabled:
            logits = forward(x, *args, **kwargs)
            self.clean_logits = logits.detach()
            return logits
        if batch.seen and not self.reuse:
            raise UsageError(
                'the model has already run on this batch: call x, y = mixup_fn(x, y) before every training forward; '
                'for forwards without mixing, such as those of update_bn, detach() first; for optimizers such as SAM '
                'and LBFGS use MultiMix(reuse=True)')
        if len(batch.target) != len(x):
            raise UsageError(
                f'x must be the batch that was mixed last, of {len(batch.target)} images, got {len(x)}; '
                'nn.DataParallel, which splits batches, is not supported: use DistributedDataParallel')
        if batch.what == 'embeddings' and self._head is not None:
            outputs = self._head.outputs(model.forward_features(x), batch.target)
        else:
            outputs = HeadOutput(forward(x, *args, **kwargs))
        logits = self._mixed_logits(batch, outputs) if batch.what == 'embeddings' else outputs.clean_logits
        self.clean_logits = None if batch.what == 'images' else outputs.clean_logits.detach()
        if not batch.counted:
            batch.counted = self.input_mixing.observe(outputs.clean_logits, batch.target, batch.what == 'images')
        batch.seen = True
        return logits

    @torch.compiler.disable
    def _mixed_logits(self, batch: '_Batch', outputs: HeadOutput) -> torch.Tensor:
        """Return the mixed logits `[N, c]`, and in the dense form fill in the targets."""
        inputs = outputs.loss_inputs(batch.soft_target)
        logits = inputs['logits']
        if self._head is None:
            self.loss.check_inputs(logits, batch.soft_target)
            return mixed_rows(self.loss, batch.lam.to(logits.device), logits, logits)
        if batch.lam is None:
            batch.lam = self.loss.sample_weights(logits, num_tuples=batch.num_tuples)
        mixed_logits, mixed_target = mix(self.loss, **inputs, lam=batch.lam)
        batch.rows.__class__ = torch.Tensor
        batch.rows.data = mixed_target.detach().to(batch.rows)
        if mixed_target.requires_grad:  # attention_grad: the targets depend on the attention too
            batch.rows.detach_().copy_(mixed_target)
        return mixed_logits


class _AttachedHead(MultiMixHead):
    _in_call = True


@dataclass
class _Batch:
    """A batch between `mixup_fn(x, y)` and `model(x)`; in the dense form the first forward draws Λ."""
    what: str
    target: torch.Tensor
    soft_target: Optional[torch.Tensor] = None
    rows: Optional[torch.Tensor] = None
    lam: Optional[torch.Tensor] = None
    num_tuples: int = 0
    seen: bool = False
    counted: bool = False  # not by a forward without gradient, as under checkpoint(use_reentrant=True)
