"""Warnings of runs that do not learn, and of averages that lag."""
import argparse
import logging
import math
from collections import Counter
from typing import Any, Callable

from .._timm_compat import labels_of
from ..settings import MODES, Settings
from .cli.multimix import multimix_kwargs

_logger = logging.getLogger('train')


def warn_if_averages_lag(args: argparse.Namespace, num_updates: int) -> bool:
    """Warn if a moving average without warm-up stays close to the initial model for much of the run; True if so."""
    averages = [('teacher', args.multimix_teacher_decay, args.multimix_teacher_warmup, '--multimix-teacher')]
    if args.model_ema:
        averages.append(('average of --model-ema', args.model_ema_decay, args.model_ema_warmup, '--model-ema'))
    lagging = [
        (name, decay, flag) for name, decay, warmup, flag in averages
        if decay is not None and not warmup and num_updates * (1. - decay) < 10.]
    for name, decay, flag in lagging:
        _logger.warning(
            f'The {name} spans about 1 / (1 - {decay:g}) updates, but this run has {num_updates}: for long it '
            f'stays close to an early state of the model. Give {flag}-warmup, or a lower {flag}-decay.')
    return bool(lagging)


def chance_level(dataset: Any, num_classes: int) -> float:
    """Return the accuracy of always predicting the most frequent class; 1 / num_classes if the labels are unknown."""
    try:
        counts = Counter(map(int, labels_of(dataset)))
    except (RuntimeError, TypeError, ValueError):  # lists of labels, or names
        counts = Counter()
    return max(counts.values()) / counts.total() if counts else 1. / num_classes


def warn_if_at_chance(
        args: argparse.Namespace, epoch: int, top1: float, num_images: int, chance: Callable[[], float]) -> bool:
    """Warn if a MultiMix run has learnt nothing one epoch after its warm-up, or later; True if so.

    The accuracy of the clean logits is compared with chance plus two standard deviations of chance on `num_images`.
    The first epoch does not count, because its mean includes the untrained model.
    """
    if args.mixup_mode not in MODES or epoch < max(args.warmup_epochs, 1):
        return False
    chance = chance()
    spread = 2. * math.sqrt(chance * (1. - chance) / num_images)
    if top1 > 100. * (chance + spread):
        return False
    kept = gradient_kept(args)
    _logger.warning(
        f'Not learning: clean train accuracy {top1:.2f} % after epoch {epoch} is at chance: always '
        f'predicting the most frequent class gives {100. * chance:.2f} % +- {100. * spread:.2f}. Mixing leaves '
        f'{100. * kept:.3g} % of the gradient that tells images apart. ' + (
            'So first try plain training (--mixup-mode batch) with this learning rate and warm-up.' if kept > 0.5 else
            'Raise --multimix-clean-weight or lower --multimix-alpha, without --multimix-paper and '
            '--multimix-concentration example.'))
    return True


def gradient_kept(args: argparse.Namespace) -> float:
    """Return the share that MultiMix leaves of the gradient that tells images apart, in an untrained model.

    It is 1 / (κ + 1) of that of plain training in the mixed loss, where κ is the total concentration of a tuple.
    """
    settings = Settings(**multimix_kwargs(args))
    if settings.is_adaptive:  # nothing is mixed yet
        return 1.
    alpha = sum(settings.alpha) / 2. if isinstance(settings.alpha, tuple) else settings.alpha
    kappa = alpha if settings.concentration == 'total' else alpha * (settings.length or args.batch_size)
    return (1. / (kappa + 1.) + settings.clean_weight) / (1. + settings.clean_weight)
