"""Figures of the report, each from the records of one part."""
import io
import statistics
import textwrap
from typing import Any, Callable, Dict, List, Optional, Tuple

import matplotlib

matplotlib.use('Agg')
import numpy as np  # noqa: E402
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from ..methods import find  # noqa: E402
from ..suite.runs import Runs, all_records, mean_and_spread  # noqa: E402
from .metrics import ACCURACY_METRICS  # noqa: E402


def style(method: str) -> Dict[str, Any]:
    """Colour, line and marker of a method, the same in all figures; a variant has its method's colour."""
    entry = find(method)
    face = 'white' if entry.line == '--' else entry.color
    return dict(color=entry.color, linestyle=entry.line, marker=entry.marker, markerfacecolor=face)


def attacks(runs: Runs) -> Figure:
    """Top-1 against the radius of FGSM and PGD; 0 is no attack."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True, constrained_layout=True)
    for axis, attack in zip(axes, ('fgsm', 'pgd')):
        radii = [0, *sorted({row['eps_255'] for row in _lines(axis, runs, 'attacks', 'attack', attack, 'eps_255')})]
        axis.set(title=attack.upper(), xlabel='radius (of 255, l-inf)')
        axis.set_xscale('function', functions=(np.log1p, np.expm1))  # most changes happen at small radii
        axis.set_xticks(radii, [f'{radius:g}' for radius in radii])
    return _with_legend(figure, axes, 'top-1 (%)')


def corruptions(runs: Runs) -> Figure:
    """Top-1 against the strength of each corruption; 0 is none."""
    rows = [row for record in all_records(runs) for row in record['result']['corruptions']]
    names = list(dict.fromkeys(row['corruption'] for row in rows))
    figure, axes = plt.subplots(1, len(names), figsize=(13, 4.2), sharey=True, constrained_layout=True, squeeze=False)
    for axis, name in zip(axes[0], names):
        rows = _lines(axis, runs, 'corruptions', 'corruption', name, 'level')
        strengths = {row['level']: row['strength'] for row in rows}
        axis.set_title(name)
        axis.set_xticks([0, *strengths], ['none', *(f'{strength:g}' for strength in strengths.values())])
    return _with_legend(figure, axes[0], 'top-1 (%)')


def _lines(axis, runs: Runs, part: str, kind: str, name: str, at: str) -> List[Dict[str, Any]]:
    """Plot top-1 over `at` for each method, with spreads; return the rows of `part` whose `kind` is `name`."""
    drawn = []
    for method, records in runs.items():
        points: Dict[float, List[float]] = {0: [record['result']['top1'] for record in records]}
        for row in (row for record in records for row in record['result'][part] if row[kind] == name):
            points.setdefault(row[at], []).append(row['top1'])
            drawn.append(row)
        x, mean, spread = zip(*[(x, *mean_and_spread(values)) for x, values in sorted(points.items())])
        axis.errorbar(
            x, mean, yerr=[value or 0. for value in spread], label=find(method).label, markersize=5, capsize=2,
            **style(method))
    axis.grid(alpha=0.3)
    return drawn


def outliers(runs: Runs) -> Figure:
    """AUROC of both scores on each set, and the calibration error."""
    names = list(dict.fromkeys(name for record in all_records(runs) for name in record['result']['sets']))
    columns = len(names) + 1
    figure, axes = plt.subplots(
        1, columns, figsize=(2.4 + 2.2 * columns, 1.4 + 0.33 * len(runs)), sharey=True, constrained_layout=True,
        squeeze=False)
    for row, (method, records) in enumerate(runs.items()):
        for axis, name in zip(axes[0], names):
            for score, filled, shift in (('msp', True, -0.13), ('energy', False, 0.13)):
                sets = [record['result']['sets'] for record in records]
                values = [100. * each[name][score]['auroc'] for each in sets if name in each]
                _dots(axis, method, values, row + shift, filled)
        _dots(axes[0, -1], method, [100. * record['result']['ece'] for record in records], row, True)
    for axis, name in zip(axes[0], names):
        axis.set(title=name, xlabel='AUROC (%)')
    axes[0, -1].set(title='calibration', xlabel='ECE (%)')
    _rows(axes[0], list(runs))
    return figure


def embedding_numbers(runs: Runs) -> Figure:
    """Alignment against uniformity, and the spread of the classes against their separation."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.6), constrained_layout=True)
    for axis, (x, y) in zip(axes, (('uniformity', 'alignment'), ('separation', 'spread'))):
        for method, records in runs.items():
            (mean_x, spread_x), (mean_y, spread_y) = (
                mean_and_spread([record['result'][name] for record in records]) for name in (x, y))
            _point(axis, method, mean_x, mean_y, capsize=2, xerr=spread_x, yerr=spread_y)
        better = 'lower' if x == 'uniformity' else 'higher'
        axis.set(xlabel=f'{x} ({better} is better)', ylabel=f'{y} (lower is better)')
        axis.locator_params(axis='x', nbins=6)
        axis.grid(alpha=0.3)
    return _with_legend(figure, axes)


