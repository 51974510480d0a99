"""Shared by the training tasks: a module that runs a whole training step, and the criterion."""
from typing import Any, Dict, Optional

import torch
import torch.nn as nn
from timm.loss import create_classification_loss
from timm.task import ClassificationTask
from timm.utils import unwrap_model

from ..checks import UsageError, call_library
from ..criteria import one_smoothing, resolve_criterion
from ..embeddings import check_classifier
from ..input_mixing import InputMixing


class StepModel(nn.Module):
    """Module for DDP and torch.compile to wrap: all passes of a step in one forward. Its parameters are the model's."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model


class StepTask(ClassificationTask):
    """A classification task whose trainable module may be a `StepModel`; the model inside is evaluated and saved.

    Subclasses set `input_mixing`, and `gather` if processes mix together. They define `_plain_loss`, the criterion on
    the logits of images, mixed or not, and `_state` and `_load_state` for what resuming needs in addition to the model.
    """
    input_mixing: InputMixing
    gather = False
    mixup_enabled = True

    def __init__(self, model, criterion, criterion_kwargs, label_smoothing, device, **kwargs: Any):
        check_classifier(model)
        if criterion is not None and criterion_kwargs:
            raise UsageError(f'pass criterion or criterion_kwargs, not both; got criterion_kwargs {criterion_kwargs!r}')
        if criterion is None:
            timm_kwargs = dict(criterion_kwargs or {})
            smoothing = timm_kwargs.pop('smoothing', None) or 0.
            label_smoothing = one_smoothing(label_smoothing, smoothing, 'criterion_kwargs')
            criterion = call_library(
                f'criterion_kwargs {timm_kwargs}', create_classification_loss, multi_label=self.multi_label,
                soft_targets=True, **timm_kwargs)
        resolved, self.label_smoothing = resolve_criterion(criterion, label_smoothing)
        self.is_cross_entropy = resolved is None
        self.given_smoothing = label_smoothing
        super().__init__(model, criterion, device=None if device is None else torch.device(device), **kwargs)

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.extra_repr()}) of {self.get_eval_model()}'

    def compile(self, backend: str = 'inductor', mode: Optional[str] = None, **compile_kwargs) -> nn.Module:
        """Compile the training forward, and the model for evaluation; call it before `prepare_distributed`."""
        model, is_step = self.get_eval_model(), isinstance(self.trainable_module, StepModel)
        super().compile(backend=backend, mode=mode, **compile_kwargs)
        if is_step:
            self.eval_model = torch.compile(model, backend=backend, mode=mode, **compile_kwargs)
        return self.eval_model

    def get_eval_model(self, module: Optional[nn.Module] = None, ema: bool = False) -> Optional[nn.Module]:
        resolved = super().get_eval_model(module=module, ema=ema)
        inner = unwrap_model(resolved) if resolved is not None else None
        return inner.model if isinstance(inner, StepModel) else resolved

    def get_task_state(self, module: Optional[nn.Module] = None, ema: bool = False) -> Dict[str, Any]:
        return {} if ema else self._state()

    def load_task_state(
            self, state: Optional[Dict[str, Any]], strict: bool = True, module: Optional[nn.Module] = None,
            ema: bool = False,
    ) -> None:
        if not ema:
            self._load_state(state or {})

    def _plain_step(self, input: torch.Tensor, target: torch.Tensor, what: str) -> Dict[str, torch.Tensor]:
        """Run a step without mixing embeddings: the model on the images, which are mixed if `what` is 'images'."""
        mixed = self.input_mixing.mix(input) if what == 'images' else None
        output = self.trainable_module(input if mixed is None else mixed.images)
        loss = self._plain_loss(output, target, mixed)
        return {'loss': loss, 'output': output, 'input_mixed': mixed is not None}

    def _draw(self) -> str:
        """Draw what is mixed in the next batch."""
        is_mixed = self.training and self.mixup_enabled
        return self.input_mixing.draw(self.trainable_module, self.gather) if is_mixed else 'none'
