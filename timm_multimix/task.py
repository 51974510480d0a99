"""MultiMix as a `timm.task` training task."""
from typing import Any, Callable, Dict, NamedTuple, Optional, Sequence, Tuple, Union

import torch
import torch.nn as nn
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy, create_classification_loss
from timm.task import ClassificationTask, MultiLabelClassificationEvaluator
from timm.utils import unwrap_model

from ._checks import check_choice, check_criterion, check_target
from .embeddings import check_classifier
from .functional import ACTIVATIONS, ATTENTION_KINDS
from .gather import gather_batches
from .head import MODES, HeadOutput, MultiMixHead
from .loss import MultiMixLoss
from .mixup import BatchSwitch


class MultiMixTask(ClassificationTask):
    """Training task: the model, MultiMix and its fast loss.

    ```python
    task = MultiMixTask(model, mode='dense-multimix', criterion_kwargs=dict(smoothing=0.1))
    result = task(images, target)
    result['loss'].backward()
    ```

    Checkpoints hold the plain timm model. DDP, torch.compile, EMA and evaluation are those of `ClassificationTask`.

    Args:
        model: For mode 'multimix' any module that returns logits; for 'dense-multimix' a timm model.
        criterion: None, or cross-entropy of torch or timm, for the fast exact loss; any other mean-reduced criterion
            for `(logits [N, c], soft targets [N, c])` is called on the mixed rows.
        criterion_kwargs: For timm's create_classification_loss where criterion is None, such as `smoothing`.
        mode: 'multimix' or 'dense-multimix'.
        multi_label: Targets are independent labels, floats `[b, c]` in [0, 1], as for timm's
            MultiLabelClassificationTask: the criterion is binary cross-entropy where `criterion_kwargs` names no other,
            smoothing draws each label towards 0.5, and evaluation is that of timm's task.
        gather: Mix over the batches of all processes, with gradient. Every process draws its own tuples; DDP averages
            their losses. All must have batches of one size.
        prob: Probability that a batch is mixed at all.
        switch_prob: Probability that a whole batch gets CutMix of the images instead, where that is active.
        cutmix_alpha: CutMix of the images is active if > 0.
        cutmix_minmax: CutMix with boxes of these (min, max) shares of the image, active if not None.
        correct_lam: Correct CutMix's λ where the image's border clips the box.
        attention, activation, attention_grad, input_size: For the dense mode, see `MultiMixHead`.
        device: Device of the criterion.
        dtype: Dtype of task tensors.
        verbose: Log what was built.
        **loss_kwargs: For `MultiMixLoss`: num_tuples, alpha, length, concentration, clean_weight, implementation.

    Raises:
        ValueError: If an argument is out of range or the model cannot serve the mode.
    """

    def __init__(
            self,
            model: nn.Module,
            criterion: Optional[Union[nn.Module, Callable]] = None,
            criterion_kwargs: Optional[Dict[str, Any]] = None,
            *,
            mode: str = 'multimix',
            multi_label: bool = False,
            gather: bool = False,
            prob: float = 1.,
            switch_prob: float = 0.5,
            cutmix_alpha: float = 0.,
            cutmix_minmax: Optional[Sequence[float]] = None,
            correct_lam: bool = True,
            attention: str = 'gap',
            activation: str = 'relu',
            attention_grad: bool = False,
            input_size: Optional[Tuple[int, int, int]] = None,
            device: Optional[torch.device] = None,
            dtype: Optional[torch.dtype] = None,
            verbose: bool = True,
            **loss_kwargs: Any,
    ):
        check_choice('mode', mode, MODES)
        check_choice('attention', attention, ATTENTION_KINDS)
        check_choice('activation', activation, ACTIVATIONS)
        if 'label_smoothing' in loss_kwargs:
            raise ValueError(
                'label_smoothing is not an argument of MultiMixTask; give criterion_kwargs=dict(smoothing=...), '
                f'got {loss_kwargs["label_smoothing"]!r}')
        check_classifier(model)
        check_criterion(criterion)
        resolved = _resolve_criterion(criterion, criterion_kwargs, multi_label)
        self.multi_label = multi_label
        super().__init__(model, resolved.criterion, device=device, dtype=dtype, verbose=verbose)
        self.mode = mode
        self.gather = gather
        self.multi_label_smoothing = resolved.smoothing if multi_label else 0.
        self.mixup_enabled = True
        self.switch = BatchSwitch(prob, switch_prob, cutmix_alpha, cutmix_minmax, correct_lam)
        loss_kwargs = dict(
            loss_kwargs,
            label_smoothing=0. if multi_label else resolved.smoothing,
            criterion=None if resolved.fast else self.criterion,
        )
        if mode == 'multimix':
            self.loss = MultiMixLoss(**loss_kwargs)
        else:
            head = MultiMixHead(
                model,
                mode,
                attention=attention,
                activation=activation,
                attention_grad=attention_grad,
                input_size=input_size,
                **loss_kwargs,
            )
            self.loss = head.loss
            self.trainable_module = _DenseModel(model, head)

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> Dict[str, torch.Tensor]:
        """One training step's loss.

        Args:
            input: Images `[b, ch, h, w]`.
            target: `[b]` class indices or `[b, c]` soft targets; with `multi_label` the latter.

        Returns:
            'loss'; 'output', the logits `[b, c]` of the images, for train accuracy; 'mixed_loss' and 'clean_loss', the
            parts of the loss, where embeddings were mixed. Else 'input_mixed' says if CutMix changed the images.
        """
        if self.multi_label:
            if target.ndim != 2 or not target.is_floating_point():
                raise ValueError(
                    f'target must be [b, c] of floats with multi_label, got {target.dtype} {list(target.shape)}')
            target = target.lerp(torch.full_like(target, 0.5), self.multi_label_smoothing)
        what = self.switch.draw() if self.mixup_enabled else 'none'
        if what == 'multimix':
            outputs = self.trainable_module(input, target) if self.mode == 'dense-multimix' else \
                HeadOutput(self.trainable_module(input))
            inputs = outputs.loss_inputs(target)
            if self.gather:
                inputs = [None if tensor is None else gather_batches(tensor) for tensor in inputs]
            terms = self.loss.terms(*inputs)
            return {**terms, 'output': outputs.clean_logits}
        lam = 1.
        if what == 'cutmix':
            input, lam = self.switch.cutmix(input)
        output = self.trainable_module(input)
        check_target(target, *output.shape)
        target = self.loss.smooth_target(target, output.shape[-1])
        target = target * lam + target.flip(0) * (1. - lam)
        criterion = self.loss.criterion or SoftTargetCrossEntropy()
        return {'loss': criterion(output.float(), target), 'output': output, 'input_mixed': what == 'cutmix'}

    def create_evaluator(self, **kwargs):
        if self.multi_label:
            return MultiLabelClassificationEvaluator(device=self.device, **kwargs)
        return super().create_evaluator(**kwargs)

    def compile(self, backend: str = 'inductor', mode: Optional[str] = None, **compile_kwargs) -> nn.Module:
        """Compile the training forward, and the model for evaluation; call it before `prepare_distributed`."""
        model = self.get_eval_model()
        super().compile(backend=backend, mode=mode, **compile_kwargs)
        if self.mode == 'dense-multimix':
            self.eval_model = torch.compile(model, backend=backend, mode=mode, **compile_kwargs)
        return self.eval_model

    def get_eval_model(self, module: Optional[nn.Module] = None, ema: bool = False) -> Optional[nn.Module]:
        resolved = super().get_eval_model(module=module, ema=ema)
        inner = unwrap_model(resolved) if resolved is not None else None
        return inner.model if isinstance(inner, _DenseModel) else resolved

    def get_clip_parameters(self, exclude_head: bool = False):
        parameters = list(unwrap_model(self.trainable_module).parameters())
        return parameters[:-2] if exclude_head else parameters


