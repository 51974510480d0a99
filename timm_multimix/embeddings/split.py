"""A model as features and head: that they are all that it does, and what else is asked of any model."""
from typing import List, Optional, Tuple

import torch
import torch.nn as nn

from ..checks import UsageError
from .model import POOLED_WORKS, differ, example_input, is_sharded, name_of, unsupported
from .probing import same_random_numbers, train_without_statistics, trial


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
    _example_shape = None  # of the features, where an example could run

    def __init__(self, model: nn.Module, input_size: Optional[Tuple[int, int, int]] = None, in_call: bool = False):
        self.model = model
        self.input_size = input_size
        self.in_call = in_call
        self.refresh()

    def refresh(self) -> bool:
        """Run the example if the model's head, hooks or methods have changed since; return whether they have."""
        check_classifier(self.model)
        seen = self._look()
        if self._seen is not None and (
                seen == self._seen or (seen[0] == self._seen[0] and is_sharded(self.model))):  # which adds hooks
            return False
        if not (hasattr(self.model, 'forward_features') and hasattr(self.model, 'forward_head')):
            raise UsageError(
                f'{name_of(self.model)} has no forward_features and forward_head, which docs/own-models.md adds; '
                f'{POOLED_WORKS}')
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
        model, example = self.model.eval(), example_input(self.model, self.input_size)
        try:
            features = model.forward_features(example)
            model.forward_head(features)
        except Exception:  # images of another size, which is not known here
            return
        self._example_shape = getattr(features, 'shape', None)
        self._check_forward(example)

    def check_features(self, features: torch.Tensor) -> None:
        """Refuse what has no dimension of the model's width, such as images."""
        known, shape = self._example_shape, getattr(features, 'shape', ())
        if known and (len(shape) != len(known) or not {shape[1], shape[-1]} & {known[1], known[-1]}):
            raise UsageError(
                f'features must be the output of {name_of(self.model)}.forward_features, such as {list(known)}, got '
                f'{f"shape {list(shape)}" if shape else type(features).__name__}')

    def _check_forward(self, example: torch.Tensor) -> None:
        """Compare the model's own forward with its two parts, in both modes and with the same random numbers."""
        model = getattr(self.model, '_orig_mod', self.model)
        for training in (False, True):
            model = train_without_statistics(model) if training else model.eval()
            with same_random_numbers(model):
                whole = type(model).forward(model, example) if self.in_call else model(example)
            parts = model.forward_head(model.forward_features(example))
            if not isinstance(whole, torch.Tensor):
                raise unsupported(model, f'its forward returns a {type(whole).__name__}, not one tensor of logits')
            if whole.shape != parts.shape or differ(whole.nan_to_num(), parts.nan_to_num()):
                has_hooks = not self.in_call and (model._forward_pre_hooks or model._forward_hooks)
                raise unsupported(
                    model, f'model(x){" with its forward hooks" if has_hooks else ""}{" in train mode" * training} '
                    'differs from forward_head(forward_features(x)), which would be trained'
                    f'{"; MultiMix.attach runs hooks in both modes" if has_hooks else ""}')


def check_classifier(model: nn.Module) -> None:
    """Refuse models that no mode can train: without classes, or with two sets of logits."""
    if not isinstance(model, nn.Module):
        raise UsageError(f'model must be a torch.nn.Module, got {model!r}')
    if getattr(model, 'num_classes', None) == 0:
        raise UsageError(f'{name_of(model)} has num_classes=0, no classifier to train; build it with num_classes >= 1')
    if getattr(model, 'distilled_training', False):
        raise UsageError(f'{name_of(model)} returns two sets of logits; call set_distilled_training(False)')


def _replacements(module: nn.Module) -> List[object]:
    """Return what runs before, after or in place of a module's forward."""
    return [vars(module).get('forward'), *module._forward_pre_hooks.values(), *module._forward_hooks.values()]
