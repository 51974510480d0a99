#!/usr/bin/env python3
"""timm's training script, plus MultiMix: `--mixup-mode multimix` and `--mixup-mode dense-multimix`; and MixupE.

    python train_timm.py --data-dir DIR --model resnet50 --mixup-mode dense-multimix
    torchrun --nproc_per_node=8 train_timm.py --data-dir DIR --model resnet50 --mixup-mode dense-multimix --amp
"""
import logging
import sys
from typing import List, Optional

import torch.distributed
from timm.optim import create_optimizer_v2, optimizer_kwargs
from timm.scheduler import create_scheduler_v2, scheduler_kwargs
from timm.utils import distribute_bn, setup_default_logging

from timm_multimix.training.bad_steps import BadSteps
from timm_multimix.training.checkpoints.recovery import Recovery
from timm_multimix.training.cli.parser import parse_args, resolved_text, scaled_learning_rate
from timm_multimix.training.data.loaders import create_loaders, set_epoch
from timm_multimix.training.errors import RunFailed, named, unexpected
from timm_multimix.training.evaluate import validate
from timm_multimix.training.loop import mean_lr, train_one_epoch
from timm_multimix.training.model import create_train_model
from timm_multimix.training.output import Output, find_resumed, resume
from timm_multimix.training.runtime import create_runtime, seed_epoch
from timm_multimix.training.stopping import Stopped, StopRequest
from timm_multimix.training.task import (
    create_task,
    end_mixing,
    optimized_module,
    prepare_mixing,
    warn_if_at_chance,
    warn_if_teacher_lags,
)
from timm_multimix.training.together import primary_says, together

_logger = logging.getLogger('train')


def main(argv: Optional[List[str]] = None) -> int:
    """Train; the exit code.

    A user's mistake ends with code 2 and one line that says what is wrong, a run that cannot go on with code 1 and one
    line. Any other error keeps its traceback.
    """
    args, args_text = parse_args(argv)
    if not logging.root.handlers:
        setup_default_logging()
    try:
        run(args, args_text)
    except ValueError as error:
        _logger.debug('Where it was found:', exc_info=True)
        print(f'train_timm.py: error: {error}', file=sys.stderr)
        return 2
    except RunFailed as error:
        print(f'train_timm.py: error: {error}', file=sys.stderr)
        return 1
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return 0


