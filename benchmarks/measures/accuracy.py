"""Accuracy, loss and calibration on all test images.

The calibration error is the expected one over 15 bins (Guo et al. 2017), in [0, 1]. Loss and calibration error are None
if a logit is not finite.
"""
import argparse
from typing import Any, Dict

import torch.nn.functional as F
from torchmetrics.classification import MulticlassCalibrationError

from timm_multimix import UsageError

from .subject import Subject

SETTINGS = ()


def add_arguments(parser: Any) -> None:
    pass


def measure(subject: Subject, args: argparse.Namespace) -> Dict[str, Any]:
    """Top-1 and top-5 in percent, mean cross-entropy, and calibration error."""
    images, top1, top5, loss, finite = 0, 0, 0, 0., True
    calibration = None
    for pixels, labels in subject.batches(subject.images()):
        logits = subject.logits(pixels)
        num_classes = logits.shape[-1]
        if labels.max() >= num_classes or labels.min() < 0:
            raise UsageError(f'the model has {num_classes} classes, but {subject.root} has label {int(labels.max())}')
        hits = logits.topk(min(5, num_classes)).indices == labels[:, None]
        images, top1, top5 = images + len(labels), top1 + int(hits[:, 0].sum()), top5 + int(hits.any(dim=-1).sum())
        loss += float(F.cross_entropy(logits, labels, reduction='sum'))
        finite = finite and bool(logits.isfinite().all())
        if finite:  # the metric keeps the confidence of every image, not the probabilities
            calibration = calibration or MulticlassCalibrationError(num_classes, n_bins=15).to(subject.device)
            calibration.update(logits.softmax(dim=-1), labels)
    if not images:
        raise UsageError(f'{subject.root} has no images')
    return dict(
        images=images,
        top1=100. * top1 / images,
        top5=100. * top5 / images,
        loss=loss / images if finite else None,
        ece=float(calibration.compute()) if finite else None,
    )
