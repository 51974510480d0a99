"""Self-distillation: the teacher, a moving average of the student, and the two views of a batch.

Source: v1 = arXiv 2206.14868 (Venkataramanan, Kijak, Amsaleg, Avrithis), section 3.3.
"""
import logging
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

import torch
import torch.distributed as dist
import torch.nn as nn
from timm.utils import ModelEmaV3

from .._timm_compat import rounding_generator
from ..checks import UsageError
from .base import StepModel

_logger = logging.getLogger(__name__)
_WARN_AFTER = 100  # batches without `update_ema`


class Teacher(nn.Module):
    """The teacher f': timm's ModelEmaV3 of the student, without gradient.

    It is always in eval mode: no dropout, and batch norms use running statistics, which are averaged like the weights.
    The first update makes it equal to the student (timm's rule if updates are counted). Without `warmup` it then needs
    about 1 / (1 - decay) updates, with batch norm several times as many, to be more than an early state of the student.
    With `warmup` the decay grows from 0, by timm's schedule. `forward(module, images)` returns logits of the average.

    Raises:
        ValueError: If the weights are float16, which is too coarse for the average.
    """

    def __init__(
            self, student: nn.Module, forward: Callable[[nn.Module, torch.Tensor], torch.Tensor], decay: float,
            warmup: bool = False,
    ):
        super().__init__()
        if any(parameter.dtype == torch.float16 for parameter in student.parameters()):
            raise UsageError(
                f'teacher_decay needs a model of float32 or bfloat16 weights, got float16 and teacher_decay={decay!r}')
        self.was_updated = False  # True after the first update
        self._num_batches = 0
        self.ema = ModelEmaV3(student, decay=decay, use_warmup=warmup)
        self.requires_grad_(False).eval()
        self._forward = forward

    def train(self, mode: bool = True) -> 'Teacher':
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self._forward(self.ema.module, images)

    def update(self, student: nn.Module, step: Optional[int] = None) -> None:
        """Move towards the student; `step` counts the optimizer's updates from 1 (None: decay without warm-up).

        Raises:
            ValueError: If the student has another number of parameters than when the teacher was made.
        """
        counts = [len(list(module.parameters())) for module in (self.ema.module, student)]
        if counts[0] != counts[1]:
            raise UsageError(
                f'the model has {counts[1]} parameter tensors, its teacher {counts[0]}: change the model before the '
                'task is built')
        self.ema.update(student, step=step)
        self.was_updated = True

    def warn_if_never_updated(self) -> None:
        """Warn, once, if the loop seems not to update the teacher; to be called for each batch."""
        self._num_batches += 1  # not in forward, as torch.compile would specialise on it
        if self._num_batches == _WARN_AFTER and not self.was_updated:
            _logger.warning(
                f'The teacher has not been updated in {_WARN_AFTER} batches: the loop must call '
                'task.update_ema(step) after each update of the optimizer.')

    @torch.no_grad()
    def share(self, *, weights: bool) -> None:
        """Copy batch norm statistics from the first process to all, as DDP does for the student; or also weights."""
        module = self.ema.module
        parameters = dict(module.named_parameters())
        groups: Dict[torch.dtype, List[torch.Tensor]] = {}  # one message for each dtype
        for name, tensor in module.state_dict().items():
            if weights or (name not in parameters and tensor.is_floating_point()):
                groups.setdefault(tensor.dtype, []).append(tensor)
        for group in groups.values():
            flat = torch.cat([tensor.flatten() for tensor in group])
            dist.broadcast(flat, src=0)
            for tensor, part in zip(group, flat.split([tensor.numel() for tensor in group])):
                tensor.copy_(part.view_as(tensor))

    @property
    def model(self) -> nn.Module:
        """The plain timm model that is averaged."""
        module = self.ema.module
        return module.model if isinstance(module, StepModel) else module

    def get_state(self) -> Dict[str, Any]:
        """Return what resuming needs: the weights, with the plain model's keys, and the state of bfloat16 rounding."""
        state = {'state_dict': self.model.state_dict()}
        generator = rounding_generator(self.ema)
        if generator and any(tensor.dtype == torch.bfloat16 for tensor in state['state_dict'].values()):
            state['rounding'] = generator.get_state()
        return state

    def load_state(self, state: Dict[str, Any]) -> None:
        self.model.load_state_dict(state['state_dict'])
        generator, saved = rounding_generator(self.ema), state.get('rounding')
        # a state of another shape is from another kind of device
        if generator and saved is not None and saved.shape == generator.get_state().shape:
            generator.set_state(saved)


def split_views(
        images: Union[torch.Tensor, Sequence[torch.Tensor]], batch_size: int, single_view: bool = False,
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Return the student's and the teacher's view, `[b, ch, h, w]` each.

    `images` are `[2b, ch, h, w]`, all of the student's and then all of the teacher's, or a pair of `[b, ch, h, w]`, or
    with `single_view` `[b, ch, h, w]` for both.

    Raises:
        ValueError: If the number of images does not match.
    """
    views = images.split(batch_size) if isinstance(images, torch.Tensor) else images
    if single_view:
        views = (images, images)
    shapes = [list(view.shape) if isinstance(view, torch.Tensor) else type(view).__name__ for view in views]
    if len(views) != 2 or any(shape[:1] != [batch_size] for shape in shapes):
        raise UsageError(
            f'input must hold two views of {batch_size} images, [{2 * batch_size}, ...] or a pair of tensors, or with '
            f'single_view=True {batch_size} images; got {shapes}')
    return views
