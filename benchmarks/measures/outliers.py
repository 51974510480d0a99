"""Detection of outliers: test images against folders of any images, unseen classes, and sets that need no download.

Scores are the maximum softmax probability (Hendrycks and Gimpel 2017) and the negative energy, logsumexp of the logits
(Liu et al. 2020).
"""
import argparse
import os
from typing import Any, Dict, List

import numpy as np
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from timm_multimix import UsageError
from timm_multimix.training.data.digits import Digits

from .subject import Subject

SETTINGS = ('outliers', 'unseen', 'images')
MADE = ('noise', 'textures', 'photos', 'digits')
SCORES = {
    'msp': lambda logits: logits.softmax(dim=-1).max(dim=-1).values,
    'energy': lambda logits: logits.logsumexp(dim=-1),
}
"""Scores of images from their logits, higher for images like those of the training."""


def add_arguments(parser: Any) -> None:
    parser.add_argument(
        '--outliers', nargs='+', default=list(MADE), metavar='SET',
        help=f'folders of images, or {", ".join(MADE)} (all of these)')


def measure(subject: Subject, args: argparse.Namespace) -> Dict[str, Any]:
    """AUROC, AUPR, FPR95 and detection accuracy of both scores on each set, as shares."""
    given = [*args.outliers, *([args.unseen] if args.unseen else [])]
    folders = {os.path.basename(os.path.normpath(each)): each for each in given}
    if len(folders) < len(given):
        raise UsageError(f'--outliers and --unseen must be folders of different names, got {given}')
    for each in folders.values():
        if each not in MADE and not os.path.isdir(each):
            raise UsageError(f'--outliers must be folders of images or {", ".join(MADE)}, got {each!r}')
    logits, _ = subject.collect(subject.logits, subject.images(), args.images or None)
    sets = {}
    for name, folder in folders.items():
        images = subject.images(folder) if folder not in MADE else [
            (subject.transform()(image.convert(subject.img_mode)), -1)
            for image in make_outliers(name, len(logits), subject.data_config['input_size'][1:])]
        outside, _ = subject.collect(subject.logits, images, args.images or None)
        sets[name] = dict(images=len(outside), **{
            score: detection_metrics(function(logits).numpy(), function(outside).numpy())
            for score, function in SCORES.items()})
    return dict(images=len(logits), sets=sets)


def detection_metrics(inside: np.ndarray, outside: np.ndarray) -> Dict[str, float]:
    """Metrics from the scores of test images `[n]`, which should be higher, and outliers `[m]`.

    Returns:
        'auroc'; 'aupr_in' with test images as the positive class and 'aupr_out' with outliers; 'fpr95', the share of
        outliers above the threshold that 95 % of the test images reach; 'accuracy', the best mean over thresholds of
        the shares that are told right on both sides.
    """
    scores = np.concatenate([inside, outside]).astype(np.float64)
    positive = np.concatenate([np.ones(len(inside)), np.zeros(len(outside))])
    false_positive, true_positive, _ = roc_curve(positive, scores, drop_intermediate=False)
    return dict(
        auroc=float(roc_auc_score(positive, scores)),
        aupr_in=float(average_precision_score(positive, scores)),
        aupr_out=float(average_precision_score(1. - positive, -scores)),
        fpr95=float(false_positive[np.argmax(true_positive >= 0.95)]),
        accuracy=float(np.max(true_positive + 1. - false_positive)) / 2.,
    )


def make_outliers(name: str, count: int, size: List[int], seed: int = 0) -> List[Image.Image]:
    """Make `count` images of (height, width) `size`.

    'noise' has independent uniform values; 'textures' are square crops of the bricks, grass and gravel in scikit-image,
    at random places, from the model's size to the whole; 'photos' are such crops of the two photos in scikit-learn;
    'digits' are scikit-learn's, at most 1,797.
    """
    height, width = size
    rng = np.random.default_rng(seed)
    if name == 'noise':
        return [Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)) for _ in range(count)]
    if name == 'textures':
        from skimage import data
        return _crops([data.brick(), data.grass(), data.gravel()], count, height, width, rng)
    if name == 'photos':
        from sklearn.datasets import load_sample_images
        return _crops(load_sample_images().images, count, height, width, rng)
    digits = [image for split in ('train', 'test') for image, _ in Digits(split)]
    return [digits[index].resize((width, height), Image.BICUBIC) for index in rng.permutation(len(digits))[:count]]


def _crops(sources: List[np.ndarray], count: int, height: int, width: int, rng: np.random.Generator):
    images = [Image.fromarray(source).convert('RGB') for source in sources]
    crops = []
    for index in range(count):
        image = images[index % len(images)]
        whole = min(image.size)
        side = int(rng.integers(min(max(height, width), whole), whole + 1))
        left, top = (int(rng.integers(0, extent - side + 1)) for extent in image.size)
        crops.append(image.crop((left, top, left + side, top + side)).resize((width, height), Image.BICUBIC))
    return crops
