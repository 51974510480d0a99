"""MultiMix in place of a timm model's head."""
import logging
from dataclasses import dataclass
from typing import Any, Dict, NamedTuple, Optional, Tuple

import torch
import torch.nn as nn

from . import functional
from ._timm_compat import in_ddp_forward
from .checks import UsageError, check_choice, check_target, take_arguments
from .distributed import num_processes
from .embeddings import DenseEmbeddings, SplitForward, check_classifier
from .loss import MultiMixLoss
from .rows import mix
from .strength import draw

_logger = logging.getLogger(__name__)

MODES = ('multimix', 'dense-multimix')


@dataclass(frozen=True)
class DenseOptions:
    """Options of the dense form, the same for head, drop-in and task.

    Args:
        attention: How far an image's label is trusted at each position: 'gap', 'cam' or 'none', see
            `functional.spatial_attention`.
        activation: Activation of the attention: 'relu' or 'softmax'.
        attention_grad: Differentiate through the attention, by the slow literal loss. If False, it is a constant.
        input_size: `(channels, height, width)` of the example input to the model; None: the model's own size.

    Raises:
        ValueError: If an option has another value.
    """
    attention: str = 'gap'
    activation: str = 'relu'
    attention_grad: bool = False
    input_size: Optional[Tuple[int, int, int]] = None

    def __post_init__(self):
        check_choice('attention', self.attention, functional.ATTENTION_KINDS)
        check_choice('activation', self.activation, functional.ACTIVATIONS)
        check_choice('attention_grad', self.attention_grad, (False, True))

    @classmethod
    def take(cls, mode: str, kwargs: Dict[str, Any]) -> 'DenseOptions':
        """Remove these options from `kwargs` and return them.

        Raises:
            ValueError: If the mode does not exist, or does not have an option that is given.
        """
        check_choice('mode', mode, MODES)
        given = take_arguments(cls, kwargs)
        options = cls(**given)
        if mode != 'dense-multimix' and options != cls():
            name = next(name for name in given if getattr(options, name) != getattr(cls, name))
            raise UsageError(f"{name} needs mode 'dense-multimix', got {name}={given[name]!r} with {mode!r}")
        return options


class HeadOutput(NamedTuple):
    """Output of the head for a training step: ordinary logits `[b, c]`, dense ones `[b, r, c]`, attention `[b, r]`."""
    clean_logits: torch.Tensor
    dense_logits: Optional[torch.Tensor] = None
    attention: Optional[torch.Tensor] = None

    def loss_inputs(self, target: torch.Tensor) -> Dict[str, Optional[torch.Tensor]]:
        """Return the arguments for a call of `MultiMixLoss`."""
        if self.dense_logits is None:
            return dict(logits=self.clean_logits, target=target)
        return dict(
            logits=self.dense_logits, target=target, attention=self.attention, clean_logits=self.clean_logits)


