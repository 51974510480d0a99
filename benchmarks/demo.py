"""Train a small timm model with Dense MultiMix on real digits, in minutes on a CPU: `make demo`."""
import argparse
import csv
import os
import sys
import time
from typing import Dict, List

import train_timm

FLAGS = (
    '--dataset digits --num-classes 10 --model resnet10t --input-size 3 32 32 --model-kwargs output_stride=8 '
    '--mixup-mode dense-multimix --multimix-tuples 128 --smoothing 0 '
    '--epochs 8 --batch-size 64 --opt adamw --lr 2e-3 --weight-decay 0.05 --warmup-epochs 1 '
    '--scale 0.7 1 --ratio 0.9 1.1 --hflip 0 --color-jitter 0 --crop-pct 1 --workers 2 --checkpoint-hist 1'
).split()
_CURVES = {'loss': ('train_clean_loss', 'eval_loss'), 'top-1 (%)': ('train_top1', 'eval_top1')}
"""Columns of summary.csv for training and held-out images. The mixed loss is not comparable with the held-out one."""


def plot_curves(rows: List[Dict[str, str]], path: str, title: str) -> None:
    """Plot loss and accuracy over the epochs, from the `rows` of a run's summary.csv, as a PNG."""
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    figure.suptitle(title)
    for axis, (label, columns) in zip(axes, _CURVES.items()):
        for column, name in zip(columns, ('training images', 'held-out images')):
            points = [(int(row['epoch']) + 1, float(row[column])) for row in rows if row[column]]
            axis.plot(*zip(*points), marker='.', label=name)
        axis.set(xlabel='epoch', ylabel=label)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--output', default='output/demo', help='folder of the run')
    args = parser.parse_args()
    experiment = time.strftime('%Y%m%d-%H%M%S')
    print('python train_timm.py ' + ' '.join(FLAGS), flush=True)
    start = time.time()
    code = train_timm.main([*FLAGS, '--output', args.output, '--experiment', experiment])
    if code:
        return code
    folder = os.path.join(args.output, experiment)
    summary, curves = (os.path.join(folder, name) for name in ('summary.csv', 'curves.png'))
    with open(summary, newline='') as file:
        rows = list(csv.DictReader(file))
    plot_curves(rows, curves, 'Dense MultiMix on digits, resnet10t')
    best = max(float(row['eval_top1']) for row in rows)
    print(f'Held-out top-1: {best:.2f} % after {time.time() - start:.0f} s. '
          f'Checkpoint: {os.path.join(folder, "model_best.pth.tar")}, summary: {summary}, curves: {curves}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
