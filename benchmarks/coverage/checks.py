"""Checks of `benchmarks.coverage` on one model: each thing is done once more without the package's help."""
import copy
import traceback
import warnings
from typing import Any, Callable, Dict, NamedTuple, Optional, Set

import timm
import torch
import torch.nn as nn
import torch.nn.functional as F

from timm_multimix import MultiMixHead, MultiMixTask, functional
from timm_multimix.embeddings import check_classifier

NUM_CLASSES = 7
_LARGE = 40_000_000  # parameters above which a model is built with fewer blocks
_HUGE = 250_000_000  # and above which also with narrower ones
_NARROW = (dict(depth=2, embed_dim=192, num_heads=3),)
_SHALLOW = (
    dict(depth=2),
    dict(depths=(1, 1, 1, 1)),
    dict(depths=(2, 2, 2, 2)),
    dict(layers=(1, 1, 1, 1)),
    dict(depth=2, embed_dim=192, num_heads=3, num_kv_heads=(1, 3)),
)


class Wrong(Exception):
    """A result that is not what it must be."""


def check_model(name: str, stepped: Optional[Set[str]] = None) -> Dict[str, Any]:
    """Check one model in both modes.

    Args:
        name: Model name.
        stepped: Kinds of model that training steps were taken with; no more are taken, a new kind is added. None for
            steps in any case.

    Returns:
        'pooled' and 'dense': 'served', 'refused', 'wrong' or 'crashed'; 'reason' where not served, and what was seen.
    """
    row: Dict[str, Any] = dict(name=name, architecture=None, pooled=None, dense=None)
    torch.manual_seed(0)
    model, row['shrunk'] = build(name)
    row['architecture'] = type(model).__name__
    fill_zeros(model)
    images, target = example(model), torch.tensor([1, 4])
    pool = getattr(model, 'global_pool', '')
    pool = pool if isinstance(pool, str) else type(pool).__name__
    row['kind'] = f'{type(model).__name__}/{type(getattr(model, "head", None)).__name__}/{pool}'
    row['stepped'] = stepped is None or row['kind'] not in stepped
    if stepped is not None:
        stepped.add(row['kind'])
    plain = None
    for mode, check in (('pooled', check_pooled), ('dense', check_dense)):
        try:
            check_classifier(model)
            if row['stepped'] and plain is None:
                plain = _train_step(model, lambda model: F.cross_entropy(model(images), target))
            row.update(check(model, images, target, plain))
            row[mode] = 'served'
        except ValueError as error:
            row[mode], row[f'{mode}_reason'] = 'refused', str(error)
        except Wrong as error:
            row[mode], row[f'{mode}_reason'] = 'wrong', str(error)
        except Exception:
            row[mode], row[f'{mode}_reason'] = 'crashed', traceback.format_exc(limit=-3)
    return row


def build(name: str):
    """The model with random weights, with fewer blocks if it is large, and the arguments that make them fewer."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            with torch.device('meta'):
                size = sum(p.numel() for p in timm.create_model(name, num_classes=NUM_CLASSES).parameters())
        except Exception:  # some models compute with their parameters when built
            size = 0
        candidates = (_NARROW if size > _HUGE else ()) + (_SHALLOW if size > _LARGE else ())
        for kwargs in candidates:
            try:
                model = timm.create_model(name, num_classes=NUM_CLASSES, **kwargs)
                _run(model, example(model))
                return model, kwargs
            except Exception:  # not an argument of this model, or not one that it runs with
                continue
        return timm.create_model(name, num_classes=NUM_CLASSES), {}


def example(model: nn.Module) -> torch.Tensor:
    """Two random images, of 128 x 128 pixels if the model takes them and they leave it several positions."""
    channels, height, width = model.pretrained_cfg['input_size']
    if height > 128 and not model.pretrained_cfg.get('fixed_input_size'):
        images = torch.randn(2, channels, 128, 128)
        try:
            _run(model, images)
            return images
        except Exception:  # it needs its own size
            pass
    return torch.randn(2, channels, height, width)


@torch.no_grad()
def _run(model: nn.Module, images: torch.Tensor) -> None:
    model.eval()(images)


@torch.no_grad()
def fill_zeros(model: nn.Module) -> None:
    """Random values for weights that start at zero, such as some classifiers: a check of zero logits says nothing."""
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():
            parameter.normal_(std=parameter[0].numel() ** -0.5)


def _close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal to 2e-4 of the largest value: random weights give logits of any scale."""
    return bool((a - b).abs().max() <= 2e-4 * b.abs().max())