def run(args, args_text: str) -> None:
    # what computes
    runtime = create_runtime(args)
    auto = args.resume == 'auto'
    args.resume = primary_says(args, runtime, lambda: find_resumed(args))
    with together(args, runtime):
        model, data_config = create_train_model(args, runtime)
        with named('data'):
            loader_train, loader_eval = create_loaders(args, data_config, runtime)
        task, mixup_fn = create_task(args, model, data_config, runtime, len(loader_train) * args.epochs)

        # what learns
        args.lr = scaled_learning_rate(args)
        with named(f'--opt {args.opt}'):
            optimizer = create_optimizer_v2(
                optimized_module(task, model), **optimizer_kwargs(cfg=args), **args.opt_kwargs)
        if args.model_ema:
            task.setup_ema(
                decay=args.model_ema_decay,
                use_warmup=args.model_ema_warmup,
                device='cpu' if args.model_ema_force_cpu else None,
            )
        resume_epoch, position = resume(args, task, optimizer, runtime)
    prepare_mixing(task, loader_train, data_config)
    if args.torchcompile:
        with named(f'--torchcompile {args.torchcompile}'):
            task.compile(backend=args.torchcompile, mode=args.torchcompile_mode)
    if args.distributed:
        task.prepare_distributed(
            device_ids=[runtime.device] if runtime.device.type == 'cuda' else None,
            broadcast_buffers=not args.no_ddp_bb,
        )
    updates_per_epoch = -(-len(loader_train) // args.grad_accum_steps)
    with named(f'--sched {args.sched}'):
        lr_scheduler, num_epochs = create_scheduler_v2(
            optimizer,
            **scheduler_kwargs(args, decreasing_metric=args.eval_metric == 'loss'),
            updates_per_epoch=updates_per_epoch,
        )
    if runtime.primary:
        warn_if_teacher_lags(args, num_epochs * updates_per_epoch)
    start_epoch = args.start_epoch if args.start_epoch is not None else resume_epoch or 0
    recovery = Recovery(args, runtime, StopRequest(args.distributed, runtime.device), position)
    start_update = start_epoch * updates_per_epoch + recovery.updates_done(start_epoch, len(loader_train))
    if lr_scheduler is not None and start_update > 0 and args.sched_on_updates:
        lr_scheduler.step_update(start_update)
    elif lr_scheduler is not None and start_epoch > 0:
        lr_scheduler.step(start_epoch)

    # what is written
    output = None
    with together(args, runtime), named(f'--output {args.output}'):
        if runtime.primary:
            image_size = data_config['input_size'][-1]
            args_text = resolved_text(args_text, task)
            output = Output(args, args_text, task, optimizer, runtime, image_size, start_epoch, auto)
            recovery.saver = output.saver
            _logger.info(f'Scheduled epochs: {num_epochs}. Output folder: {output.folder}')

    end_epoch = num_epochs if args.stop_epoch is None else min(num_epochs, args.stop_epoch)
    if start_epoch >= end_epoch:
        _logger.info(f'Nothing to do: {start_epoch} of {end_epoch} epochs are done.')
    bad_steps = BadSteps(task.get_trainable_module(), optimizer, args.max_bad_steps)
    try:
        with recovery.stop, unexpected('training'):
            for epoch in range(start_epoch, end_epoch):
                seed_epoch(args, epoch)
                set_epoch(loader_train, epoch)
                if args.mixup_off_epoch and epoch >= args.mixup_off_epoch:
                    end_mixing(task, mixup_fn)
                train_metrics = train_one_epoch(
                    epoch,
                    task,
                    loader_train,
                    optimizer,
                    args,
                    runtime,
                    lr_scheduler,
                    mixup_fn=mixup_fn,
                    output_dir=output and output.folder,
                    bad_steps=bad_steps,
                    recovery=recovery,
                )
                if runtime.primary:
                    warn_if_at_chance(args, epoch, train_metrics, len(loader_train) * args.batch_size * args.world_size)

                if args.distributed and args.dist_bn in ('broadcast', 'reduce'):
                    distribute_bn(task.get_eval_model(), args.world_size, args.dist_bn == 'reduce')
                eval_metrics = None
                if (epoch + 1) % args.val_interval == 0 or epoch + 1 in (end_epoch, *(args.save_epochs or ())):
                    eval_metrics = validate_all(task, loader_eval, args, runtime, recovery)
                metric = eval_metrics[args.eval_metric] if eval_metrics else None
                if output is not None:
                    output.add_epoch(epoch, train_metrics, eval_metrics, mean_lr(optimizer), metric)
                if lr_scheduler is not None:
                    lr_scheduler.step(epoch + 1, metric)
                recovery.after_epoch()
    except KeyboardInterrupt:
        _logger.info('Interrupted; --resume goes on after the last whole epoch.')
    except Stopped:
        _logger.info('Told to end (SIGTERM); --resume auto goes on from here.')
    if output is not None:
        output.close(args.eval_metric)


def validate_all(task, loader, args, runtime, recovery):
    """Metrics of the model, or of its moving average (--model-ema, or the teacher) where there is one to validate."""
    metrics = validate(task, task.get_eval_model(), loader, args, runtime, recovery=recovery)
    student_metrics = metrics
    if task.has_ema() and not (args.model_ema and args.model_ema_force_cpu):
        if args.distributed and args.dist_bn in ('broadcast', 'reduce'):
            distribute_bn(task.get_eval_model(ema=True), args.world_size, args.dist_bn == 'reduce')
        ema_model = task.get_eval_model(ema=True)
        metrics = validate(task, ema_model, loader, args, runtime, log_suffix=' (EMA)', recovery=recovery)
    if args.multimix_teacher_decay is not None:
        metrics['student_top1'] = student_metrics['top1']
    return metrics


if __name__ == '__main__':
    sys.exit(main())
