"""Train a small timm model with Dense MultiMix on real digits, in minutes on a CPU: `make demo`."""
import argparse
import csv
import os
import sys
import time

import train_timm

from .report.curves import plot_curves

FLAGS = (
    '--dataset digits --num-classes 10 --model resnet10t --input-size 3 32 32 --model-kwargs output_stride=8 '
    '--mixup-mode dense-multimix --multimix-tuples 128 '
    '--epochs 8 --batch-size 64 --opt adamw --lr 2e-3 --weight-decay 0.05 --warmup-epochs 1 '
    '--scale 0.7 1 --ratio 0.9 1.1 --hflip 0 --color-jitter 0 --crop-pct 1 --workers 2 --checkpoint-hist 1'
).split()


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
    summary = os.path.join(folder, 'summary.csv')
    curves = plot_curves(summary, os.path.join(folder, 'curves.png'), 'Dense MultiMix on digits, resnet10t')
    with open(summary, newline='') as file:
        best = max(float(row['eval_top1']) for row in csv.DictReader(file))
    print(f'Held-out top-1: {best:.2f} % after {time.time() - start:.0f} s. '
          f'Checkpoint: {os.path.join(folder, "model_best.pth.tar")}, summary: {summary}, curves: {curves}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
