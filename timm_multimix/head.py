"""MultiMix in place of a timm model's head."""
import logging
from typing import Any, Dict, NamedTuple, Optional, Tuple

import torch
import torch.nn as nn

from . import functional
from ._checks import check_choice, check_flag, check_input_size, refuse_gamma
from .embeddings import DenseEmbeddings, check_classifier
from .loss import MultiMixLoss

_logger = logging.getLogger(__name__)

MODES = ('multimix', 'dense-multimix')


class HeadOutput(NamedTuple):
    """What a training step needs of the head: ordinary logits `[b, c]`, dense ones `[b, r, c]`, attention `[b, r]`."""
    clean_logits: torch.Tensor
    dense_logits: Optional[torch.Tensor] = None
    attention: Optional[torch.Tensor] = None

    def loss_inputs(self, target: torch.Tensor) -> Dict[str, Optional[torch.Tensor]]:
        """The arguments of `MultiMixLoss`."""
        if self.dense_logits is None:
            return dict(logits=self.clean_logits, target=target)
        return dict(
            logits=self.dense_logits,
            target=target,
            attention=self.attention,
            clean_logits=self.clean_logits,
        )


class MultiMixHead(nn.Module):
    """Stands in place of a timm model's head, on what `model.forward_features` returned.

    ```python
    head = MultiMixHead(model, mode='dense-multimix')
    features = model.forward_features(images)
    loss = head(features, target)       # in training
    logits = head(features)             # the model's ordinary logits, bit for bit
    ```

    The head refers to the model and owns nothing: neither the model's parameters nor the keys of its state_dict change,
    and the head's own state_dict is empty. The dense mode runs the model once, in eval mode on two random images, to
    learn how its features are laid out.

    Args:
        model: A timm model, or one with the same `forward_features` and `forward_head`.
        mode: 'multimix' mixes pooled embeddings (v2, section 3.2), 'dense-multimix' those of every position, weighted
            by attention (v2, section 3.3).
        attention: For the dense mode, see `functional.spatial_attention`: 'gap', 'cam' or 'none'.
        activation: For the dense mode: 'relu' or 'softmax'.
        attention_grad: Let the gradient through the attention, by the slow literal loss; a constant where False.
        input_size: `(channels, height, width)` of the dense mode's example; the model's own where None.
        **loss_kwargs: For `MultiMixLoss`: num_tuples, alpha, length, concentration, clean_weight, label_smoothing,
            criterion, implementation.

    Raises:
        ValueError: If an argument is out of range or the model cannot serve the mode; the message says what can.
    """

    def __init__(
            self,
            model: nn.Module,
            mode: str = 'multimix',
            *,
            attention: str = 'gap',
            activation: str = 'relu',
            attention_grad: bool = False,
            input_size: Optional[Tuple[int, int, int]] = None,
            **loss_kwargs: Any,
    ):
        super().__init__()
        check_choice('mode', mode, MODES)
        check_choice('attention', attention, functional.ATTENTION_KINDS)
        check_choice('activation', activation, functional.ACTIVATIONS)
        attention_grad = check_flag('attention_grad', attention_grad)
        check_input_size(input_size)
        check_classifier(model)
        refuse_gamma(loss_kwargs, 'MultiMixHead')
        if mode == 'multimix' and not hasattr(model, 'forward_head'):
            raise ValueError(
                f'{type(model).__name__} has no forward_head; MultiMixLoss takes the logits of any model, for mode '
                f"'multimix'")
        self.mode = mode
        self.attention = attention
        self.activation = activation
        self.attention_grad = attention_grad
        self.loss = MultiMixLoss(**loss_kwargs)
        implementation = self.loss.implementation
        if attention_grad and implementation not in ('auto', 'reference'):
            raise ValueError(
                f"implementation must be 'auto' or 'reference' with attention_grad=True, got {implementation!r}")
        self.__dict__['model'] = model  # past nn.Module, which would register it
        self.dense = DenseEmbeddings(model, input_size) if mode == 'dense-multimix' else None
        if self.dense is not None and self.dense.classifier is None and (attention == 'cam' or attention_grad):
            what = "attention 'cam'" if attention == 'cam' else 'attention_grad=True'
            raise ValueError(
                f'{what} needs a linear classifier on the embedding, which {type(model).__name__} does not end in; '
                f"allowed: attention 'gap' or 'none', attention_grad=False")

        if self.dense is not None and self.dense.layout.num_prefix_tokens and not self.loss.clean_weight:
            _logger.warning(
                f'{type(model).__name__} may read its logits off a class token, which a dense loss alone does not '
                f"train: give clean_weight > 0, or build the model with global_pool='avg'")

    def forward(self, features: torch.Tensor, target: Optional[torch.Tensor] = None) -> torch.Tensor:
        """Logits `[b, c]`, or with a target `[b]` or `[b, c]` the scalar loss; see `MultiMixLoss.forward`."""
        if target is None:
            return self.model.forward_head(features)
        return self.terms(self.outputs(features, target), target)['loss']

    def mix(self, features: torch.Tensor, target: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        """Mixed logits and targets, `[N, c]` each, for any other criterion; see `MultiMixLoss.mix`."""
        outputs = self.outputs(features, target)
        return self.loss.mix(**outputs.loss_inputs(target))

    def outputs(self, features: torch.Tensor, target: torch.Tensor) -> HeadOutput:
        """Everything a step takes from the model; `target` is looked at for attention 'cam' alone."""
        clean_logits = self.model.forward_head(features)
        if self.dense is None:
            return HeadOutput(clean_logits)
        dense_logits, embeddings = self.dense(features)
        attention = functional.spatial_attention(
            embeddings if self.attention_grad else embeddings.detach(),
            self.attention,
            classifier_weight=self._classifier_weight(),
            target=target,
            activation=self.activation,
        )
        return HeadOutput(clean_logits, dense_logits, attention)

    def terms(self, outputs: HeadOutput, target: torch.Tensor) -> Dict[str, torch.Tensor]:
        """The loss and its parts from what `outputs` returned; see `MultiMixLoss.terms`."""
        return self.loss.terms(**outputs.loss_inputs(target))

    def _classifier_weight(self) -> Optional[torch.Tensor]:
        if self.attention != 'cam':
            return None
        weight = self.dense.classifier_weight
        return weight if self.attention_grad else weight.detach()
