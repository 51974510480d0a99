"""Robustness of trained models: `python -m benchmarks.robustness --recipe NAME --data-dir FOLDER`.

FGSM and PGD attack in l-inf balls of radius 1, 2, 4 and 8/255 around pixels in [0, 1]; the normalisation is part of the
attacked model. PGD starts at a random point and takes steps of a quarter of the radius, without restarts. Corruptions
are noise, blur, contrast and JPEG at three strengths. All results are top-1 in percent on the same test images.
"""
import argparse
import sys
from typing import Any, Dict, List, Optional

import torch

from .suite.cli import check_least
from .suite.running import create_part_parser, evaluate_runs
from .suite.runs import Run
from .suite.shifts.attacks import pgd
from .suite.shifts.corruptions import STRENGTHS, corrupt
from .suite.trained import Judged, PixelModel, apply, batches, top1

RADII = (1, 2, 4, 8)  # in 255ths; the larger two leave little accuracy without adversarial training


def attack_all(model: PixelModel, pixels: torch.Tensor, labels: torch.Tensor, args: argparse.Namespace) -> List[Dict]:
    """Top-1 under each attack."""
    rows = []
    for radius in RADII:
        generator = torch.Generator().manual_seed(0)
        for name, steps, step_size, random_start in (('fgsm', 1, radius, False), ('pgd', args.steps, radius / 4, True)):
            logits = torch.cat([
                apply(model, pgd(model, batch, target, radius / 255., steps, step_size / 255., random_start, generator),
                      args.device)
                for batch, target in batches(pixels, labels, device=args.device)])
            rows.append(dict(
                attack=name, eps_255=radius, steps=steps, step_size_255=step_size, random_start=random_start,
                top1=top1(logits, labels)))
    return rows


def corrupt_all(model: PixelModel, pixels: torch.Tensor, labels: torch.Tensor, device: str) -> List[Dict]:
    """Top-1 under each corruption at each strength."""
    return [
        dict(corruption=name, level=level, strength=strength,
             top1=top1(apply(model, corrupt(pixels, name, strength), device), labels))
        for name, strengths in STRENGTHS.items()
        for level, strength in enumerate(strengths, start=1)
    ]


def main(argv: Optional[List[str]] = None) -> int:
    parser = create_part_parser(__doc__)
    parser.add_argument('--steps', type=int, default=10, help='steps of PGD')
    args = parser.parse_args(argv)
    check_least(parser, args, steps=1)

    def evaluate(run: Run, judged: Judged) -> Dict[str, Any]:
        model, pixels, labels, *_ = judged
        return dict(
            images=len(pixels),
            top1=top1(apply(model, pixels, args.device), labels),
            attacks=attack_all(model, pixels, labels, args),
            corruptions=corrupt_all(model, pixels, labels, args.device),
        )

    return evaluate_runs('robustness', parser, args, dict(steps=args.steps), evaluate)


if __name__ == '__main__':
    sys.exit(main())
