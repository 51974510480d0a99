"""Draw the pictures of the methods, light and dark: `python -m docs.images.method_picture`.

The photographs come with scikit-image: a cat, a rocket, a cup of coffee and an astronaut, all in the public domain. The
mixing and the attention are the library's own. Two things stand in for a model: images are mixed instead of embeddings,
and the embedding of a position is the contrast of the photograph there, on three scales.
"""
import argparse
import os
import sys
from itertools import product
from typing import Dict, List, Optional

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from timm_multimix import functional

FOLDER = os.path.join('docs', 'images')
THEMES = {
    'light': dict(background='#ffffff', text='#1f2328', quiet='#59636e'),
    'dark': dict(background='#0d1117', text='#f0f6fc', quiet='#9198a1'),
}
"""The colours of GitHub's pages."""
COLORS = ('#e8833a', '#4c9be8', '#3fb27f', '#c678dd')
"""Colours of the photographs, readable on both backgrounds."""
GRID = 7  # positions along a side, as a ResNet has at 224 pixels
SIDE = 280  # pixels of a photograph


def photographs() -> torch.Tensor:
    """`[4, 3, h, w]` in [0, 1]: squares of the four photographs."""
    from skimage import data
    cat, rocket, coffee, astronaut = data.chelsea(), data.rocket(), data.coffee(), data.astronaut()
    squares = [cat[:, 90:390], rocket[:, 140:567], coffee[:, 120:520], astronaut[:330, 60:390]]
    images = [torch.from_numpy(np.ascontiguousarray(square)).permute(2, 0, 1).float() / 255. for square in squares]
    return torch.cat([F.interpolate(image[None], (SIDE, SIDE), mode='area') for image in images])


