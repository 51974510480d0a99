"""Which of timm's models MultiMix supports, each checked: `python -m benchmarks.coverage --output FILE`.

Every model is built with random weights (large ones with fewer blocks) and run on two random images, small ones if the
model takes them. The logits of every model are checked, without the package's help; training steps are taken with the
first model of each kind (class of model, head and pooling), as the column 'stepped' says. One JSON line is appended per
model; models that the file already has are not run again.
"""
import contextlib
import copy
import gc
import json
import os
import traceback
import warnings
from collections import Counter
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Set

import pandas as pd
import timm
import torch
import torch.nn as nn
import torch.nn.functional as F

from timm_multimix import MultiMixHead, MultiMixTask, functional
from timm_multimix.embeddings import check_classifier

from .records import COMMIT, create_parser, write_measured

_MODEL_COLUMNS = (
    'name', 'architecture', 'pooled', 'dense', 'layout', 'prefix_tokens', 'positions', 'linear_classifier',
    'batch_norms_in_head', 'mean_is_pooled', 'stepped', 'shrunk', 'commit', 'reason',
)
NUM_CLASSES = 7
_LARGE = 40_000_000  # parameters above which a model is built with fewer blocks
_HUGE = 250_000_000  # parameters above which the blocks are also narrower
_NARROW = (dict(depth=2, embed_dim=192, num_heads=3),)
_SHALLOW = (
    dict(depth=2), dict(depths=(1, 1, 1, 1)), dict(depths=(2, 2, 2, 2)), dict(layers=(1, 1, 1, 1)),
    dict(depth=2, embed_dim=192, num_heads=3, num_kv_heads=(1, 3)))


class Step(NamedTuple):
    """Names of the parameters with a non-zero gradient, and the buffers, after a training step."""
    trained: Set[str]
    buffers: Dict[str, torch.Tensor]


class Wrong(Exception):
    """A result that is not correct."""


def check_model(name: str, stepped: Optional[Set[str]] = None) -> Dict[str, Any]:
    """Check one model in both modes, by training steps too if its kind is not in `stepped`, to which it is added.

    Returns:
        'pooled' and 'dense': 'served', 'refused', 'wrong' or 'crashed', with a reason unless served; and what was seen.
    """
    torch.manual_seed(0)
    model, shrunk = build(name)
    fill_zeros(model)
    images, target = example(model), torch.tensor([1, 4])
    pool = getattr(model, 'global_pool', '')
    pool = pool if isinstance(pool, str) else type(pool).__name__
    kind = f'{type(model).__name__}/{type(getattr(model, "head", None)).__name__}/{pool}'
    row: Dict[str, Any] = dict(
        name=name, architecture=type(model).__name__, pooled=None, dense=None, shrunk=shrunk, kind=kind,
        stepped=stepped is None or kind not in stepped)
    if stepped is not None:
        stepped.add(kind)
    plain = None
    for column, mode, check in (('pooled', 'multimix', check_pooled), ('dense', 'dense-multimix', check_dense)):
        try:
            check_classifier(model)
            row.update(check(model, images, target))
            if row['stepped']:
                plain = plain or _train_step(model, lambda model: F.cross_entropy(model(images), target))
                row['trained_parameters'] = len(plain.trained)
                compare_steps(model, images, target, mode, plain)
            row[column] = 'served'
        except ValueError as error:
            row[column], row[f'{column}_reason'] = 'refused', str(error)
        except Wrong as error:
            row[column], row[f'{column}_reason'] = 'wrong', str(error)
        except Exception:
            row[column], row[f'{column}_reason'] = 'crashed', traceback.format_exc(limit=-3)
    return row


@torch.no_grad()
def build(name: str):
    """Build the model with random weights, smaller if it is large; also return the arguments that shrink it."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        size = 0
        with contextlib.suppress(Exception), torch.device('meta'):  # some compute with their parameters at construction
            size = sum(p.numel() for p in timm.create_model(name, num_classes=NUM_CLASSES).parameters())
        for kwargs in (_NARROW if size > _HUGE else ()) + (_SHALLOW if size > _LARGE else ()):
            with contextlib.suppress(Exception):  # the model lacks the argument, or does not run with it
                model = timm.create_model(name, num_classes=NUM_CLASSES, **kwargs)
                model.eval()(example(model))
                return model, kwargs
        return timm.create_model(name, num_classes=NUM_CLASSES), {}


@torch.no_grad()
def example(model: nn.Module) -> torch.Tensor:
    """Two random images, of 128 x 128 pixels if the model takes them."""
    channels, height, width = model.pretrained_cfg['input_size']
    if height > 128 and not model.pretrained_cfg.get('fixed_input_size'):
        images = torch.randn(2, channels, 128, 128)
        with contextlib.suppress(Exception):  # the model needs its own size
            model.eval()(images)
            return images
    return torch.randn(2, channels, height, width)


@torch.no_grad()
def fill_zeros(model: nn.Module) -> None:
    """Randomise weights that start at zero, such as some classifiers: a check of zero logits says nothing."""
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():
            parameter.normal_(std=parameter[0].numel() ** -0.5)


def _close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Return whether they agree to 2e-4 of the largest value: random weights give logits of any scale."""
    return bool((a - b).abs().max() <= 2e-4 * b.abs().max())


