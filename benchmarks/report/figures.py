"""The figures. Those of results take a frame of one recipe; a method looks the same in all of them."""
import statistics
import textwrap
from typing import Any, Dict, Sequence

import matplotlib

matplotlib.use('Agg')
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.colors import TwoSlopeNorm  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from timm_multimix import MultiMixHead  # noqa: E402

from ..measures.subject import Subject, look  # noqa: E402
from .frame import entry_of, methods_of, of_method  # noqa: E402
from .tables import ACCURACY, Regimes  # noqa: E402

_SIZES = dict(tuples='n', positions='r', classes='c', batch_size='b')


def accuracy(frame: pd.DataFrame) -> Figure:
    """Top-1 and test loss: each point is a seed, bars are means."""
    methods, metrics = methods_of(frame), ACCURACY[:2]
    figure, axes = plt.subplots(
        1, len(metrics), figsize=(2.4 + 3.2 * len(metrics), 1.2 + 0.36 * len(methods)), sharey=True,
        constrained_layout=True, squeeze=False)
    for axis, metric in zip(axes[0], metrics):
        for row, method in enumerate(methods):
            values = list(metric.of(of_method(frame, method)).values())
            known = [value for value in values if value is not None]
            color = entry_of(method).color
            axis.plot(known, [row] * len(known), 'o', color=color, markersize=6)
            if known and len(known) == len(values):  # without a seed that diverged, a mean would flatter
                axis.plot([statistics.fmean(known)] * 2, [row - 0.3, row + 0.3], color=color, linewidth=1.5)
        axis.set_xlabel(metric.name)
        axis.grid(alpha=0.3)
    axes[0, 0].set_yticks(range(len(methods)), [entry_of(method).label for method in methods])
    axes[0, 0].invert_yaxis()
    return figure


def regimes(scores: Sequence[Regimes]) -> Figure:
    """How far each method is from plain training in each regime, green if it is better."""
    methods = scores[0].methods
    figure, axes = plt.subplots(
        1, len(scores), figsize=(5. * len(scores), 0.42 * len(methods) + 1.4), constrained_layout=True, squeeze=False)
    for axis, score in zip(axes[0], scores):
        metric, names = score.metric, list(score.runs)
        differences = np.array([
            [np.nan if (found := score.difference(regime, method)) is None else found for regime in names]
            for method in methods])
        # colours end at twice the median size: one collapse must not make the others pale
        known = np.abs(differences[~np.isnan(differences)])
        reach = max(2. * float(np.median(known)) if known.size else 0., 10. ** -metric.digits)
        axis.imshow(
            differences, cmap='RdYlGn' if metric.higher else 'RdYlGn_r', norm=TwoSlopeNorm(0., -reach, reach),
            aspect='auto', alpha=0.7)
        for row, column in np.argwhere(~np.isnan(differences)):
            axis.text(
                column, row, f'{differences[row, column]:+.{metric.digits - 1}f}', ha='center', va='center', fontsize=8)
        axis.set_xticks(range(len(names)), names, rotation=30, ha='right')
        labels = [textwrap.fill(entry_of(method).label, 24) for method in methods]
        axis.set_yticks(range(len(methods)), labels, fontsize=8)
        axis.set_title(f'{metric.name} minus plain training ({"more" if metric.higher else "less"} is better)', size=9)
        axis.tick_params(length=0)
    for axis in axes[0][1:]:
        axis.set_yticks([])
    return figure


def loss_times(result: Dict[str, Any]) -> Figure:
    """The time of the loss over each size, with the others at their base."""
    base, sizes = result['base'], [name for name in _SIZES if name in result['slopes']]
    figure, panels = plt.subplots(
        1, len(sizes), figsize=(4. * len(sizes), 4.), sharey=True, constrained_layout=True, squeeze=False)
    for name, panel in zip(sizes, panels[0]):
        rows = [row for row in result['sizes'] if all(row['size'][key] == base[key] for key in base if key != name)]
        rows.sort(key=lambda row: row['size'][name])
        for timed in [*dict.fromkeys(timed for row in rows for timed in row['seconds']), 'floor']:
            times = [(row['size'][name], dict(row['seconds'], floor=row['floor']).get(timed)) for row in rows]
            look = dict(linestyle='--', color='gray') if timed == 'floor' else dict(marker='o')
            panel.plot(*zip(*[point for point in times if point[1] is not None]), label=timed, **look)
        panel.set(xscale='log', yscale='log', xlabel=f'{name} ({_SIZES[name]})')
        panel.grid(alpha=0.3)
    panels[0, 0].set_ylabel('seconds, forward and backward')
    panels[0, 0].legend()
    return figure


@torch.no_grad()
def attention(subjects: Dict[str, Subject], count: int = 8, tuples: int = 3) -> Figure:
    """Test images, each model's attention over them, and for the last model tuples that Dense MultiMix draws of them.

    A row of attention is brightest where an image's is largest, a tuple where the weight of an example is 1.
    """
    subject = next(iter(subjects.values()))
    pixels, labels = next(subject.batches(subject.images(), count))
    rows = {'image': pixels.permute(0, 2, 3, 1).cpu().numpy()}
    for name, subject in subjects.items():
        head = MultiMixHead(
            subject.model.model, 'dense-multimix', num_tuples=tuples, input_size=tuple(pixels.shape[1:]))
        outputs, grid = look(subject, head, pixels, labels)
        rows[name] = [one / one.max().clamp(min=1e-12) for one in outputs.attention.unflatten(1, grid).cpu()]
    torch.manual_seed(0)
    weights = head.loss.sample_weights(outputs.dense_logits, outputs.attention).cpu()  # [r, n, b]
    for index, one in enumerate(weights.permute(1, 2, 0).unflatten(2, grid)):
        rows[f'tuple {index + 1}'] = one
    figure, axes = plt.subplots(
        len(rows), len(pixels), figsize=(1.35 * len(pixels) + 1., 1.45 * len(rows)), constrained_layout=True,
        squeeze=False)
    for line, (name, maps) in zip(axes, rows.items()):
        line[0].set_ylabel(name, fontsize=9)
        for axis, image, one in zip(line, rows['image'], maps):
            axis.imshow(image if name == 'image' else image.mean(axis=-1), cmap='gray', extent=(0, 1, 0, 1))
            if name != 'image':
                axis.imshow(one, cmap='inferno', vmin=0., vmax=1., alpha=0.65, extent=(0, 1, 0, 1))
    plt.setp(axes.flat, xticks=[], yticks=[])
    return figure
