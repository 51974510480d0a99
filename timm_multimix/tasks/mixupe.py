"""MixupE as a `timm.task` training task."""
import logging
from typing import Any, Callable, Dict, Iterable, Optional, Tuple, Union

import torch
import torch.nn as nn
from timm.loss import SoftTargetCrossEntropy

from ..checks import LARGEST, UsageError, check_floats, check_logits, check_number, check_several_classes, check_target
from ..criteria import one_line
from ..distributed import synchronizes
from ..functional import at_least_float32, soft_targets
from ..input_mixing import InputMixing, MixedImages
from ..settings import Settings
from .base import StepModel, StepTask
from .mixupe_terms import average_image, exact_terms, fast_terms, mixupe_loss

_logger = logging.getLogger(__name__)


class MixupETask(StepTask):
    """Training task: timm's Mixup of the images, mode 'batch', and MixupE's term on the clean batch (arXiv 2212.13381).

    ```python
    task = MixupETask(model, mixup_alpha=1.0, eta=0.001, label_smoothing=0.1)
    result = task(images, target)
    result['loss'].backward()
    ```

    A step has two forward passes, of the mixed and of the clean images; batch norms in train mode see both. With
    `eta=0` it is plain Mixup, in one pass. Checkpoints hold the plain timm model. In eval mode the loss is plain
    cross-entropy. The equations are in `timm_multimix.tasks.mixupe_terms`.

    Args:
        model: Any module that returns logits.
        criterion: None, or cross-entropy of torch or timm.
        criterion_kwargs: For timm's create_classification_loss if criterion is None, such as `loss_type`.
        label_smoothing: Share of every target that is spread over all classes; None: that of the criterion, else 0.
        mixup_alpha: Mixup's λ ~ Beta(mixup_alpha, mixup_alpha).
        eta: Weight η of the term.
        threshold: Only images with q_i below it get the term; None for all. (The authors' exact version compares -q_i.)
        residual_grad: Differentiate y_i - p_i in the fast q_i, as the version that the authors' README runs does.
        exact: Differentiate along μ - x_i by double backward, in full precision; not with torch.compile.
        mean_image: Mean image μ `[ch, h, w]` for `exact`; or call `estimate_mean_image`.
        prob: Probability that a batch is mixed at all; unmixed batches get plain cross-entropy.
        device: Device of task tensors.
        dtype: Dtype of task tensors.
        verbose: Log what was built.

    Raises:
        ValueError: If an argument is out of range, or the criterion is not cross-entropy.
    """

    def __init__(
            self,
            model: nn.Module,
            criterion: Optional[Union[nn.Module, Callable]] = None,
            criterion_kwargs: Optional[Dict[str, Any]] = None,
            *,
            label_smoothing: Optional[float] = None,
            mixup_alpha: float = 1.,
            eta: float = 0.001,
            threshold: Optional[float] = None,
            residual_grad: bool = False,
            exact: bool = False,
            mean_image: Optional[torch.Tensor] = None,
            prob: float = 1.,
            device: Optional[torch.device] = None,
            dtype: Optional[torch.dtype] = None,
            verbose: bool = True,
    ):
        super().__init__(model, criterion, criterion_kwargs, label_smoothing, device, dtype=dtype, verbose=verbose)
        if not self.is_cross_entropy:
            raise UsageError(f'criterion must be cross-entropy for MixupE, got {one_line(self.criterion)}')
        self.criterion = SoftTargetCrossEntropy()
        mixup_alpha = check_number('mixup_alpha', mixup_alpha, open_low=True)
        self.input_mixing = InputMixing(Settings(mixup_alpha=mixup_alpha, prob=prob, input_prob=1.))
        self.eta = check_number('eta', eta)
        self.threshold = None if threshold is None else check_number('threshold', threshold, low=-LARGEST)
        if exact and residual_grad:
            raise UsageError('residual_grad=True needs exact=False, got exact=True, in which y - p is a constant')
        self.residual_grad = residual_grad
        self.exact = exact
        if exact and synchronizes(model):
            raise UsageError('exact=True needs second derivatives, which SyncBatchNorm in the model does not support')
        self.register_buffer('mean_image', None)
        self.mean_image_source = ''
        if mean_image is not None:
            if not exact:
                raise UsageError('mean_image needs exact=True, got it with exact=False')
            self._set_mean_image(mean_image)
        self.trainable_module = _TwoPasses(model)
        if self.verbose:
            how = 'exact' if exact else 'fast'
            _logger.info(
                f'mixupe: eta {self.eta:g}, {how}, label smoothing {self.label_smoothing:g}; '
                f'{self.input_mixing.settings.describe_images()}.')

    def extra_repr(self) -> str:
        return f'eta={self.eta}, exact={self.exact}, threshold={self.threshold}, {self.input_mixing.settings}'

    def estimate_mean_image(self, loader: Iterable, source: str = '') -> torch.Tensor:
        """Compute μ `[ch, h, w]` in one pass over a loader of (images, target), over all processes, and return it.

        `source` describes the images in words; it is saved with μ, as `mean_image_source`.
        """
        self._set_mean_image(average_image(loader, self.device), source)
        return self.mean_image

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> Dict[str, torch.Tensor]:
        """Compute the loss of one training step.

        Args:
            input: Images `[b, ch, h, w]`, any b >= 1. They are not changed.
            target: `[b]` class indices.

        Returns:
            'loss'; 'output', the logits `[b, c]` of the images, for train accuracy; 'input_mixed', True if these are
            the logits of mixed images instead (with `eta=0`).
        """
        what = self._draw()
        if what != 'images' or not self.eta:
            return self._plain_step(input, target, what)
        mixed = self.input_mixing.mix(input)
        if self.exact:
            if self.mean_image is None:
                raise UsageError('exact=True needs mean_image: pass it or call estimate_mean_image(loader); got None')
            check_floats('mean_image', self.mean_image, input.shape[1:])
            mixed_output, output, terms = self.trainable_module(
                mixed.images, input, lambda logits: self._soft_target(target, logits), self.mean_image)
        else:
            mixed_output, output = self.trainable_module(mixed.images, input)
            terms = fast_terms(at_least_float32(output), self._soft_target(target, output), self.residual_grad)
        mixed_loss = self._plain_loss(mixed_output, target, mixed)
        loss = mixupe_loss(mixed_loss, terms, self.input_mixing.settings.mixup_alpha, self.eta, self.threshold)
        return {'loss': loss, 'output': output, 'input_mixed': False}

    def compile(self, backend: str = 'inductor', mode: Optional[str] = None, **compile_kwargs) -> nn.Module:
        if self.exact:
            raise UsageError('exact=True needs second derivatives, which torch.compile lacks; use exact=False')
        return super().compile(backend=backend, mode=mode, **compile_kwargs)

    def _state(self) -> Dict[str, Any]:
        if self.mean_image is None:
            return {}
        return {'mean_image': self.mean_image, 'mean_image_source': self.mean_image_source}

    def _load_state(self, state: Dict[str, Any]) -> None:
        if self.exact and 'mean_image' in state:
            self._set_mean_image(state['mean_image'], state.get('mean_image_source', ''))

    def _set_mean_image(self, mean_image: torch.Tensor, source: str = '') -> None:
        check_floats('mean_image', mean_image, ('ch', 'h', 'w'), finite=True)
        self.mean_image = mean_image.detach().to(self.device)
        self.mean_image_source = source

    def _plain_loss(self, output: torch.Tensor, target: torch.Tensor, mixed: Optional[MixedImages]) -> torch.Tensor:
        soft_target = self._soft_target(target, output)
        return self.criterion(at_least_float32(output), soft_target if mixed is None else mixed.mix_target(soft_target))

    def _soft_target(self, target: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        check_logits(logits)
        check_several_classes('the number of classes', logits.shape[-1], 'MultiMixTask with that criterion')
        check_target(target, *logits.shape)
        if target.ndim != 1:
            raise UsageError(f'target must be [{len(target)}] class indices, got shape {list(target.shape)}')
        return soft_targets(target, logits.shape[-1], self.label_smoothing, dtype=at_least_float32(logits).dtype)


class _TwoPasses(StepModel):
    """Mixed and clean images in one forward, for DDP; with `mean_image` also the exact terms."""

    def forward(
            self, mixed: torch.Tensor, clean: Optional[torch.Tensor] = None, target: Optional[Callable] = None,
            mean_image: Optional[torch.Tensor] = None,
    ) -> Union[torch.Tensor, Tuple[torch.Tensor, ...]]:
        mixed_logits = self.model(mixed)
        if clean is None:
            return mixed_logits
        if mean_image is None:
            return mixed_logits, self.model(clean)
        return mixed_logits, *exact_terms(self.model, clean, target, mean_image)