def embeddings(images: torch.Tensor) -> torch.Tensor:
    """Contrast on three scales at every position, `[b, r, d]`, in place of a model's features."""
    grey = images.mean(dim=1, keepdim=True)
    contrasts = [
        (grey - F.avg_pool2d(grey, size, 1, size // 2, count_include_pad=False)).abs() for size in (5, 15, 45)]
    return F.adaptive_avg_pool2d(torch.cat(contrasts, dim=1), GRID).flatten(2).transpose(1, 2)


def draw(picture: str, theme: str) -> Figure:
    colors, heights = THEMES[theme], PICTURES[picture]
    torch.manual_seed(7)
    images = photographs()
    figure = plt.figure(figsize=(7.2, sum(heights.values())), facecolor=colors['background'])
    rows = figure.subfigures(len(heights), 1, height_ratios=[*heights.values()], squeeze=False)[:, 0]
    for row, draw_row in zip(rows, heights):
        row.set_facecolor(colors['background'])
        draw_row(row, images, colors)
    return figure


def _mixup(row, images: torch.Tensor, colors: Dict[str, str]) -> None:
    lam = 0.6
    _title(row, 'Mixup', 'mixes two images, by one weight', colors)
    axes = row.subplots(1, 3, gridspec_kw=dict(left=0.05, right=0.95, top=0.66, bottom=0.15, wspace=0.28))
    _photo(axes[0], images[0], 0)
    _photo(axes[1], images[2], 2)
    _photo(axes[2], lam * images[0] + (1. - lam) * images[2])
    _sign(row, axes[0], axes[1], '+', colors)
    _sign(row, axes[1], axes[2], '=', colors)
    for axis, text, color in ((axes[0], '0.6', COLORS[0]), (axes[1], '0.4', COLORS[2])):
        axis.set_xlabel(text, fontsize=20, color=color, fontweight='bold')
    _bar(axes[2], np.array([lam, 0., 1. - lam, 0.]))


def _multimix(row, images: torch.Tensor, colors: Dict[str, str]) -> None:
    _title(row, 'MultiMix', 'mixes the embeddings of the whole\nbatch, a thousand times a step', colors)
    grid = row.add_gridspec(2, 4, left=0.05, right=0.95, top=0.69, bottom=0.08, wspace=0.1, hspace=0.2)
    for index, image in enumerate(images):
        _photo(row.add_subplot(grid[0, index]), image, index)
    lam = functional.sample_dirichlet(4, 4, 2.)
    for index, mixed in enumerate(functional.interpolate(lam, images.flatten(1))):
        axis = row.add_subplot(grid[1, index])
        _photo(axis, mixed.unflatten(0, images.shape[1:]))
        _bar(axis, lam[index].numpy())


def _dense(row, images: torch.Tensor, colors: Dict[str, str]) -> None:
    _title(row, 'Dense MultiMix', 'does so at every position,\nweighted by attention', colors)
    attention = functional.spatial_attention(embeddings(images))
    grid = row.add_gridspec(1, 4, left=0.05, right=0.95, top=0.725, bottom=0.455, wspace=0.1)
    for index, image in enumerate(images):
        axis = row.add_subplot(grid[0, index])
        share = attention[index].unflatten(0, (GRID, GRID))
        share = share / share.max()
        seen = F.interpolate(share[None, None], (SIDE, SIDE), mode='nearest')[0]
        _photo(axis, image * (0.2 + 0.8 * seen), index)
    lam = functional.sample_dirichlet(2, 4, 2., positions=GRID * GRID)
    weights = functional.dense_weights(lam, attention)  # [r, n, b]
    target = weights @ torch.tensor([to_rgb(color) for color in COLORS], dtype=weights.dtype)
    grid = row.add_gridspec(1, 2, left=0.05, right=0.95, top=0.425, bottom=0.085, wspace=0.05)
    large = F.interpolate(
        weights.permute(1, 2, 0).unflatten(2, (GRID, GRID)), (SIDE, SIDE), mode='nearest')  # [n, b, h, w]
    mixed, mixed_target = (large[0][:, None] * images).sum(dim=0), target[:, 0].T.unflatten(1, (GRID, GRID))
    for cell, picture, label in zip(grid, (mixed, mixed_target), ('one tuple', 'its targets')):
        axis = row.add_subplot(cell)
        _photo(axis, picture)
        axis.set_xlabel(label, fontsize=19, color=colors['quiet'])


def _distillation(row, images: torch.Tensor, colors: Dict[str, str]) -> None:
    what = 'mixes a second view by the same weights,\nfor a teacher, the average of the model'
    _title(row, 'Self-distillation', what, colors)
    crop = SIDE * 3 // 4
    views = images[..., -crop:, :crop], images[..., :crop, -crop:].flip(-1)
    weights = functional.sample_dirichlet(1, 4, 2.)
    grid = row.add_gridspec(2, 5, left=0.05, right=0.95, top=0.66, bottom=0.15, wspace=0.12, hspace=0.5)
    for line, (view, name, output) in enumerate(zip(views, ('student', 'teacher'), ('$p$', "$p'$"))):
        for index, image in enumerate(view):
            axis = row.add_subplot(grid[line, index])
            _photo(axis, image, index)
            if index == 0:
                axis.set_title(name, fontsize=19, color=colors['quiet'], loc='left')
        axis = row.add_subplot(grid[line, 4])
        _photo(axis, functional.interpolate(weights, view.flatten(1))[0].unflatten(0, view.shape[1:]))
        _bar(axis, weights[0].numpy())
        axis.set_title(output, fontsize=22, color=colors['text'])
    row.text(
        0.5, 0.035, "$p$ learns the labels ($\\gamma$) and $p'$ (1 - $\\gamma$)", fontsize=20, color=colors['quiet'],
        ha='center')


def _mixupe(row, images: torch.Tensor, colors: Dict[str, str]) -> None:
    _title(row, 'MixupE', 'adds how the output changes on the way\nfrom an image to the mean of all images', colors)
    mean = images.mean(dim=0)
    axes = row.subplots(1, 4, gridspec_kw=dict(left=0.05, right=0.95, top=0.6, bottom=0.13, wspace=0.28))
    for step, axis in enumerate(axes):
        _photo(axis, torch.lerp(images[0], mean, step / 3.), 0 if step == 0 else None)
    for first, second in zip(axes, axes[1:]):
        _sign(row, first, second, '\u2192', colors)
    for axis, text in ((axes[0], 'image'), (axes[-1], 'mean')):
        axis.set_xlabel(text, fontsize=19, color=colors['quiet'])


def _title(row, name: str, what: str, colors: Dict[str, str]) -> None:
    row.text(0.05, 0.97, name, fontsize=25, fontweight='bold', color=colors['text'], va='top')
    height = row.bbox.height / row.figure.dpi
    row.text(0.05, 0.97 - 0.45 / height, what, fontsize=20, color=colors['quiet'], va='top', linespacing=1.25)


def _photo(axis, image: torch.Tensor, index: Optional[int] = None) -> None:
    """Show `[3, h, w]`, framed in the colour of the photograph."""
    axis.imshow(image.clamp(0., 1.).permute(1, 2, 0).numpy())
    axis.set(xticks=[], yticks=[])
    plt.setp(axis.spines.values(), visible=index is not None, color=COLORS[index or 0], linewidth=4)


def _bar(axis, weights: np.ndarray) -> None:
    """Draw the weights of the photographs as one bar under the picture."""
    left = 0.
    for weight, color in zip(weights, COLORS):
        axis.add_patch(plt.Rectangle(
            (left, -0.14), weight, 0.09, color=color, linewidth=0, transform=axis.transAxes, clip_on=False))
        left += weight


def _sign(row, first, second, sign: str, colors: Dict[str, str]) -> None:
    left, right = first.get_position(), second.get_position()
    row.text(
        (left.x1 + right.x0) / 2., (left.y0 + left.y1) / 2., sign, fontsize=28, color=colors['text'], ha='center',
        va='center')


PICTURES = {  # rows with their heights in inches
    'method': {_mixup: 2.85, _multimix: 4.25, _dense: 4.9},
    'self-distillation': {_distillation: 5.3},
    'mixupe': {_mixupe: 3.3},
}


def main(argv: Optional[List[str]] = None) -> int:
    plt.switch_backend('Agg')
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--output', default=FOLDER, help='folder of the PNG files')
    args = parser.parse_args(argv)
    os.makedirs(args.output, exist_ok=True)
    for picture, theme in product(PICTURES, THEMES):
        figure = draw(picture, theme)
        path = os.path.join(args.output, f'{picture}-{theme}.png')
        figure.savefig(path, dpi=150, pil_kwargs=dict(optimize=True), metadata=dict(Software=None))
        with Image.open(path) as drawn:  # a palette takes a third of the space
            drawn.convert('RGB').quantize(256).save(path, optimize=True)
        plt.close(figure)
        print(path)
    return 0


if __name__ == '__main__':
    sys.exit(main())
