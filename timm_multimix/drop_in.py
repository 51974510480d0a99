"""The drop-in for `timm.data.Mixup`."""
import types
from typing import Any, Optional, Sequence, Tuple

import torch
import torch.nn as nn
from timm.data.mixup import mixup_target

from ._checks import (
    Alpha,
    check_choice,
    check_flag,
    check_input_size,
    check_integer,
    check_number,
    check_target,
    refuse_gamma,
)
from .embeddings import check_classifier
from .functional import ACTIVATIONS, ATTENTION_KINDS
from .head import MODES, MultiMixHead
from .input_mixing import BatchSwitch
from .loss import MultiMixLoss


class MultiMix:
    """Drop-in for `timm.data.Mixup` that mixes embeddings: a stock training loop works unchanged.

    ```python
    mixup_fn = MultiMix(num_classes=1000).attach(model)
    loss_fn = SoftTargetCrossEntropy()
    for x, y in loader:
        x, y = mixup_fn(x, y)           # y: soft targets [N, c]
        loss = loss_fn(model(x), y)     # in train mode the model returns mixed logits [N, c]
    ```

    N is the number of tuples (times positions in the dense mode), plus copies of the clean batch for `clean_weight`:
    see `MultiMixLoss.mix`. Every row goes to the criterion, so timm's SoftTargetCrossEntropy and BinaryCrossEntropy
    work as they are. `MultiMixTask` and `MultiMixHead` compute the same loss faster and without N rows (but for the
    rounding of the copies). In eval mode the model is untouched. Inputs are never changed; any batch size >= 1 will do.

    `y` holds NaN until `model(x)` has run, which fills it in place (dense targets depend on the attention): hand the
    criterion that very tensor, not a copy made before.

    Args:
        mixup_alpha: Dirichlet concentration, or a (low, high) range; see `concentration`. None for `alpha`, its name
            in the other classes and in `PAPER`, or where that is not given, for the default of `MultiMixLoss`.
        cutmix_alpha: CutMix alpha; CutMix of the images is active if > 0.
        cutmix_minmax: CutMix with boxes of these (min, max) shares of the image, active if not None.
        prob: Probability that a batch is mixed at all.
        switch_prob: Probability of switching the whole batch to CutMix instead of MultiMix when that is active.
        mode: 'multimix' or 'dense-multimix'.
        correct_lam: Correct CutMix's λ where the image's border clips the box.
        label_smoothing: Label smoothing of the targets, applied once.
        num_classes: Number of classes c.
        multi_label: Targets are multi-hot `[b, c]`; smoothing then draws each label towards 0.5.
        **kwargs: For `MultiMixHead` and `MultiMixLoss`: num_tuples, length, concentration, clean_weight, attention,
            activation, attention_grad, input_size.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
            self,
            mixup_alpha: Optional[Alpha] = None,
            cutmix_alpha: float = 0.,
            cutmix_minmax: Optional[Sequence[float]] = None,
            prob: float = 1.0,
            switch_prob: float = 0.5,
            mode: str = 'multimix',
            correct_lam: bool = True,
            label_smoothing: float = 0.1,
            num_classes: int = 1000,
            multi_label: bool = False,
            **kwargs: Any,
    ):
        check_choice('mode', mode, MODES)
        self.mode = mode
        self.label_smoothing = check_number('label_smoothing', label_smoothing, high=1.)
        self.num_classes = check_integer('num_classes', num_classes)
        self.multi_label = check_flag('multi_label', multi_label)
        self.mixup_enabled = True
        self.switch = BatchSwitch(prob, switch_prob, cutmix_alpha, cutmix_minmax, correct_lam)
        # smoothing happens to the targets, before they are mixed
        if 'criterion' in kwargs:
            raise ValueError(
                'criterion is not an argument of MultiMix; give the criterion of the loop, got '
                f'{kwargs["criterion"]!r}')
        if mixup_alpha is not None:
            if 'alpha' in kwargs:
                raise ValueError(
                    f'alpha and mixup_alpha are one argument of MultiMix; give one of them, got {kwargs["alpha"]!r} '
                    f'and {mixup_alpha!r}')
            kwargs['alpha'] = mixup_alpha
        refuse_gamma(kwargs, 'MultiMix')
        check_choice('attention', kwargs.get('attention', 'gap'), ATTENTION_KINDS)
        check_choice('activation', kwargs.get('activation', 'relu'), ACTIVATIONS)
        check_flag('attention_grad', kwargs.get('attention_grad', False))
        check_input_size(kwargs.get('input_size'))
        head_names = ('attention', 'activation', 'attention_grad', 'input_size')
        self._head_kwargs = {name: kwargs.pop(name) for name in head_names if name in kwargs}
        self._loss_kwargs = kwargs
        self.loss = MultiMixLoss(**self._loss_kwargs)
        self._forward: Optional[_AttachedForward] = None

    def attach(self, model: nn.Module) -> 'MultiMix':
        """Make `model(x)` return mixed logits in train mode, for the batch that last went through this object.

        Call it on the bare model, before DistributedDataParallel or torch.compile. `detach` undoes it.

        Args:
            model: For mode 'multimix' any module that returns logits; for 'dense-multimix' a timm model.

        Raises:
            ValueError: If the model cannot serve the mode, has another number of classes, or is attached already.
        """
        check_classifier(model)
        num_classes = getattr(model, 'num_classes', None)
        if isinstance(num_classes, int) and num_classes != self.num_classes:
            raise ValueError(f'num_classes must be that of the model, {num_classes}, got {self.num_classes}')
        if 'forward' in vars(model):
            raise ValueError(f'{type(model).__name__} already has a forward of its own; detach what was attached to it')
        if self._forward is not None:
            raise ValueError('this MultiMix is attached to a model already; call detach() first')
        head = None
        if self.mode == 'dense-multimix':
            head = MultiMixHead(model, self.mode, **self._head_kwargs, **self._loss_kwargs)
        self._forward = _AttachedForward(model, self.loss, head)
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
            The images, as they are or cut into each other, and soft targets: `[N, c]` for MultiMix, else `[b, c]`.

        Raises:
            ValueError: If no model is attached, or the target does not fit.
        """
        if self._forward is None:
            raise ValueError(f"mode '{self.mode}' mixes inside the model; call attach(model) before the first batch")
        if self.multi_label:
            target = target.float()  # as timm's Mixup takes them: multi-hot, of any type
        check_target(target, x.shape[0], self.num_classes)
        what = self.switch.draw() if self.mixup_enabled else 'none'
        self._forward.pending = None
        if what == 'multimix':
            return x, self._forward.prepare(x, target, self._soft_target(target))
        lam = 1.
        if what == 'cutmix':
            x, lam = self.switch.cutmix(x)
        target = self._soft_target(target)
        return x, target * lam + target.flip(0) * (1. - lam)

    def _soft_target(self, target: torch.Tensor) -> torch.Tensor:
        if target.ndim == 1 or self.multi_label:
            return mixup_target(target, self.num_classes, 1., self.label_smoothing, self.multi_label)
        return target * (1. - self.label_smoothing) + self.label_smoothing / self.num_classes