@torch.no_grad()
def check_pooled(model: nn.Module, images: torch.Tensor, target: torch.Tensor) -> Dict[str, Any]:
    """Check that the head is the model's own, and that Λ = I is cross-entropy."""
    logits = model.eval()(images)
    head = MultiMixHead(model, 'multimix')
    _require(torch.equal(head(model.forward_features(images)), logits), 'pooled logits differ from model(x)')
    loss = functional.mixed_cross_entropy(logits, target, torch.eye(len(target)))
    _require(torch.allclose(loss, F.cross_entropy(logits.float(), target)), 'Λ = I is not cross-entropy')
    return {}


@torch.no_grad()
def check_dense(model: nn.Module, images: torch.Tensor, target: torch.Tensor) -> Dict[str, Any]:
    """Check that dense logits are the head on single positions, and that eval mode stays as it was."""
    before = model.eval()(images)
    dense = MultiMixHead(model, 'dense-multimix', input_size=tuple(images.shape[1:])).dense
    features = model.forward_features(images)
    logits, embeddings = dense(features)
    for position in sorted({0, logits.shape[1] // 2, logits.shape[1] - 1}):
        one = model.forward_head(_position(model, features, dense.layout.num_prefix_tokens, position))
        _require(_close(logits[:, position], one), f'position {position} differs')
    _require(torch.equal(model(images), before), 'model(x) in eval has changed')
    hidden = getattr(model, 'head_hidden_size', None)
    _require(hidden in (None, embeddings.shape[-1]), f'embeddings of width {embeddings.shape[-1]}, not {hidden}')
    return dict(
        layout=dense.layout.format,
        prefix_tokens=dense.layout.num_prefix_tokens,
        positions=logits.shape[1],
        linear_classifier=dense.classifier is not None,
        batch_norms_in_head=len(dense.batch_norms),
        mean_is_pooled=_close(logits.mean(dim=1), before),
    )


def _position(model: nn.Module, features: torch.Tensor, num_prefix_tokens: int, position: int) -> torch.Tensor:
    """Cut out one position as features with a single position, without the package's help."""
    if features.ndim == 3:
        token = features[:, num_prefix_tokens + position]
        return torch.stack([token] * (num_prefix_tokens + 1), dim=1)
    if str(getattr(model, 'output_fmt', '')).endswith('NHWC'):
        row, column = divmod(position, features.shape[2])
        return features[:, row:row + 1, column:column + 1, :]
    row, column = divmod(position, features.shape[3])
    return features[:, :, row:row + 1, column:column + 1]


def compare_steps(model: nn.Module, images: torch.Tensor, target: torch.Tensor, mode: str, plain: Step) -> None:
    """Check that a step of the mode trains what a plain step trains, and leaves the same running statistics."""
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


def _train_step(model: nn.Module, loss_fn: Callable[[nn.Module], torch.Tensor]) -> Step:
    """Take one step on a copy of the model; its loss and gradients must be finite."""
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


def write_tables(rows: List[Dict[str, Any]], folder: str) -> None:
    """Write a line per model, and one per class of model: how many are served in each mode, and why others are not."""
    rows = [{**row, 'reason': _reason(row), 'shrunk': row.get('shrunk') or ''} for row in rows]
    frame = pd.DataFrame(rows, columns=_MODEL_COLUMNS, dtype=object)
    frame.sort_values('name').to_csv(os.path.join(folder, 'coverage_models.csv'), index=False)
    groups = frame.rename(columns=dict(name='names')).groupby('architecture')
    groups.agg(dict(
        names='size',
        **dict.fromkeys(('pooled', 'dense'), lambda states: (states == 'served').sum()),
        layout=lambda layouts: '/'.join(sorted(layouts.dropna().unique())),
        reason=lambda reasons: '; '.join(sorted({reason.split(': ', 1)[-1] for reason in reasons} - {''})),
    )).to_csv(os.path.join(folder, 'coverage_architectures.csv'))


def _reason(row: Dict[str, Any]) -> str:
    return row.get('dense_reason') or row.get('pooled_reason') or ''


def main() -> None:
    parser = create_parser(__doc__, prog='benchmarks.coverage')
    parser.add_argument('--output', required=True, help='file of JSON lines to append to')
    parser.add_argument('--results', help='folder to write coverage.json and the two CSV tables into')
    parser.add_argument('--models', nargs='+', help='names or patterns of timm models (all)')
    parser.add_argument('--threads', type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    names = timm.list_models(args.models or '')
    rows: List[Dict[str, Any]] = []
    with contextlib.suppress(FileNotFoundError), open(args.output, encoding='utf-8') as file:
        rows += map(json.loads, file)
    done = {row['name'] for row in rows}
    stepped = {row['kind'] for row in rows if row.get('stepped')}
    with open(args.output, 'a', encoding='utf-8') as file:
        for index, name in enumerate(names):
            if name in done:
                continue
            try:
                row = check_model(name, stepped)
            except Exception:
                reason = traceback.format_exc(limit=-3)
                row = dict(name=name, architecture='?', pooled='crashed', dense='crashed', pooled_reason=reason)
            row['commit'] = COMMIT
            rows.append(row)
            file.write(json.dumps(row) + '\n')
            file.flush()
            states = f'pooled {row["pooled"]}, dense {row["dense"]}'
            print(f'[{index + 1}/{len(names)}] {name}: {states} {_reason(row)}', flush=True)
            gc.collect()
    counts = {mode: dict(sorted(Counter(row[mode] for row in rows).items())) for mode in ('pooled', 'dense')}
    print(counts)
    if args.results:
        settings = dict(models=args.models, threads=args.threads, commits=sorted({row['commit'] for row in rows}))
        write_measured(os.path.join(args.results, 'coverage.json'), 'coverage', settings, dict(counts=counts))
        write_tables(rows, args.results)


if __name__ == '__main__':
    main()
