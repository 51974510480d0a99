"""Out-of-distribution detection and calibration: `python -m benchmarks.ood --recipe NAME --data-dir FOLDER`.

Test images are compared with each set of outliers: unseen classes if the recipe has any, the sets of
`benchmarks.suite.shifts.outliers`, and any folders of images. Scores are the maximum softmax probability (Hendrycks and
Gimpel 2017) and the negative energy, logsumexp of the logits (Liu et al. 2020); test images are the positive class.
FPR95 is the share of outliers above the threshold that 95 % of the test images reach. Calibration is the expected
calibration error over 15 bins (torchmetrics). The margin of the logits, on which both depend, is recorded too.
"""
import hashlib
import os
import sys
from typing import Any, Dict, List, Optional

import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from .recipes import RECIPES, Recipe
from .suite.cli import mistakes
from .suite.running import create_part_parser, evaluate_runs
from .suite.runs import Run
from .suite.shifts.outliers import make_outliers
from .suite.trained import Judged, PixelModel, apply, calibration_error, has_images, load_pixels, top1

SCORES = {
    'msp': lambda logits: logits.softmax(dim=-1).max(dim=-1).values,
    'energy': lambda logits: logits.logsumexp(dim=-1),
}
"""Scores of images from their logits, higher for images like those of the training."""


def detection_metrics(inside: np.ndarray, outside: np.ndarray) -> Dict[str, float]:
    """AUROC, AUPR and FPR95 from the scores of test images `[n]`, which should be higher, and outliers `[m]`."""
    scores = np.concatenate([inside, outside]).astype(np.float64)
    positive = np.concatenate([np.ones(len(inside)), np.zeros(len(outside))])
    false_positive, true_positive, _ = roc_curve(positive, scores, drop_intermediate=False)
    return dict(
        auroc=float(roc_auc_score(positive, scores)),
        aupr=float(average_precision_score(positive, scores)),
        fpr95=float(false_positive[np.argmax(true_positive >= 0.95)]),
    )


def logit_margin(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Mean over the images `[n, c]` of the label's logit minus the mean of the other logits."""
    label = logits.gather(-1, labels[:, None])[:, 0]
    others = (logits.sum(dim=-1) - label) / (logits.shape[-1] - 1)
    return float((label - others).mean())


def detect(model: PixelModel, logits: torch.Tensor, pixels: torch.Tensor, device: str) -> Dict[str, Any]:
    """Compute the metrics of each score, for test images with these `logits` against outliers with these `pixels`."""
    outside = apply(model, pixels, device)
    metrics = {
        name: detection_metrics(score(logits).numpy(), score(outside).numpy()) for name, score in SCORES.items()}
    return dict(images=len(pixels), **metrics)


def name_folders(folders: List[str], recipe: Recipe) -> Dict[str, str]:
    """Return --outlier-folders by the names of their sets."""
    named = {os.path.basename(os.path.normpath(folder)): folder for folder in folders}
    for name, folder in named.items():
        if not has_images(folder):
            raise ValueError(f'--outlier-folders must be folders of images, got {folder}')
        if name in ('unseen classes', *recipe.outliers):
            raise ValueError(f'--outlier-folders must not have the name of another set, got {name}; rename it')
    if len(named) < len(folders):
        raise ValueError(f'--outlier-folders must have different names, got {folders}')
    return named


def _identify(name: str, folder: str) -> str:
    """Return the set's name with a digest of its files' names and sizes, as another folder may have the same name."""
    files = sorted(
        (os.path.relpath(os.path.join(root, file), folder), os.path.getsize(os.path.join(root, file)))
        for root, _, names in os.walk(folder) for file in names)
    return f'{name} ({hashlib.sha256(repr(files).encode()).hexdigest()[:8]})'


def main(argv: Optional[List[str]] = None) -> int:
    parser = create_part_parser(__doc__)
    parser.add_argument(
        '--outlier-folders', nargs='*', default=[], metavar='DIR', help='more sets, each named after its folder')
    args = parser.parse_args(argv)
    recipe = RECIPES[args.recipe]
    with mistakes(parser):
        folders = name_folders(args.outlier_folders, recipe)
    identities = sorted(_identify(name, folder) for name, folder in folders.items())

    def evaluate(run: Run, judged: Judged) -> Dict[str, Any]:
        model, pixels, labels, data_config, folder = judged
        logits = apply(model, pixels, args.device)
        outliers = {name: make_outliers(name, len(pixels), data_config) for name in recipe.outliers}
        unseen = os.path.join(os.path.dirname(folder), 'unseen')
        sources = dict({'unseen classes': unseen} if recipe.unseen_classes else {}, **folders)
        outliers.update({name: load_pixels(path, data_config, args.images)[0] for name, path in sources.items()})
        return dict(
            images=len(pixels),
            top1=top1(logits, labels),
            ece=calibration_error(logits, labels),
            margin=logit_margin(logits, labels),
            sets={name: detect(model, logits, images, args.device) for name, images in outliers.items()},
        )

    return evaluate_runs('ood', parser, args, dict(folders=identities), evaluate)


if __name__ == '__main__':
    sys.exit(main())
