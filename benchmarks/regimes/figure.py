"""The figure of `benchmarks.regimes`."""
import textwrap
from typing import Any, List

import numpy as np
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from ..methods import find
from ..report.figures import plt


def draw(scores: List[Any], methods: List[str]) -> Figure:
    """Draw how far each method is from plain training in each regime, green if it is better.

    Args:
        scores: `benchmarks.regimes.Scores`, one panel for each.
        methods: Rows; the methods that the rule recommends have a frame.
    """
    figure, axes = plt.subplots(
        1, len(scores), figsize=(5. * len(scores), 0.42 * len(methods) + 1.4), constrained_layout=True, squeeze=False)
    for axis, score in zip(axes[0], scores):
        metric, regimes = score.metric, list(score.regimes)
        differences = np.array(
            [[np.nan if (found := score.difference(regime, method)) is None else found for regime in regimes]
             for method in methods])
        # colours end at twice the median size: one collapse must not make the others pale
        reach = max(2. * float(np.nanmedian(np.abs(differences))), 10. ** -metric.digits)
        axis.imshow(
            differences, cmap='RdYlGn' if metric.higher else 'RdYlGn_r', norm=TwoSlopeNorm(0., -reach, reach),
            aspect='auto', alpha=0.7)
        for row, method in enumerate(methods):
            for column, regime in enumerate(regimes):
                if not np.isnan(differences[row, column]):
                    axis.text(
                        column, row, f'{differences[row, column]:+.{metric.digits - 1}f}', ha='center', va='center',
                        fontsize=8)
                if score.rule[regime] == method:
                    axis.add_patch(plt.Rectangle((column - 0.47, row - 0.47), 0.94, 0.94, fill=False, linewidth=2))
        axis.set_xticks(range(len(regimes)), regimes, rotation=30, ha='right')
        axis.set_yticks(range(len(methods)), [textwrap.fill(find(method).label, 24) for method in methods], fontsize=8)
        axis.set_title(f'{metric.name} minus plain training ({"more" if metric.higher else "less"} is better)', size=9)
        axis.tick_params(length=0)
    for axis in axes[0][1:]:
        axis.set_yticks([])
    return figure
