"""The parts of timm's train.py (1.0.23 and newer) that matter to the launcher: the loader mixes if --mixup or --cutmix
is given, the task is a ClassificationTask, and the scheduler is stepped after each epoch. --record names a file for a
record of the run."""
import argparse
import json
import os

import torch
import yaml
from timm.data import FastCollateMixup, create_dataset, create_loader
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.models import create_model
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.task import ClassificationTask, resume_task_checkpoint
from timm.utils import get_outdir, init_distributed_device

config_parser = argparse.ArgumentParser(add_help=False)
config_parser.add_argument('-c', '--config', default='')
parser = argparse.ArgumentParser()
for name, default in dict(
        data_dir=None, dataset='', train_split='train', val_split='validation', model=None, aa=None, resume='',
        output='', device='cpu', workers=0, epochs=2, start_epoch=0, batch_size=8, opt='sgd', lr=0.01, sched='cosine',
        mixup=0., cutmix=0., mixup_mode='batch', mixup_off_epoch=0, smoothing=0.1, record=None).items():
    parser.add_argument(f'--{name.replace("_", "-")}', default=default, type=str if default is None else type(default))
parser.add_argument('--num-classes', type=int)
parser.add_argument('--input-size', type=int, nargs=3)
for flag in ('--no-resume-opt', '--compile-task'):
    parser.add_argument(flag, action='store_true')


def main():
    config, rest = config_parser.parse_known_args()
    if config.config:
        with open(config.config) as file:
            parser.set_defaults(**yaml.safe_load(file))
    args = parser.parse_args(rest)
    device = init_distributed_device(args)
    model = create_model(args.model, num_classes=args.num_classes)
    mixes = args.mixup > 0. or args.cutmix > 0.
    collate_fn = None
    if mixes:
        collate_fn = FastCollateMixup(
            mixup_alpha=args.mixup, cutmix_alpha=args.cutmix, mode=args.mixup_mode, num_classes=args.num_classes)
    shared = dict(root=args.data_dir, input_img_mode='RGB' if args.input_size[0] == 3 else 'L')
    dataset = create_dataset(args.dataset, split=args.train_split, is_training=True, **shared)
    create_dataset(args.dataset, split=args.val_split, is_training=False, **shared)
    loader = create_loader(
        dataset, tuple(args.input_size), args.batch_size, is_training=True, auto_augment=args.aa,
        num_workers=args.workers, collate_fn=collate_fn, device=device)
    optimizer = create_optimizer_v2(model, args.opt, lr=args.lr, weight_decay=2e-5)
    criterion = SoftTargetCrossEntropy() if mixes else LabelSmoothingCrossEntropy(args.smoothing)
    task = built = ClassificationTask(model=model, criterion=criterion, device=device, dtype=None, verbose=True)
    assert isinstance(task, ClassificationTask)
    if args.compile_task:
        task = torch.compile(task, backend='eager')
    if args.resume:
        resume_task_checkpoint(task, args.resume, optimizer=None if args.no_resume_opt else optimizer)
    if args.output:
        get_outdir(args.output, 'run')
    scheduler, epochs = create_scheduler_v2(
        optimizer, args.sched, num_epochs=args.epochs, updates_per_epoch=len(loader))
    if args.start_epoch:
        scheduler.step(args.start_epoch)
    steps = []
    for epoch in range(args.start_epoch, epochs):
        task.train()
        for input, target in loader:
            result = task(input, target)
            result['loss'].backward()
            optimizer.step()
            optimizer.zero_grad()
            task.update_ema(step=len(steps) + 1)
            num_updates = args.start_epoch * len(loader) + len(steps) + 1
            scheduler.step_update(num_updates=num_updates, metric=result['loss'].item())
            steps.append(dict(
                epoch=epoch, keys=sorted(result), target_dims=target.ndim, loss=result['loss'].item(),
                spread=input.std().item(), lr=optimizer.param_groups[0]['lr']))
        scheduler.step(epoch + 1, None)
    with open(args.record, 'w') as file:
        json.dump(dict(task=type(built).__name__, keys=sorted(model.state_dict()), steps=steps), file)


if __name__ == '__main__':
    assert os.path.isabs(__file__)
    main()