class _DenseModel(nn.Module):
    """What DDP and torch.compile wrap: features and head in one forward. Its only parameters are the model's."""

    def __init__(self, model: nn.Module, head: MultiMixHead):
        super().__init__()
        self.model = model
        self.head = head

    def forward(self, input: torch.Tensor, target: Optional[torch.Tensor] = None) -> Union[HeadOutput, torch.Tensor]:
        if target is None:
            return self.model(input)
        return self.head.outputs(self.model.forward_features(input), target)


class _Criterion(NamedTuple):
    criterion: Union[nn.Module, Callable]
    fast: bool  # it is cross-entropy
    smoothing: float


def _resolve_criterion(
        criterion: Optional[Union[nn.Module, Callable]],
        criterion_kwargs: Optional[Dict[str, Any]],
        multi_label: bool,
) -> _Criterion:
    """The criterion as one of soft targets; label smoothing becomes part of the targets, so that it applies once."""
    if criterion is None:
        kwargs = dict(criterion_kwargs or {})
        smoothing = kwargs.pop('smoothing', None) or 0.
        criterion = create_classification_loss(multi_label=multi_label, soft_targets=True, **kwargs)
        return _Criterion(criterion, isinstance(criterion, SoftTargetCrossEntropy), smoothing)
    if criterion_kwargs:
        raise ValueError(f'pass criterion or criterion_kwargs, not both; got criterion_kwargs {criterion_kwargs!r}')
    if isinstance(criterion, BinaryCrossEntropy) and not criterion.smooth_dense:
        return _Criterion(criterion, False, criterion.smoothing)  # which it applies to class indices alone
    if isinstance(criterion, LabelSmoothingCrossEntropy):
        return _Criterion(criterion, True, criterion.smoothing)
    if isinstance(criterion, nn.CrossEntropyLoss) and criterion.weight is None and criterion.reduction == 'mean':
        return _Criterion(criterion, True, criterion.label_smoothing)
    return _Criterion(criterion, isinstance(criterion, SoftTargetCrossEntropy), 0.)
