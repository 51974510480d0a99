"""Dense logits and embeddings of timm's models. Only this file knows how the models differ.

Each spatial position becomes a separate image of one position and is passed to `model.forward_head`, so that all layers
of the head, whatever they are, work position by position. The differences between models are found by running them once
on a small example, never from their names.
"""
from dataclasses import dataclass
from typing import Optional, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import AttentionPool2d, RotAttentionPool2d

from ._checks import UsageError, call_library, check_floats
from .probing import FrozenStatistics, record_calls, trial

_POOLED_WORKS = "mode 'multimix' needs only the model's logits and works"


@dataclass(frozen=True)
class Layout:
    """How `forward_features` arranges positions: 'NCHW', 'NHWC', or 'NLC' with `num_prefix_tokens` before them."""
    format: str
    num_prefix_tokens: int = 0

    def num_positions(self, features: torch.Tensor) -> int:
        return len(self.split(features)) // len(features)

    def split(self, features: torch.Tensor) -> torch.Tensor:
        """Return each of the b x r positions as an image of one position, in the same layout.

        A token also takes the place of the prefix tokens, so that class-token and average pooling both return it.
        """
        if self.format == 'NLC':
            tokens = features[:, self.num_prefix_tokens:]
            return tokens.reshape(-1, 1, tokens.shape[-1]).expand(-1, self.num_prefix_tokens + 1, -1)
        if self.format == 'NHWC':
            return features.reshape(-1, 1, 1, features.shape[-1])
        return features.flatten(2).transpose(1, 2).reshape(-1, features.shape[1], 1, 1)


