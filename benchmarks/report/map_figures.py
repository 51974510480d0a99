"""Figures of attention and of mixed tuples over images, from the records of `benchmarks.attention`."""
import base64
import io
from typing import Any, Dict, List

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from ..methods import find
from ..suite.runs import Runs
from .figures import plt

_EXAMPLES = 4  # shown per tuple


def attention_maps(runs: Runs) -> Figure:
    """The images, and below each the attention of every method's first seed, brightest where it is largest."""
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
        row[0].set_ylabel(find(method).label, fontsize=9)
        for axis, image, weights in zip(row, images, records[0]['result']['attention']):
            _overlay(axis, image, np.array(weights))
    plt.setp(axes.flat, xticks=[], yticks=[])
    return figure


def mixed_tuples(record: Dict[str, Any]) -> Figure:
    """Draw each tuple as a row: the examples with the largest weights, their weight at every position, and the target.

    The mixed target is drawn as the class with the largest share at each position, more solid for a larger share.
    """
    result = record['result']
    images, weights = [_decode(image) for image in result['images']], np.array(result['weights'])
    columns = min(_EXAMPLES, len(images))
    figure, axes = plt.subplots(
        len(weights), columns + 1, figsize=(1.9 * columns + 3.2, 2.05 * len(weights)), constrained_layout=True,
        squeeze=False)
    for row, tuple_weights in zip(axes, weights):
        means = tuple_weights.mean(axis=(1, 2))
        for axis, index in zip(row, np.argsort(-means, kind='stable')[:columns]):
            _overlay(axis, images[index], tuple_weights[index], largest=1.)
            axis.set_title(f'{result["classes"][result["labels"][index]]}, {means[index]:.2f} on average', fontsize=8)
        shares = mixed_target(tuple_weights, result['labels'], len(result['classes']))
        row[-1].imshow(
            shares.argmax(axis=0) % 10, cmap='tab10', vmin=0, vmax=9, alpha=shares.max(axis=0), extent=(0, 1, 0, 1))
        row[-1].set_title('target: largest class', fontsize=8)
    plt.setp(axes.flat, xticks=[], yticks=[])
    colors = plt.get_cmap('tab10')
    shown = sorted(set(result['labels']))
    patches = [Patch(color=colors(label % 10), label=result['classes'][label]) for label in shown]
    figure.legend(handles=patches, loc='outside right center', fontsize=8)
    return figure


def mixed_target(weights: np.ndarray, labels: List[int], num_classes: int) -> np.ndarray:
    """Class shares `[c, h, w]` of a tuple with weights `[b, h, w]`."""
    shares = np.zeros((num_classes, *weights.shape[1:]))
    np.add.at(shares, labels, weights)
    return shares


def _overlay(axis, image: np.ndarray, weights: np.ndarray, largest: float = 0.) -> None:
    """Darken the image where the weight is small; full brightness is at `largest`, or at its own maximum if 0."""
    axis.imshow(image.mean(axis=-1), cmap='gray', vmin=0, vmax=255, extent=(0, 1, 0, 1))
    axis.imshow(
        weights, cmap='inferno', vmin=0., vmax=largest or max(weights.max(), 1e-12), alpha=0.65, extent=(0, 1, 0, 1))


def _decode(image: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(image))) as picture:
        return np.asarray(picture.convert('RGB'))