def check_pooled(
        model: nn.Module,
        images: torch.Tensor,
        target: torch.Tensor,
        plain: Optional['Step'],
) -> Dict[str, Any]:
    """The head is the model's own, Λ = I is cross-entropy, and what plain training trains is trained."""
    model.eval()
    with torch.no_grad():
        head = MultiMixHead(model, 'multimix')
        logits = model(images)
        _require(torch.equal(head(model.forward_features(images)), logits), 'pooled logits differ from model(x)')
        loss = functional.mixed_cross_entropy(logits, target, torch.eye(len(target)))
        _require(torch.allclose(loss, F.cross_entropy(logits.float(), target)), 'Λ = I is not cross-entropy')
    if plain is None:
        return {}
    _compare_step(model, images, target, 'multimix', plain)
    return dict(trained_parameters=len(plain.trained))


def check_dense(
        model: nn.Module,
        images: torch.Tensor,
        target: torch.Tensor,
        plain: Optional['Step'],
) -> Dict[str, Any]:
    """Dense logits are the head on single positions; a step trains all parameters, and leaves statistics and eval."""
    model.eval()
    with torch.no_grad():
        before = model(images)
        head = MultiMixHead(model, 'dense-multimix', input_size=tuple(images.shape[1:]))
        features = model.forward_features(images)
        logits, embeddings = head.dense(features)
        for position in sorted({0, logits.shape[1] // 2, logits.shape[1] - 1}):
            one = model.forward_head(_position(model, features, head.dense.layout.num_prefix_tokens, position))
            _require(_close(logits[:, position], one), f'position {position} differs')
        _require(torch.equal(model(images), before), 'model(x) in eval has changed')
        mean_is_pooled = _close(logits.mean(dim=1), before)
        hidden = getattr(model, 'head_hidden_size', None)
        _require(hidden in (None, embeddings.shape[-1]), f'embeddings of width {embeddings.shape[-1]}, not {hidden}')
    if plain is not None:
        _compare_step(model, images, target, 'dense-multimix', plain)
    return dict(
        layout=head.dense.layout.format,
        prefix_tokens=head.dense.layout.num_prefix_tokens,
        positions=logits.shape[1],
        linear_classifier=head.dense.classifier is not None,
        batch_norms_in_head=len(head.dense.batch_norms),
        mean_is_pooled=mean_is_pooled,
    )


def _position(model: nn.Module, features: torch.Tensor, num_prefix_tokens: int, position: int) -> torch.Tensor:
    """One position as features of its own, cut out without the package's help."""
    if features.ndim == 3:
        token = features[:, num_prefix_tokens + position]
        return torch.stack([token] * (num_prefix_tokens + 1), dim=1)
    if str(getattr(model, 'output_fmt', '')).endswith('NHWC'):
        row, column = divmod(position, features.shape[2])
        return features[:, row:row + 1, column:column + 1, :]
    row, column = divmod(position, features.shape[3])
    return features[:, :, row:row + 1, column:column + 1]


def _compare_step(model: nn.Module, images: torch.Tensor, target: torch.Tensor, mode: str, plain: 'Step') -> None:
    """A step of the mode trains what a plain step trains, and leaves the same running statistics."""
    mixed = _train_step(model, lambda model: _loss(model, images, target, mode))
    _require(plain.trained <= mixed.trained, f'no gradient in {sorted(plain.trained - mixed.trained)[:4]}')
    for name, buffer in plain.buffers.items():
        _require(torch.equal(buffer, mixed.buffers[name]), f'{name} differs from a plain step')


def _loss(model: nn.Module, images: torch.Tensor, target: torch.Tensor, mode: str) -> torch.Tensor:
    kwargs = dict(input_size=tuple(images.shape[1:])) if mode == 'dense-multimix' else {}
    task = MultiMixTask(model, mode=mode, num_tuples=8, verbose=False, **kwargs)
    task.train()
    torch.manual_seed(1)  # the same masks of dropout and stochastic depth as in the plain step
    result = task(images, target)
    _require(result['output'].shape == (len(target), NUM_CLASSES), 'output is not the clean logits')
    return result['loss']


class Step(NamedTuple):
    """Names of the parameters with a non-zero gradient, and the buffers, after a training step."""
    trained: Set[str]
    buffers: Dict[str, torch.Tensor]


def _train_step(model: nn.Module, loss_fn: Callable[[nn.Module], torch.Tensor]) -> Step:
    """One step on a copy of the model; its loss and gradients must be finite."""
    model = copy.deepcopy(model).train()
    torch.manual_seed(1)
    loss = loss_fn(model)
    _require(bool(torch.isfinite(loss)), f'loss is {loss.item()}')
    loss.backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    bad = [name for name, grad in grads.items() if not torch.isfinite(grad).all()]
    _require(not bad, f'non-finite gradient in {bad[:4]}')
    return Step({name for name, grad in grads.items() if grad.any()}, dict(model.named_buffers()))


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise Wrong(message)
