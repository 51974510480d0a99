"""Dense logits and embeddings of a model, by its own head."""
import logging
import re
from typing import List, Optional, Set, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import AttentionPool2d, RotAttentionPool2d

from ..checks import UsageError, call_library, check_floats
from .layout import find_layout
from .model import POOLED_WORKS, differ, example_input, is_sharded, name_of, unsupported
from .probing import FrozenStatistics, record_calls, same_random_numbers, train_without_statistics, trial
from .split import SplitForward

_logger = logging.getLogger(__name__)


class DenseEmbeddings(SplitForward):
    """Dense logits and embeddings of a timm model, by its own head. Not a module: it owns no parameters.

    Raises:
        ValueError: Also if the model has no spatial positions to mix, or returns them in an unsupported form.
    """
    _has_warned = False

    def _probe(self) -> None:
        model = self.model.eval()
        if (dropped := getattr(getattr(model, 'patch_drop', None), 'prob', 0.)) > 0.:
            raise unsupported(model, f'patch_drop_rate={dropped:g} drops positions; with patch_drop_rate=0, it works')
        if is_sharded(model):
            raise UsageError(
                f'{name_of(model)} is sharded, so its forward_features cannot run by itself: build the task first, '
                'then shard its trainable_module (fully_shard)')
        example = example_input(model, self.input_size)
        features, calls = record_calls(model, lambda: call_library(
            f'{name_of(model)}: forward_features fails on an example of shape {list(example.shape)}; pass the '
            'input_size (channels, height, width) that it is built for', model.forward_features, example,
            errors=Exception))
        grids = {output.shape[-2] * output.shape[-1] for module, output in calls if isinstance(module, nn.Conv2d)}
        self.layout = find_layout(model, features, example, grids)
        if not torch.isfinite(features).all():
            raise unsupported(model, 'forward_features returns NaN or infinite values for a random example')
        self._example_shape = features.shape
        self.example_positions = self.layout.num_positions(features)
        split = self.layout.split(features)
        logits, calls = record_calls(model, lambda: call_library(
            f'{name_of(model)}: forward_head cannot take single positions; {POOLED_WORKS}',
            model.forward_head, split, errors=Exception))
        names = {module: name for name, module in model.named_modules()}
        modules = [module for module, _ in calls]
        pools = [module for module in modules if isinstance(module, (AttentionPool2d, RotAttentionPool2d))]
        if pools:
            raise unsupported(model, f'its {type(pools[0]).__name__} pools the whole grid, not single positions')
        check_floats(f'{name_of(model)}: {POOLED_WORKS}; logits of single positions by forward_head', logits, 'nc')
        num_classes = getattr(model, 'num_classes', None)
        if isinstance(num_classes, int) and num_classes != logits.shape[1]:
            raise UsageError(
                f'{name_of(model)} returns {logits.shape[1]} logits, but its num_classes is {num_classes}: set '
                f'model.num_classes = {logits.shape[1]} if its classifier was replaced')
        call_library(
            f'{name_of(model)}: forward_head must take pre_logits=True and then return the embedding; {POOLED_WORKS}',
            model.forward_head, split, pre_logits=True, errors=TypeError)
        self._check_forward(example)
        self._norm_names = [names[module] for module in modules if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        self._classifier_name = next(
            (names[module] for module, output in reversed(calls)
             if isinstance(module, (nn.Linear, nn.Conv2d)) and output.data_ptr() == logits.data_ptr()  # nothing follows
             and self._is_classifier(module, split)), None)
        self._watched = tuple({names[module].partition('.')[0]: None for module in modules})
        self.warn_if_single(self.example_positions)

    def _is_classifier(self, module: nn.Module, split: torch.Tensor) -> bool:
        """Return whether this layer is linear, and it alone maps the embedding to the logits."""
        model, weight = self.model, module.weight
        others = [name for name, _ in module.named_parameters() if not re.match('weight$|bias$|parametrizations', name)]
        if others or weight[0].numel() != weight.shape[1]:  # a second branch, or a convolution larger than 1 x 1
            return False
        # Dropout may follow the embedding: compare in train mode, with the same random numbers. A layer in between may
        # do nothing yet, like a new adapter: its parameters show it, frozen ones too.
        model = train_without_statistics(self.model)
        frozen = [p for p in model.parameters() if p.is_floating_point() and not p.requires_grad]
        try:
            for parameter in frozen:
                parameter.requires_grad_()
            with torch.enable_grad():
                with same_random_numbers(model):
                    expected = model.forward_head(split)
                embeddings = model.forward_head(split, pre_logits=True).flatten(1)
                own = set(module.parameters())
                others = [p for p in model.parameters() if p.requires_grad and p not in own]
                between = _reached(expected, others) - _reached(embeddings, others)
        finally:
            for parameter in frozen:
                parameter.requires_grad_(False)
        if between:
            return False
        return embeddings.shape[1] == weight.shape[1] and not differ(
            F.linear(embeddings, weight.flatten(1), module.bias), expected)

    @property
    def batch_norms(self) -> List[nn.Module]:
        return [self.model.get_submodule(name) for name in self._norm_names]

    @property
    def classifier(self) -> Optional[nn.Module]:
        """The linear layer that alone maps the embedding to the logits, or None."""
        return None if self._classifier_name is None else self.model.get_submodule(self._classifier_name)

    @property
    def classifier_weight(self) -> Optional[torch.Tensor]:
        """W, `[c, d]`, or None if the head does not end in one linear layer on the embedding."""
        return None if self.classifier is None else self.classifier.weight.flatten(1)

    def num_positions(self, images: torch.Tensor) -> int:
        """Return the number of positions r of `images`, by a forward without gradient."""
        with trial(self.model):
            images = images.to(next(self.model.parameters()).dtype)  # autocast is off here
            positions = self.layout.num_positions(self.model.eval().forward_features(images))
        self.warn_if_single(positions)
        return positions

    def warn_if_single(self, positions: int) -> None:
        """Warn, once, if an image has a single position, where the dense form is the pooled one."""
        if positions == 1 and not self._has_warned:
            self._has_warned = True
            _logger.warning(
                f"{name_of(self.model)} has one position at this size of images, so mode 'dense-multimix' has "
                "nothing dense to mix; use larger images, or a model with a smaller stride")

    def __call__(self, features: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        """Return dense logits `[b, r, c]` and embeddings `[b, r, d]` for the output of `forward_features`.

        The head runs once if its last layer is linear. In train mode its batch norms normalise by the statistics of the
        positions, without updating their running statistics, which belong to the pooled pass.
        """
        batch_size = features.shape[0]
        split = self.layout.split(features)
        with FrozenStatistics(self.batch_norms):
            if (classifier := self.classifier) is not None:
                embeddings = self.model.forward_head(split, pre_logits=True).flatten(1)
                logits = _classify(classifier, embeddings)
            else:
                logits = self.model.forward_head(split)
                with torch.no_grad():
                    embeddings = self.model.forward_head(split, pre_logits=True).flatten(1)
        return logits.unflatten(0, (batch_size, -1)), embeddings.unflatten(0, (batch_size, -1))


def _classify(classifier: nn.Module, embeddings: torch.Tensor) -> torch.Tensor:
    if isinstance(classifier, nn.Conv2d):
        return classifier(embeddings[..., None, None]).flatten(1)
    return classifier(embeddings)


def _reached(output: torch.Tensor, parameters: List[nn.Parameter]) -> Set[nn.Parameter]:
    """Return those of the parameters that get a gradient from `output`."""
    if not (output.requires_grad and parameters):
        return set()
    grads = torch.autograd.grad(output.sum(), parameters, retain_graph=True, allow_unused=True)
    return {parameter for parameter, grad in zip(parameters, grads) if grad is not None}
