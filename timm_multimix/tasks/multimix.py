"""MultiMix as a `timm.task` training task."""
import logging
from dataclasses import replace
from typing import Any, Callable, Dict, Optional, Union

import torch
import torch.nn as nn
from timm.task import MultiLabelClassificationEvaluator
from timm.utils import unwrap_model
from typing_extensions import Unpack

from ..checks import UsageError, check_floats, check_target
from ..distributed import gather_batches
from ..functional import soft_targets
from ..head import HeadOutput, MultiMixHead
from ..input_mixing import InputMixing, MixedImages
from ..loss import MultiMixLoss
from ..settings import Settings, TaskArguments
from .base import StepModel, StepTask
from .distillation import Teacher, split_views

_logger = logging.getLogger(__name__)


class MultiMixTask(StepTask):
    """Training task: the model, MultiMix (arXiv 2311.05538) and its fast loss.

    ```python
    task = MultiMixTask(model, mode='dense-multimix', mixup_alpha=1., label_smoothing=0.1)
    result = task(images, target)
    result['loss'].backward()
    ```

    Checkpoints hold the plain timm model. DDP, torch.compile, EMA and evaluation are those of `ClassificationTask`. In
    eval mode the loss is the plain criterion. If image mixing is on (`mixup_alpha` or `cutmix_alpha` > 0), each batch
    has either its images mixed, as by timm's Mixup and under the plain criterion, or its embeddings.

    `teacher_decay` turns self-distillation on (arXiv 2206.14868, section 3.3): the mixed loss becomes γ·H(ΛY, p) +
    (1 - γ)·H(p', p), where p' is from a moving average of the model on a second view of every image. The loop must call
    `update_ema(step)` after each update of the optimizer. Without `setup_ema` the teacher is also the task's EMA model.

    Args:
        model: For mode 'multimix' any module that returns logits; for 'dense-multimix' a timm model.
        criterion: None, or cross-entropy of torch or timm, for the fast exact loss; any other mean-reduced criterion
            for `(logits [N, c], soft targets [N, c])`, see `MultiMixLoss`.
        criterion_kwargs: For timm's create_classification_loss if criterion is None, such as `loss_type`.
        device: Device of the criterion.
        dtype: Dtype of task tensors.
        verbose: Log what was built.
        **arguments: All of `Settings`. With `multi_label`, as for timm's MultiLabelClassificationTask, the criterion is
            binary cross-entropy if `criterion_kwargs` names no other, and evaluation is that of timm's task.

    Raises:
        ValueError: If an argument is out of range or the model does not support the mode.
    """

    def __init__(
            self,
            model: nn.Module,
            criterion: Optional[Union[nn.Module, Callable]] = None,
            criterion_kwargs: Optional[Dict[str, Any]] = None,
            *,
            device: Optional[torch.device] = None,
            dtype: Optional[torch.dtype] = None,
            verbose: bool = True,
            **arguments: Unpack[TaskArguments],
    ):
        settings = Settings.of(MultiMixTask, TaskArguments, arguments)
        self.multi_label, self.gather = settings.multi_label, settings.gather
        super().__init__(
            model, criterion, criterion_kwargs, settings.label_smoothing, device, dtype=dtype, verbose=verbose)
        has_teacher = settings.teacher_decay is not None
        if not has_teacher and arguments.get('gamma') is not None:
            raise UsageError(
                f'gamma needs teacher_decay, which turns self-distillation on, got gamma={settings.gamma!r}')
        if has_teacher and not self.is_cross_entropy:
            raise UsageError(
                'teacher_decay needs cross-entropy as the criterion, and not multi_label, '
                f'got {settings.teacher_decay!r}')
        smoothing = self.given_smoothing
        if self.multi_label:  # labels are smoothed in forward
            self.label_smoothing, smoothing = smoothing or 0., None
        loss_settings, positions = replace(settings, label_smoothing=smoothing), None
        if settings.mode == 'multimix':
            self.loss = MultiMixLoss(criterion=self.criterion, settings=loss_settings)
        else:
            head = MultiMixHead(model, criterion=self.criterion, settings=loss_settings)
            self.loss, positions = head.loss, head.dense.example_positions
            self.trainable_module = _DenseModel(model, head)
        self.input_mixing = InputMixing(settings, self.loss.strength)
        # in force, for the example input
        self._settings = replace(settings, label_smoothing=self.label_smoothing, num_tuples=settings.tuples(positions))
        self.teacher = None
        self._shares_buffers = False
        if has_teacher:
            forward = nn.Module.__call__ if settings.mode == 'multimix' else _DenseModel.dense_logits
            self.teacher = Teacher(self.trainable_module, forward, settings.teacher_decay, settings.teacher_warmup)
        if self.verbose:
            _logger.info(f'{self.settings.describe(positions)}.')

    @property
    def settings(self) -> Settings:
        return self._settings

    def extra_repr(self) -> str:
        criterion = '' if self.loss.criterion is None else f', criterion={self.loss.criterion}'
        return f'{self.settings}{criterion}'

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> Dict[str, torch.Tensor]:
        """Compute the loss of one training step.

        Args:
            input: Images `[b, ch, h, w]`. In training with a teacher and without `single_view`, two views of them:
                `[2b, ch, h, w]`, all of the student's and then all of the teacher's, or a pair.
            target: `[b]` class indices or `[b, c]` soft targets; with `multi_label` the latter.

        Returns:
            'loss'; 'output', the logits `[b, c]` of the images, for train accuracy. In training also 'mixed_loss' and
            'clean_loss', the parts of the loss, if embeddings were mixed; otherwise 'input_mixed', True if the images
            were mixed. In such a batch the teacher has no part.
        """
        if self.multi_label:
            check_floats('target of multi_label=True', target, 'bc')
            target = soft_targets(target, target.shape[1], self.label_smoothing, multi_label=True)
        if not self.training:
            output = self.trainable_module(input)
            return {'loss': self._plain_loss(output, target), 'output': output}
        if self.teacher is not None:
            input, teacher_input = split_views(input, len(target), self.settings.single_view)
        what = self._draw()
        if what != 'embeddings':
            result = self._plain_step(input, target, what)
        else:
            teacher_kwargs = {}
            if self.teacher is not None and self.loss.settings.gamma < 1.:  # before the student's activations are kept
                teacher_kwargs['teacher_logits'] = self.teacher(teacher_input)
                self.teacher.warn_if_never_updated()
            if self.settings.mode == 'dense-multimix':
                head = unwrap_model(self.trainable_module).head
                head.refresh()  # a compiled step does not
                outputs = self.trainable_module(input, target)
                head.dense.warn_if_single(outputs.dense_logits.shape[1])
            else:
                outputs = HeadOutput(self.trainable_module(input))
            inputs = {**outputs.loss_inputs(target), **teacher_kwargs}
            if self.gather:
                inputs = {name: gather_batches(tensor) for name, tensor in inputs.items()}
            result = {**self.loss.terms(**inputs), 'output': outputs.clean_logits}
        self.loss.warn_without_gradient(result['loss'], what == 'embeddings')
        if self.mixup_enabled:
            self.input_mixing.observe(result['output'], target, what == 'images')
        return result

    def _plain_loss(
            self, output: torch.Tensor, target: torch.Tensor, mixed: Optional[MixedImages] = None) -> torch.Tensor:
        check_target(target, *output.shape)
        return self.loss.plain(output, target, None if mixed is None else mixed.mix_target)

    def create_evaluator(self, **kwargs):
        if self.multi_label:
            return MultiLabelClassificationEvaluator(device=self.device, **kwargs)
        return super().create_evaluator(**kwargs)

    def compile(self, backend: str = 'inductor', mode: Optional[str] = None, **compile_kwargs) -> nn.Module:
        if self.teacher is not None:
            self.teacher.compile(backend=backend, mode=mode, **compile_kwargs)
        return super().compile(backend=backend, mode=mode, **compile_kwargs)

    def get_trainable_module(self, ema: bool = False) -> Optional[nn.Module]:
        module = super().get_trainable_module(ema)
        return self.teacher.ema if ema and module is None and self.teacher is not None else module

    def prepare_distributed(self, device_ids: Optional[list] = None, **ddp_kwargs: Any) -> 'MultiMixTask':
        if self.teacher is not None:  # DDP shares the student only
            self.teacher.share(weights=True)
            self._shares_buffers = ddp_kwargs.get('broadcast_buffers', True)
        return super().prepare_distributed(device_ids=device_ids, **ddp_kwargs)

    def update_ema(self, step: Optional[int] = None) -> None:
        """Move the EMA model and the teacher; `step` counts the optimizer's updates from 1."""
        if self.teacher is None or self.get_trainable_module(ema=True) is not self.teacher.ema:
            super().update_ema(step)
        if self.teacher is not None:
            self.teacher.update(unwrap_model(self.trainable_module), step)
            if self._shares_buffers:
                self.teacher.share(weights=False)

    def _state(self) -> Dict[str, Any]:
        teacher = {} if self.teacher is None else {'teacher': self.teacher.get_state()}
        return {**teacher, **self.input_mixing.state_dict()}

    def _load_state(self, state: Dict[str, Any]) -> None:
        self.input_mixing.load_state_dict(state)
        if 'teacher' in state and self.teacher is not None:
            self.teacher.load_state(state['teacher'])
        elif self.teacher is not None:  # from a run without a teacher: it starts equal to the student
            self.teacher.ema.set(unwrap_model(self.trainable_module))


class _DenseModel(StepModel):
    """Features and head in one forward."""

    def __init__(self, model: nn.Module, head: MultiMixHead):
        super().__init__(model)
        self.__dict__['head'] = head  # not a submodule: an average of the weights needs no strength 'auto'

    def forward(self, input: torch.Tensor, target: Optional[torch.Tensor] = None) -> Union[HeadOutput, torch.Tensor]:
        if target is None:
            return self.model(input)
        return self.head.outputs(self.model.forward_features(input), target)

    def dense_logits(self, input: torch.Tensor) -> torch.Tensor:
        return self.head.dense(self.model.forward_features(input))[0]