class MultiMixHead(nn.Module):
    """MultiMix in place of a timm model's head, on the output of `model.forward_features`.

    ```python
    head = MultiMixHead(model)
    features = model.forward_features(images)
    loss = head(features, target)       # in training
    logits = head(features)             # the model's ordinary logits, bit for bit
    ```

    The head refers to the model and owns no parameters; its state_dict is empty. The head runs the model on two
    random images to learn how its features are laid out, and that its forward does nothing else; again if the model's
    head, hooks or methods change. If the head is in eval mode, the loss is the plain criterion. The mode is its own:
    validation needs `head.eval()` beside `model.eval()`.

    With several processes, features and head must run inside the forward of the module that DistributedDataParallel
    wraps, or gradients are not averaged; `MultiMixTask` takes care of this.

    Args:
        model: A timm model, or one with the same `forward_features` and `forward_head`.
        mode: 'dense-multimix' mixes the embeddings of every position, weighted by attention (arXiv 2311.05538, section
            3.3), 'multimix' the pooled ones (section 3.2).
        **kwargs: Arguments of `DenseOptions` (attention, activation, attention_grad, input_size) and of `MultiMixLoss`
            (num_tuples, alpha, length, concentration, clean_weight, label_smoothing, criterion, implementation,
            strength).

    Raises:
        ValueError: If an argument is out of range or the model does not support the mode; the message says what works.
    """

    _in_call = False  # whether it runs inside the model's own call, which runs its hooks

    def __init__(self, model: nn.Module, mode: str = 'dense-multimix', **kwargs: Any):
        super().__init__()
        options = DenseOptions.take(mode, kwargs)
        check_classifier(model)
        refuse_arguments('MultiMixHead', kwargs, gamma='as only MultiMixTask has a teacher')
        if mode == 'multimix' and not (hasattr(model, 'forward_features') and hasattr(model, 'forward_head')):
            raise UsageError(
                f'{type(model).__name__} has no forward_features and forward_head; MultiMixLoss takes the logits of '
                'any model')
        self.mode = mode
        self.options = options
        self.loss = MultiMixLoss(**kwargs)
        self.dense = None
        self.__dict__['model'] = model  # an attribute would be registered by nn.Module
        if options.attention_grad and self.loss.implementation not in ('auto', 'reference'):
            raise UsageError(
                f"implementation must be 'auto' or 'reference' with attention_grad=True, "
                f'got {self.loss.implementation!r}')
        if mode == 'dense-multimix':
            self.dense = self._split = DenseEmbeddings(model, options.input_size, self._in_call)
            self._check_dense()
        else:
            self._split = SplitForward(model)

    def refresh(self) -> None:
        """Look again at a model whose classifier, head, hooks or methods have changed; once per step, not compiled.

        Raises:
            ValueError: If the model does not support the mode any more.
        """
        if not torch.compiler.is_compiling() and self._split.refresh() and self.dense is not None:
            self._check_dense()

    def _check_dense(self) -> None:
        model, options = self.model, self.options
        if self.dense.classifier is None and (options.attention == 'cam' or options.attention_grad):
            what = "attention 'cam'" if options.attention == 'cam' else 'attention_grad=True'
            raise UsageError(
                f'{what} needs a linear classifier on the embedding, which {type(model).__name__} does not end in; '
                f"allowed: attention 'gap' or 'none', attention_grad=False")
        if self.dense.layout.num_prefix_tokens and not self.loss.clean_weight:
            _logger.warning(
                f'{type(model).__name__} may compute its logits from a class token, which a dense loss alone does not '
                f"train: set clean_weight > 0, or build the model with global_pool='avg'")

    def forward(self, features: torch.Tensor, target: Optional[torch.Tensor] = None) -> torch.Tensor:
        """Return logits `[b, c]`, or with a target `[b]` or `[b, c]` the scalar loss; see `MultiMixLoss.forward`."""
        if target is None:
            return self.model.forward_head(features)
        if not self.training:
            self.refresh()
            logits = self.model.forward_head(features)
            check_target(target, *logits.shape)
            return self.loss.plain(logits, target)
        _check_gradients_are_averaged(self.model)
        if draw(self.loss.strength):
            outputs = self.outputs(features, target)
            loss = self.terms(outputs, target)['loss']
            self.loss.warn_without_gradient(loss)
        else:  # without the pass over the positions
            self.refresh()
            outputs = HeadOutput(self.model.forward_head(features))
            check_target(target, *outputs.clean_logits.shape)
            loss = self.loss.plain(outputs.clean_logits, target)
        self.loss.observe(outputs.clean_logits, target)
        return loss

    def describe(self) -> str:
        """Say in words what is mixed and how strongly; the number of positions is that of the example input."""
        if self.dense is None:
            return self.loss.describe()
        activation = '' if self.options.attention == 'none' else f' ({self.options.activation})'
        return f'{self.loss.describe(self.dense.example_positions)}, attention {self.options.attention}{activation}'

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
        with torch.set_grad_enabled(self.options.attention_grad and torch.is_grad_enabled()):
            attention = functional.spatial_attention(
                embeddings,
                self.options.attention,
                classifier_weight=self.dense.classifier_weight if self.options.attention == 'cam' else None,
                target=target,
                activation=self.options.activation,
            )
        return HeadOutput(clean_logits, dense_logits, attention)

    def terms(self, outputs: HeadOutput, target: torch.Tensor) -> Dict[str, torch.Tensor]:
        """Return the loss and its parts for the result of `outputs`; see `MultiMixLoss.terms`."""
        return self.loss.terms(**outputs.loss_inputs(target))


def refuse_arguments(name: str, kwargs: Dict[str, Any], **reasons: str) -> None:
    """Refuse arguments of `MultiMixLoss` that `name` does not have."""
    for argument in reasons.keys() & kwargs.keys():
        raise UsageError(f'{argument} is not an argument of {name}, {reasons[argument]}; got {kwargs[argument]!r}')


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