def embedding_pictures(runs: Runs) -> Figure:
    """The projected embeddings of each method's first seed, side by side."""
    columns = min(4, len(runs))
    rows = -(-len(runs) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3.1 * columns, 3.2 * rows), constrained_layout=True, squeeze=False)
    for axis in axes.flat:
        axis.axis('off')
    for axis, (method, records) in zip(axes.flat, runs.items()):
        picture = records[0]['result']['picture']
        colours = [label % 10 for label in picture['label']]  # with more than ten classes some share a colour
        axis.scatter(picture['x'], picture['y'], c=colours, cmap='tab10', vmin=0, vmax=9, s=9, linewidths=0)
        axis.set_title(find(method).label, fontsize=11)
        axis.axis('on')
        axis.set(xticks=[], yticks=[])
    return figure


def step_times(runs: Runs, times: Dict[str, Dict[str, Any]]) -> Figure:
    """Accuracy against the time of a training step, as a ratio to plain training, from `benchmarks.step_time`."""
    figure, axis = plt.subplots(figsize=(9, 4.6), constrained_layout=True)
    for method, records in runs.items():
        if method in times:
            ratio, (low, high) = times[method]['ratio'], times[method]['ratio_quartiles']
            mean, spread = mean_and_spread([record['result']['top1'] for record in records])
            errors = [[max(ratio - low, 0.)], [max(high - ratio, 0.)]]
            _point(axis, method, ratio, mean, capsize=3, xerr=errors, yerr=spread)
    axis.set_xlabel('time of a training step, ratio to plain training (median and quartiles)')
    axis.grid(alpha=0.3)
    return _with_legend(figure, [axis], 'top-1 (%)')


def accuracy(runs: Runs, title: str = '', caption: str = '') -> Figure:
    """Top-1 and test loss of every seed."""
    return points(runs, {metric.name: metric.value for metric in ACCURACY_METRICS[:2]}, title, caption)


def points(
        runs: Runs, metrics: Dict[str, Callable[[Dict[str, Any]], Optional[float]]], title: str = '',
        caption: str = '',
) -> Figure:
    """Plot every seed as a point and the mean as a bar, with a panel for each metric and the wrapped caption below.

    A seed without a number has no point, and a method with such a seed has no bar.
    """
    lines = textwrap.wrap(caption, 150, break_on_hyphens=False)  # as wide as the figure at size 7
    height = 1.2 + 0.36 * len(runs) + 0.25 * bool(title) + 0.15 * len(lines)
    figure, axes = plt.subplots(
        1, len(metrics), figsize=(9, height), sharey=True, constrained_layout=True, squeeze=False)
    for axis, (name, value) in zip(axes[0], metrics.items()):
        for row, (method, records) in enumerate(runs.items()):
            _dots(axis, method, [value(record['result']) for record in records], row, True)
        axis.set_xlabel(f'{name}; each point a seed, bars their means' if lines else name)
    _rows(axes[0], list(runs))
    if title:
        figure.suptitle(title, fontsize=11)
    if lines:  # the layout leaves room for this label, however many lines it has
        figure.supxlabel('\n'.join(lines), x=0.01, ha='left', fontsize=7, color='0.4')
    return figure


def to_png(figure: Figure) -> bytes:
    """Encode the figure as PNG, and close it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=110)
    plt.close(figure)
    return buffer.getvalue()


def _dots(axis, method: str, values: List[Optional[float]], row: float, filled: bool) -> None:
    color = style(method)['color']
    known = [value for value in values if value is not None]
    axis.plot(known, [row] * len(known), 'o', color=color, markerfacecolor=color if filled else 'white', markersize=6)
    if known and len(known) == len(values):
        axis.plot([statistics.fmean(known)] * 2, [row - 0.3, row + 0.3], color=color, linewidth=1.5)


def _point(axis, method: str, x: float, y: float, **errors: Any) -> None:
    axis.errorbar(x, y, label=find(method).label, markersize=8, **errors, **dict(style(method), linestyle='none'))


def _rows(axes, methods: List[str]) -> None:
    for axis in axes:
        axis.grid(alpha=0.3)
    axes[0].set_yticks(range(len(methods)), [find(method).label for method in methods])
    axes[0].invert_yaxis()


def _with_legend(figure: Figure, axes, label: str = '') -> Figure:
    if label:
        axes[0].set_ylabel(label)
    handles: Tuple = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc='outside right center', fontsize=9)
    return figure
