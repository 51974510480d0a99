"""MultiMix in place of a timm model's head."""
import logging
from typing import Callable, Dict, NamedTuple, Optional, Tuple

import torch
import torch.nn as nn
from typing_extensions import Unpack

from . import functional
from ._timm_compat import in_ddp_forward
from .checks import UsageError, check_target
from .distributed import num_processes
from .embeddings import DenseEmbeddings, SplitForward
from .loss import MultiMixLoss
from .rows import mix
from .settings import HeadArguments, Settings

_logger = logging.getLogger(__name__)


class HeadOutput(NamedTuple):
    """Output of the head for a training step: ordinary logits `[b, c]`, dense ones `[b, r, c]`, attention `[b, r]`."""
    clean_logits: torch.Tensor
    dense_logits: Optional[torch.Tensor] = None
    attention: Optional[torch.Tensor] = None

    def loss_inputs(self, target: torch.Tensor) -> Dict[str, Optional[torch.Tensor]]:
        """Return the arguments for a call of `MultiMixLoss`."""
        if self.dense_logits is None:
            return dict(logits=self.clean_logits, target=target)
        return dict(logits=self.dense_logits, target=target, attention=self.attention, clean_logits=self.clean_logits)


class MultiMixHead(nn.Module):
    """MultiMix in place of a timm model's head, on the output of `model.forward_features`.

    ```python
    head = MultiMixHead(model, 'dense-multimix')
    features = model.forward_features(images)
    loss = head(features, target)       # in training
    logits = head(features)             # the model's ordinary logits, bit for bit
    ```

    The head refers to the model and owns no parameters; its state_dict holds strength 'auto' only. The head runs the
    model on two random images to learn how its features are laid out, and that its forward does nothing else; again if
    the model's head, hooks or methods change. If the head is in eval mode, the loss is the plain criterion. The mode is
    its own: validation needs `head.eval()` as well as `model.eval()`.

    With several processes, features and head must run inside the forward of the module that DistributedDataParallel
    wraps, or gradients are not averaged; `MultiMixTask` takes care of this.

    Args:
        model: A timm model, or one with the same `forward_features` and `forward_head`.
        mode: 'multimix' or 'dense-multimix', see `Settings`. Pooled, `MultiMixLoss` on the logits does the same.
        criterion: As in `MultiMixLoss`.
        settings: Settings to use in place of mode and other keyword arguments.
        **arguments: Of `Settings`: num_tuples, alpha, length, concentration, clean_weight, label_smoothing,
            implementation, strength, attention, activation, attention_grad, input_size.

    Raises:
        ValueError: If an argument is out of range or the model does not support the mode; the message says what works.
    """

    _in_call = False  # whether it runs inside the model's own call, which runs its hooks

    def __init__(
            self,
            model: nn.Module,
            mode: str = 'multimix',
            *,
            criterion: Optional[Callable] = None,
            settings: Optional[Settings] = None,
            **arguments: Unpack[HeadArguments],
    ):
        super().__init__()
        if settings is not None and arguments:
            raise UsageError(f'pass settings or keyword arguments, not both; got {arguments}')
        self._settings = settings or Settings.of(MultiMixHead, HeadArguments, arguments, mode=mode)
        self.mode = self.settings.mode
        self.loss = MultiMixLoss(criterion=criterion, settings=self.settings)
        self.dense = None
        self.__dict__['model'] = model  # an attribute would be registered by nn.Module
        if self.mode == 'dense-multimix':
            self.dense = self._split = DenseEmbeddings(model, self.settings.input_size, self._in_call)
            self._check_dense()
        else:
            self._split = SplitForward(model)

    @property
    def settings(self) -> Settings:
        return self._settings

    def extra_repr(self) -> str:
        return self.settings.listed('mode', *(('attention', 'activation', 'attention_grad') if self.dense else ()))

    def refresh(self) -> None:
        """Look again at a model whose classifier, head, hooks or methods have changed; once per step, not compiled.

        Raises:
            ValueError: If the model does not support the mode any more.
        """
        if not torch.compiler.is_compiling() and self._split.refresh() and self.dense is not None:
            self._check_dense()

    def _check_dense(self) -> None:
        model, options = self.model, self.settings
        if self.dense.classifier is None and (options.attention == 'cam' or options.attention_grad):
            what = "attention 'cam'" if options.attention == 'cam' else 'attention_grad=True'
            raise UsageError(
                f'{what} needs a linear classifier on the embedding, which {type(model).__name__} does not end in; '
                f"allowed: attention 'gap' or 'none', attention_grad=False")
        if self.dense.layout.num_prefix_tokens and not options.clean_weight:
            _logger.warning(
                f'{type(model).__name__} may compute its logits from a class token, which a dense loss alone does not '
                f"train: set clean_weight > 0, or build the model with global_pool='avg'")

    def forward(self, features: torch.Tensor, target: Optional[torch.Tensor] = None) -> torch.Tensor:
        """Return logits `[b, c]`, or with a target `[b]` or `[b, c]` the scalar loss; see `MultiMixLoss.forward`."""
        self._split.check_features(features)
        if target is None:
            return self.model.forward_head(features)
        if self.training:
            _check_gradients_are_averaged(self.model)
        is_mixed = self.training and self.loss.is_mixed(self.model)
        if is_mixed:
            outputs = self.outputs(features, target)
            loss = self.loss.terms(**outputs.loss_inputs(target))['loss']
        else:  # without the pass over the positions
            self.refresh()
            outputs = HeadOutput(self.model.forward_head(features))
            check_target(target, *outputs.clean_logits.shape)
            loss = self.loss.plain(outputs.clean_logits, target)
        self.loss.warn_without_gradient(loss, is_mixed)
        self.loss.observe(outputs.clean_logits, target)
        return loss

    def mix(self, features: torch.Tensor, target: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        """Return mixed logits and targets, `[N, c]` each, for any other criterion; see `rows.mix`."""
        _check_gradients_are_averaged(self.model)
        outputs = self.outputs(features, target)
        return mix(self.loss, **outputs.loss_inputs(target))

    def outputs(self, features: torch.Tensor, target: torch.Tensor) -> HeadOutput:
        """Return all outputs of the model for a training step; only attention 'cam' uses `target`."""
        self.refresh()
        clean_logits = self.model.forward_head(features)
        if self.dense is None:
            return HeadOutput(clean_logits)
        dense_logits, embeddings = self.dense(features)
        if not torch.compiler.is_compiling():
            self.dense.warn_if_single(dense_logits.shape[1])
        with torch.set_grad_enabled(self.settings.attention_grad and torch.is_grad_enabled()):
            attention = functional.spatial_attention(
                embeddings, self.settings.attention, target=target, activation=self.settings.activation,
                classifier_weight=self.dense.classifier_weight if self.settings.attention == 'cam' else None)
        return HeadOutput(clean_logits, dense_logits, attention)


def _check_gradients_are_averaged(model: nn.Module) -> None:
    """With several processes, refuse a forward with gradients outside DistributedDataParallel.

    Parameters of another class than nn.Parameter belong to another wrapper, such as FSDP.
    """
    if torch.compiler.is_compiling() or num_processes() == 1 or not torch.is_grad_enabled():
        return
    if not in_ddp_forward() and all(type(parameter) is nn.Parameter for parameter in model.parameters()):
        raise UsageError(
            'the head must run inside the forward of the module that DistributedDataParallel wraps, or gradients are '
            'not averaged over the processes; or use MultiMixTask with prepare_distributed()')
