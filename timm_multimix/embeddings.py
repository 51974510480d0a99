"""Dense logits and embeddings of timm's models. Only this file knows how the models differ.

Each spatial position becomes a separate image of one position and is passed to `model.forward_head`, so that all layers
of the head, whatever they are, work position by position. The differences between models are found by running them once
on a small example, never from their names.
"""
import contextlib
import logging
import re
from dataclasses import dataclass
from typing import List, Optional, Set, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import AttentionPool2d, RotAttentionPool2d

from .checks import UsageError, call_library, check_floats
from .probing import FrozenStatistics, record_calls, same_random_numbers, train_without_statistics, trial

_logger = logging.getLogger(__name__)
_POOLED_WORKS = "MultiMixLoss works, and MultiMixTask or MultiMix with mode 'multimix': they need only the logits"


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


class SplitForward:
    """A model of which only `forward_features` and `forward_head` run: they must be all that its own forward does.

    Args:
        model: A model with timm's `forward_features` and `forward_head`.
        input_size: `(channels, height, width)` of the example input; found from the model if None.
        in_call: They run inside the model's own call, which runs its hooks.

    Raises:
        ValueError: If the model's forward does more. The message says what works.
    """
    _watched: Tuple[str, ...] = ()  # children whose modules must stay as they are
    _seen = None

    def __init__(
            self,
            model: nn.Module,
            input_size: Optional[Tuple[int, int, int]] = None,
            in_call: bool = False,
    ):
        self.model = model
        self.input_size = input_size
        self.in_call = in_call
        self.refresh()

    def refresh(self) -> bool:
        """Run the example if the model's head, hooks or methods have changed since; return whether they have."""
        seen = self._look()
        if self._seen is not None and (
                seen == self._seen or (seen[0] == self._seen[0] and _is_sharded(self.model))):  # which adds hooks
            return False
        if not (hasattr(self.model, 'forward_features') and hasattr(self.model, 'forward_head')):
            raise UsageError(f'{_name(self.model)} has no forward_features and forward_head; {_POOLED_WORKS}')
        check_classifier(self.model)
        with trial(self.model):
            self._probe()
        self._seen = self._look()
        return True

    def _look(self) -> Tuple[List[object], List[object]]:
        methods, children = vars(self.model), self.model._modules
        own = [type(self.model).forward, methods.get('forward_features'), methods.get('forward_head')]
        if not self.in_call:
            own += _replacements(self.model)
        watched = [children[name] for name in self._watched if children.get(name) is not None]
        parts = [part for child in watched for part in child.modules()]
        return own, parts + [item for part in parts for item in _replacements(part)]

    def _probe(self) -> None:
        model, example = self.model.eval(), _example_input(self.model, self.input_size)
        try:
            model.forward_head(model.forward_features(example))
        except Exception:  # images of another size, which is not known here
            return
        self._check_forward(example)

    def _check_forward(self, example: torch.Tensor) -> None:
        """Compare the model's own forward with its two parts, in both modes and with the same random numbers."""
        model = getattr(self.model, '_orig_mod', self.model)
        for training in (False, True):
            model = train_without_statistics(model) if training else model.eval()
            with same_random_numbers(model):
                whole = type(model).forward(model, example) if self.in_call else model(example)
            parts = model.forward_head(model.forward_features(example))
            if not isinstance(whole, torch.Tensor):
                raise _unsupported(model, f'its forward returns a {type(whole).__name__}, not one tensor of logits')
            if whole.shape != parts.shape or _differ(whole.nan_to_num(), parts.nan_to_num()):
                has_hooks = not self.in_call and (model._forward_pre_hooks or model._forward_hooks)
                raise _unsupported(
                    model, f'model(x){" with its forward hooks" if has_hooks else ""}{" in train mode" * training} '
                    'differs from forward_head(forward_features(x)), which would be trained'
                    f'{"; MultiMix.attach runs hooks in both modes" if has_hooks else ""}')


