"""A picture of what MultiMix mixes in a batch."""
import importlib
from typing import Any, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from timm.utils import unwrap_model

from . import functional
from .checks import UsageError, call_library, check_integer
from .embeddings.probing import trial
from .head import HeadOutput, MultiMixHead
from .loss import MultiMixLoss

_TEXT, _BAR = '#7d858d', '#4c9be8'  # readable on light and on dark pages
_SHOWN = 4  # examples and classes of a tuple


def show(
        task: Any,
        images: torch.Tensor,
        target: torch.Tensor,
        path: Optional[str] = None,
        *,
        num_tuples: int = 3,
        class_names: Sequence[str] = (),
) -> Any:
    """Draw what a training step mixes, a tuple in each row: the examples with the largest weights, and the targets.

    In the dense form the brightness of an example shows its weight at each position. 'mixed' is all images of the batch
    mixed by the weights, in place of their embeddings; beside it the share of those not drawn. Tuples are sampled anew,
    with the model in eval mode; model, task and random state are not changed.

    Args:
        task: A `MultiMixTask` or a `MultiMixHead`.
        images: `[b, ch, h, w]`, as the model gets them.
        target: `[b]` class indices or `[b, c]` soft targets.
        path: File to write, such as 'mixing.png'; its background is transparent.
        num_tuples: Number of tuples to draw.
        class_names: Names of the classes, in order.

    Returns:
        The matplotlib figure, for a notebook.

    Raises:
        ValueError: If matplotlib is not installed, an argument does not fit, or the file cannot be written.
    """
    figures = call_library('show needs matplotlib', importlib.import_module, 'matplotlib.figure')
    weights, targets = _mix(task, images, target, check_integer('num_tuples', num_tuples))
    images = images.detach().float().cpu()
    images = (images - images.amin()) / (images.amax() - images.amin()).clamp(min=1e-6)
    images = images if images.shape[1] == 3 else images.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    names = [f'class {index}' for index in range(targets.shape[1])]
    names[:len(class_names)] = [name.split(',')[0][:14] for name in class_names]
    labels = target.tolist() if target.ndim == 1 else target.argmax(dim=1).tolist()

    shown, dense = min(_SHOWN, len(images)), weights[0, 0].numel() > 1
    figure = figures.Figure((1.35 * shown + 3.4, 1.65 * num_tuples), dpi=150, layout='constrained', facecolor='none')
    axes = figure.subplots(num_tuples, shown + 2, squeeze=False)
    for row, weight, mixed_target in zip(axes, weights, targets):
        shares = weight.mean(dim=(1, 2))
        light = F.interpolate(weight[:, None], images.shape[-2:], mode='nearest')  # [b, 1, h, w]
        largest, rest = (part.tolist() for part in shares.argsort(descending=True).tensor_split([shown]))
        for axis, index in zip(row[:shown], largest):
            brightness = 0.2 + 0.8 * (light[index] / light.max()).sqrt() if dense else 1.
            _draw_image(axis, images[index] * brightness, f'{names[labels[index]]} {shares[index]:.0%}')
        others = f', rest {shares[rest].sum():.0%}' if rest else ''
        _draw_image(row[shown], (light * images).sum(dim=0), f'mixed{others}')
        row[-1].set_box_aspect(images.shape[2] / images.shape[3])
        _draw_target(row[-1], mixed_target, names, 'mean target' if dense else 'target')
    if path is not None:
        call_library(f'path {path}', figure.savefig, path)
    return figure


def _mix(task, images, target, num_tuples):
    """Return weights `[n, b, rows, columns]` and the mean targets over the positions `[n, c]`, on the CPU."""
    loss, is_head = getattr(task, 'loss', None), isinstance(task, MultiMixHead)
    if not isinstance(loss, MultiMixLoss) or not (is_head or hasattr(task, 'trainable_module')):
        raise UsageError(f'task must be a MultiMixTask or a MultiMixHead, got {type(task).__name__}')
    module = None if is_head else unwrap_model(task.trainable_module)
    head = task if is_head else module.head if task.settings.mode == 'dense-multimix' else None
    model = module if head is None else head.model
    with trial(model):
        model.eval()
        images, target = images.to(next(model.parameters())), target.to(next(model.parameters()).device)
        outputs = HeadOutput(model(images)) if head is None else head.outputs(model.forward_features(images), target)
        inputs = outputs.loss_inputs(target)
        loss.check_inputs(**inputs)
        weights = loss.sample_weights(inputs['logits'], inputs.get('attention'), num_tuples)
        targets = functional.interpolate(weights, loss.smooth_target(target, inputs['logits'], mixed=True))
    weights, targets = (x if x.ndim == 3 else x[None] for x in (weights, targets))  # the pooled form is one position
    grid = grid_of(len(weights), *images.shape[-2:])
    return weights.permute(1, 2, 0).unflatten(2, grid).float().cpu(), targets.mean(dim=0).float().cpu()


def grid_of(num_positions: int, height: int, width: int) -> Tuple[int, int]:
    """Return the rows and columns of the positions of an image of this size; one row for tokens that form no grid."""
    side = (num_positions * height / width) ** 0.5
    rows = next(rows for rows in (max(round(side), 1), 1) if num_positions % rows == 0)
    return rows, num_positions // rows


def _draw_image(axis, image, title):
    axis.imshow(image.clamp(0., 1.).permute(1, 2, 0).numpy())
    axis.set_title(title, fontsize=9, color=_TEXT)
    axis.set_axis_off()


def _draw_target(axis, target, names, title):
    classes = [index for index in target.argsort(descending=True)[:_SHOWN].tolist() if target[index] > 0.005]
    bars = axis.barh([*range(0, -len(classes), -1)], target[classes].tolist(), height=0.6, color=_BAR)
    axis.bar_label(bars, [f'{target[index]:.0%}' for index in classes], padding=3, fontsize=8, color=_TEXT)
    axis.set_yticks([*range(0, -len(classes), -1)], [names[index] for index in classes], fontsize=9, color=_TEXT)
    axis.set_title(title, fontsize=9, color=_TEXT)
    axis.set(xlim=(0., 1.3), ylim=(0.5 - _SHOWN, 0.5), xticks=[], frame_on=False)
    axis.tick_params(length=0)