class DenseEmbeddings:
    """Dense logits and embeddings of a timm model, by its own head. Not a module, as it owns no parameters.

    Args:
        model: A model with timm's `forward_features` and `forward_head`.
        input_size: `(channels, height, width)` of the example input; found from the model if None.

    Raises:
        ValueError: If the model has no spatial positions to mix, or returns them in an unsupported form. The message
            says why and what would work.
    """

    def __init__(self, model: nn.Module, input_size: Optional[Tuple[int, int, int]] = None):
        self.model = model
        check_classifier(model)
        if not (hasattr(model, 'forward_features') and hasattr(model, 'forward_head')):
            raise UsageError(f'{_name(model)} has no forward_features and forward_head; {_POOLED_WORKS}')
        if (dropped := getattr(getattr(model, 'patch_drop', None), 'prob', 0.)) > 0.:
            raise _unsupported(model, f'patch_drop_rate={dropped:g} drops positions; with patch_drop_rate=0, it works')
        with trial(model):
            self._probe(_example_input(model, input_size))

    def _probe(self, example: torch.Tensor) -> None:
        model = self.model.eval()
        features = call_library(
            f'{_name(model)}: forward_features fails on an example of shape {list(example.shape)}; pass the input_size '
            f'(channels, height, width) that it is built for', model.forward_features, example, errors=Exception)
        self.layout = find_layout(model, features, example)
        self.example_positions = self.layout.num_positions(features)
        split = self.layout.split(features)
        logits, calls = record_calls(model, lambda: call_library(
            f'{_name(model)}: forward_head cannot take single positions; {_POOLED_WORKS}',
            model.forward_head, split, errors=Exception))
        modules = [module for module, _ in calls]
        pools = [module for module in modules if isinstance(module, (AttentionPool2d, RotAttentionPool2d))]
        if pools:
            raise _unsupported(model, f'its {type(pools[0]).__name__} pools the whole grid, not single positions')
        num_classes = getattr(model, 'num_classes', None)
        check_floats(
            f'{_name(model)}: {_POOLED_WORKS}; logits of single positions by forward_head', logits,
            (len(split), num_classes if isinstance(num_classes, int) else 'c'))
        call_library(
            f'{_name(model)}: forward_head must take pre_logits=True and then return the embedding; {_POOLED_WORKS}',
            model.forward_head, split, pre_logits=True, errors=TypeError)
        self.batch_norms = [module for module in modules if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        last = [
            module for module, output in calls
            if isinstance(module, (nn.Linear, nn.Conv2d)) and torch.equal(output.flatten(1), logits)]
        self.classifier = last[-1] if last and self._is_classifier(last[-1], split) else None

    def _is_classifier(self, module: nn.Module, split: torch.Tensor) -> bool:
        """Return whether this linear layer alone maps the embedding to the logits."""
        weight = module.weight
        if weight[0].numel() != weight.shape[1]:  # a convolution larger than 1 x 1
            return False
        # Dropout may follow the embedding: compare in train mode, with the same random numbers.
        self.model.train()
        with FrozenStatistics(self.batch_norms):
            with trial(self.model):  # restores the random state
                expected = self.model.forward_head(split)
            embeddings = self.model.forward_head(split, pre_logits=True).flatten(1)
            if embeddings.shape[1] != weight.shape[1]:
                return False
            tolerance = max(1e-4, 4 * torch.finfo(expected.dtype).eps) * expected.abs().max()
            return bool((_classify(module, embeddings) - expected).abs().max() <= tolerance)

    @property
    def classifier_weight(self) -> Optional[torch.Tensor]:
        """W, `[c, d]`, or None if the head does not end in one linear layer on the embedding."""
        return None if self.classifier is None else self.classifier.weight.flatten(1)

    def num_positions(self, images: torch.Tensor) -> int:
        """Return the number of positions r of `images`, by a forward without gradient."""
        with trial(self.model):
            images = images.to(next(self.model.parameters()).dtype)  # autocast is off here
            return self.layout.num_positions(self.model.eval().forward_features(images))

    def __call__(self, features: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        """Return dense logits `[b, r, c]` and embeddings `[b, r, d]` for the output of `forward_features`.

        The head runs once if its last layer is linear. In train mode its batch norms normalise by the statistics of the
        positions, without updating their running statistics, which belong to the pooled pass.
        """
        batch_size = features.shape[0]
        split = self.layout.split(features)
        with FrozenStatistics(self.batch_norms):
            if self.classifier is not None:
                embeddings = self.model.forward_head(split, pre_logits=True).flatten(1)
                logits = _classify(self.classifier, embeddings)
            else:
                logits = self.model.forward_head(split)
                with torch.no_grad():
                    embeddings = self.model.forward_head(split, pre_logits=True).flatten(1)
        return logits.unflatten(0, (batch_size, -1)), embeddings.unflatten(0, (batch_size, -1))


def find_layout(model: nn.Module, features: torch.Tensor, example: torch.Tensor) -> Layout:
    """Return the layout of `features`, the output of `model.forward_features(example)`."""
    if not isinstance(features, torch.Tensor):
        raise _unsupported(model, f'forward_features returns a {type(features).__name__}, not one tensor of positions')
    if features.ndim == 4:
        output_format = getattr(model, 'output_fmt', None)
        nhwc = getattr(output_format, 'value', output_format) == 'NHWC'
        layout = Layout('NHWC' if nhwc else 'NCHW')
    elif features.ndim == 3:
        layout = Layout('NLC', _num_prefix_tokens(model, features, example))
    else:
        raise _unsupported(model, f'forward_features returns shape {list(features.shape)}, without spatial positions')
    width, expected = features.shape[1 if layout.format == 'NCHW' else -1], getattr(model, 'num_features', None)
    if isinstance(expected, int) and width != expected:
        raise _unsupported(
            model, f'forward_features returns {width} channels ({layout.format}), but num_features is {expected}')
    if layout.num_prefix_tokens < 0 or layout.num_positions(features) < 1:
        raise _unsupported(model, f'features have shape {list(features.shape)}, class tokens without patch tokens')
    return layout


def _num_prefix_tokens(model: nn.Module, features: torch.Tensor, example: torch.Tensor) -> int:
    known = getattr(model, 'num_prefix_tokens', None)
    if known is not None:
        return known
    # Some models have a class token but no such attribute: the size of the grid shows it.
    if not hasattr(model, 'forward_intermediates'):
        return 0
    try:
        grid = model.forward_intermediates(example, indices=1, output_fmt='NCHW', intermediates_only=True)[-1]
        return features.shape[1] - grid.shape[-2] * grid.shape[-1]
    except Exception:  # the method varies between models, and a model without a grid has no class token
        return 0


def check_classifier(model: nn.Module) -> None:
    """Refuse models that no mode can train: without classes, or with two sets of logits."""
    if getattr(model, 'num_classes', None) == 0:
        raise UsageError(f'{_name(model)} has num_classes=0, no classifier to train; build it with num_classes >= 1')
    if getattr(model, 'distilled_training', False):
        raise UsageError(f'{_name(model)} returns two sets of logits; call set_distilled_training(False)')


def _example_input(model: nn.Module, input_size: Optional[Tuple[int, int, int]]) -> torch.Tensor:
    parameter = next(model.parameters())
    if input_size is None:
        config = getattr(model, 'pretrained_cfg', None) or {}
        channels, height, width = config.get('input_size', (3, 224, 224))
        first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
        channels = getattr(model, 'in_chans', None) or (first.in_channels if first is not None else channels)
        size = getattr(getattr(model, 'patch_embed', None), 'img_size', None) or (height, width)
        input_size = (channels, *size)
    generator = torch.Generator().manual_seed(0)
    return torch.randn((2, *input_size), generator=generator).to(device=parameter.device, dtype=parameter.dtype)


def _classify(classifier: nn.Module, embeddings: torch.Tensor) -> torch.Tensor:
    if isinstance(classifier, nn.Conv2d):
        return F.linear(embeddings, classifier.weight.flatten(1), classifier.bias)
    return classifier(embeddings)


def _unsupported(model: nn.Module, reason: str) -> UsageError:
    """Return the error for a model that the dense mode does not support."""
    return UsageError(f'{_name(model)}: {reason}; {_POOLED_WORKS}')


def _name(model: nn.Module) -> str:
    config = getattr(model, 'pretrained_cfg', None) or {}
    return config.get('architecture') or type(model).__name__