class DenseEmbeddings(SplitForward):
    """Dense logits and embeddings of a timm model, by its own head. Not a module: it owns no parameters.

    Raises:
        ValueError: Also if the model has no spatial positions to mix, or returns them in an unsupported form.
    """
    _has_warned = False

    def _probe(self) -> None:
        model = self.model.eval()
        if (dropped := getattr(getattr(model, 'patch_drop', None), 'prob', 0.)) > 0.:
            raise _unsupported(model, f'patch_drop_rate={dropped:g} drops positions; with patch_drop_rate=0, it works')
        if _is_sharded(model):
            raise UsageError(
                f'{_name(model)} is sharded, so its forward_features cannot run by itself: build the task first, then '
                'shard its trainable_module (fully_shard)')
        example = _example_input(model, self.input_size)
        features, calls = record_calls(model, lambda: call_library(
            f'{_name(model)}: forward_features fails on an example of shape {list(example.shape)}; pass the input_size '
            f'(channels, height, width) that it is built for', model.forward_features, example, errors=Exception))
        grids = {output.shape[-2] * output.shape[-1] for module, output in calls if isinstance(module, nn.Conv2d)}
        self.layout = find_layout(model, features, example, grids)
        if not torch.isfinite(features).all():
            raise _unsupported(model, 'forward_features returns NaN or infinite values for a random example')
        self.example_positions = self.layout.num_positions(features)
        split = self.layout.split(features)
        logits, calls = record_calls(model, lambda: call_library(
            f'{_name(model)}: forward_head cannot take single positions; {_POOLED_WORKS}',
            model.forward_head, split, errors=Exception))
        names = {module: name for name, module in model.named_modules()}
        modules = [module for module, _ in calls]
        pools = [module for module in modules if isinstance(module, (AttentionPool2d, RotAttentionPool2d))]
        if pools:
            raise _unsupported(model, f'its {type(pools[0]).__name__} pools the whole grid, not single positions')
        check_floats(f'{_name(model)}: {_POOLED_WORKS}; logits of single positions by forward_head', logits, 'nc')
        num_classes = getattr(model, 'num_classes', None)
        if isinstance(num_classes, int) and num_classes != logits.shape[1]:
            raise UsageError(
                f'{_name(model)} returns {logits.shape[1]} logits, but its num_classes is {num_classes}: set '
                f'model.num_classes = {logits.shape[1]} if its classifier was replaced')
        call_library(
            f'{_name(model)}: forward_head must take pre_logits=True and then return the embedding; {_POOLED_WORKS}',
            model.forward_head, split, pre_logits=True, errors=TypeError)
        self._check_forward(example)
        self._norm_names = [
            names[module] for module in modules if isinstance(module, nn.modules.batchnorm._BatchNorm)]
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
        return embeddings.shape[1] == weight.shape[1] and not _differ(
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
                f"{_name(self.model)} has one position at this size of images, so mode 'dense-multimix' has "
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


def find_layout(model: nn.Module, features: torch.Tensor, example: torch.Tensor, grids: Set[int]) -> Layout:
    """Return the layout of `features`, the output of `model.forward_features(example)`.

    `grids` holds the numbers of positions of the maps inside the model, which tell whether there are class tokens.
    """
    if not isinstance(features, torch.Tensor):
        raise _unsupported(model, f'forward_features returns a {type(features).__name__}, not one tensor of positions')
    if features.ndim == 4:
        output_format = getattr(model, 'output_fmt', None)
        nhwc = getattr(output_format, 'value', output_format) == 'NHWC'
        layout = Layout('NHWC' if nhwc else 'NCHW')
    elif features.ndim == 3:
        layout = Layout('NLC', _num_prefix_tokens(model, features, example, grids))
    else:
        raise _unsupported(model, f'forward_features returns shape {list(features.shape)}, without spatial positions')
    width, expected = features.shape[1 if layout.format == 'NCHW' else -1], getattr(model, 'num_features', None)
    if isinstance(expected, int) and width != expected:
        raise _unsupported(
            model, f'forward_features returns {width} channels ({layout.format}), but num_features is {expected}')
    if layout.num_prefix_tokens < 0 or layout.num_positions(features) < 1:
        raise _unsupported(model, f'features have shape {list(features.shape)}, class tokens without patch tokens')
    return layout


def _num_prefix_tokens(model: nn.Module, features: torch.Tensor, example: torch.Tensor, grids: Set[int]) -> int:
    known, num_tokens = getattr(model, 'num_prefix_tokens', None), features.shape[1]
    if known is not None:
        return known
    # Some models have a class token but no such attribute: the size of the grid shows it.
    with contextlib.suppress(Exception):  # the method is missing or varies
        grid = model.forward_intermediates(example, indices=1, output_fmt='NCHW', intermediates_only=True)[-1]
        return num_tokens - grid.shape[-2] * grid.shape[-1]
    height, width = example.shape[-2:]
    surplus = next(
        (k for k in range(num_tokens) if num_tokens - k in grids or _is_grid(num_tokens - k, height, width)), None)
    if surplus != 0:
        raise _unsupported(
            model, f'forward_features returns {num_tokens} tokens for {height} x {width} pixels, which are not a grid '
            'of positions: set model.num_prefix_tokens to the number of class tokens and others before the grid '
            f'({"0 if there are none" if surplus is None else f"probably {surplus}"})')
    return 0


def _is_grid(num_tokens: int, height: int, width: int) -> bool:
    rows = max(round((num_tokens * height / width) ** 0.5), 1)
    return num_tokens % rows == 0 and height // rows == width // (num_tokens // rows)


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
        return classifier(embeddings[..., None, None]).flatten(1)
    return classifier(embeddings)


def _replacements(module: nn.Module) -> List[object]:
    """Return what runs before, after or in place of a module's forward."""
    return [vars(module).get('forward'), *module._forward_pre_hooks.values(), *module._forward_hooks.values()]


def _is_sharded(model: nn.Module) -> bool:
    """Return whether FSDP, of either version, holds the parameters."""
    return any(hasattr(p, 'device_mesh') or hasattr(p, '_is_flat_param') for p in model.parameters())


def _differ(logits: torch.Tensor, expected: torch.Tensor) -> bool:
    tolerance = max(1e-4, 4 * torch.finfo(expected.dtype).eps) * expected.abs().max()
    return not bool((logits - expected).abs().max() <= tolerance)


def _reached(output: torch.Tensor, parameters: List[nn.Parameter]) -> Set[nn.Parameter]:
    """Return those of the parameters that get a gradient from `output`."""
    if not (output.requires_grad and parameters):
        return set()
    grads = torch.autograd.grad(output.sum(), parameters, retain_graph=True, allow_unused=True)
    return {parameter for parameter, grad in zip(parameters, grads) if grad is not None}


def _unsupported(model: nn.Module, reason: str) -> UsageError:
    """Return the error for a model that the dense mode does not support."""
    return UsageError(f'{_name(model)}: {reason}; {_POOLED_WORKS}')


def _name(model: nn.Module) -> str:
    config = getattr(model, 'pretrained_cfg', None) or {}
    return config.get('architecture') or type(model).__name__
