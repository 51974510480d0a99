"""Figures of attention and of mixed tuples over images, from the records of `benchmarks.attention`."""
import base64
import io
from typing import Any, Dict

import matplotlib

matplotlib.use('Agg')
import numpy as np  # noqa: E402
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from PIL import Image  # noqa: E402

from .accuracy_table import Runs  # noqa: E402

_EXAMPLES = 4  # of a tuple that are shown


def attention_maps(runs: Runs) -> Figure:
    """The images, and below each the attention of the first seed of every method, brightest where it is largest."""
    first = next(iter(runs.values()))[0]['result']
    images = [_decode(image) for image in first['images']]
    figure, axes = plt.subplots(
        1 + len(runs), len(images), figsize=(1.35 * len(images) + 1., 1.45 * (1 + len(runs))), constrained_layout=True,
        squeeze=False)
    for axis, image, label in zip(axes[0], images, first['labels']):
        axis.imshow(image, extent=(0, 1, 0, 1))
        axis.set_title(first['classes'][label], fontsize=9)
    axes[0, 0].set_ylabel('image', fontsize=9)
    for row, (method, records) in zip(axes[1:], runs.items()):
        row[0].set_ylabel(method, fontsize=9)
        for axis, image, weights in zip(row, images, records[0]['result']['attention']):
            _overlay(axis, image, np.array(weights))
    _bare(axes)
    return figure


def mixed_tuples(record: Dict[str, Any]) -> Figure:
    """Each tuple a row: the examples that weigh most with their weight at every position, and the mixed target."""
    result = record['result']
    images, weights = [_decode(image) for image in result['images']], np.array(result['weights'])
    columns = min(_EXAMPLES, len(images))
    figure, axes = plt.subplots(
        len(weights), columns + 1, figsize=(1.9 * columns + 3.2, 1.95 * len(weights)), constrained_layout=True,
        squeeze=False, width_ratios=[1.] * columns + [1.5])
    for row, tuple_weights, target in zip(axes, weights, result['target']):
        means = tuple_weights.mean(axis=(1, 2))
        for axis, index in zip(row, np.argsort(-means, kind='stable')[:columns]):
            _overlay(axis, images[index], tuple_weights[index], largest=1.)
            axis.set_title(f'{result["classes"][result["labels"][index]]}, {means[index]:.2f} on average', fontsize=8)
        row[-1].barh(range(len(target)), target, color='#ff7f0e')
        row[-1].set_yticks(range(len(target)), result['classes'], fontsize=7)
        row[-1].set_xlim(0, 1)
        row[-1].tick_params(axis='x', labelsize=7)
        row[-1].invert_yaxis()
        row[-1].set_title('target, mean over positions', fontsize=8)
    _bare(axes[:, :-1])
    return figure


def _overlay(axis, image: np.ndarray, weights: np.ndarray, largest: float = 0.) -> None:
    """The image darkened where the weight is small; its own maximum is full brightness where `largest` is 0."""
    axis.imshow(image.mean(axis=-1), cmap='gray', vmin=0, vmax=255, extent=(0, 1, 0, 1))
    axis.imshow(
        weights, cmap='inferno', vmin=0., vmax=largest or max(weights.max(), 1e-12), alpha=0.65, extent=(0, 1, 0, 1))


def _decode(image: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(image))) as picture:
        return np.asarray(picture.convert('RGB'))


def _bare(axes) -> None:
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