class _AttachedForward:
    """The training forward of an attached model: ordinary logits in, mixed rows out."""

    def __init__(self, model: nn.Module, loss: MultiMixLoss, head: Optional[MultiMixHead]):
        self.model = model
        self.loss = loss
        self.head = head
        self.pending: Optional[Tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = None
        self._num_positions = {}

    def prepare(self, x: torch.Tensor, target: torch.Tensor, soft_target: torch.Tensor) -> torch.Tensor:
        """The tensor of mixed targets that the next forward fills."""
        batch_size, num_classes = soft_target.shape
        num_mixed = self.loss.num_tuples * (1 if self.head is None else self._positions(x))
        copies_mixed, copies_clean = self.loss.row_copies(num_mixed, batch_size)
        rows = soft_target.new_full((num_mixed * copies_mixed + batch_size * copies_clean, num_classes), float('nan'))
        self.pending = target, soft_target, rows
        return rows

    def run(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        forward = types.MethodType(type(self.model).forward, self.model)
        if not self.model.training or self.pending is None:
            return forward(x, *args, **kwargs)
        (target, soft_target, rows), self.pending = self.pending, None
        if target.shape[0] != x.shape[0]:
            raise ValueError(
                f'x must be the batch that was mixed last, of {target.shape[0]} images, got {x.shape[0]}')
        if self.head is None:
            mixed_logits, mixed_target = self.loss.mix(forward(x, *args, **kwargs), soft_target)
        else:
            outputs = self.head.outputs(self.model.forward_features(x), target)
            mixed_logits, mixed_target = self.loss.mix(**outputs.loss_inputs(soft_target))
        rows.copy_(mixed_target.detach())
        return mixed_logits

    def _positions(self, x: torch.Tensor) -> int:
        """Number of positions r that the model has for images of this size, found by one small forward."""
        if x.shape[1:] not in self._num_positions:
            self._num_positions[x.shape[1:]] = self.head.dense.num_positions(x[:1])
        return self._num_positions[x.shape[1:]]
