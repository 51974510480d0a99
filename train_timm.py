#!/usr/bin/env python3
"""timm's training script with MultiMix (`--mixup-mode multimix` and `dense-multimix`) and MixupE (`mixupe`).

    python train_timm.py --data-dir DIR --model resnet50 --mixup-mode dense-multimix
    torchrun --nproc_per_node=8 train_timm.py --data-dir DIR --model resnet50 --mixup-mode dense-multimix --amp
"""
import argparse
import logging
import sys
from typing import List, Optional

import torch.distributed
from timm.utils import setup_default_logging

from timm_multimix.checks import REJECTIONS, call_library
from timm_multimix.distributed import has_process_group
from timm_multimix.training.bad_steps import BadSteps
from timm_multimix.training.checkpoints.recovery import Recovery
from timm_multimix.training.checkpoints.resume import find_resumed, resume
from timm_multimix.training.cli.parser import parse_args
from timm_multimix.training.data.folders import check_root
from timm_multimix.training.data.loaders import create_loaders
from timm_multimix.training.diagnostics import warn_if_averages_lag
from timm_multimix.training.errors import INTERRUPTED, TERMINATED, exit_code
from timm_multimix.training.evaluate import validate_all
from timm_multimix.training.loop import Training, train_one_epoch
from timm_multimix.training.model import create_train_model
from timm_multimix.training.output import Output
from timm_multimix.training.records import check_installed
from timm_multimix.training.runtime import agree_to_start, create_runtime
from timm_multimix.training.schedule import Schedule
from timm_multimix.training.stopping import Stopped
from timm_multimix.training.task import create_optimizer, create_task, prepare_mixing

_logger = logging.getLogger('train')


def main(argv: Optional[List[str]] = None) -> int:
    """Train, and return the exit code.

    A user's mistake gives exit code 2 and one line that says what is wrong; a run that cannot continue gives exit code
    1 and one line. Any other error keeps its traceback. Ctrl-C gives 130 and SIGTERM 143, as in a shell.
    """
    args, _ = parse_args(argv)
    if not logging.root.handlers:
        setup_default_logging()
    try:
        return exit_code('train_timm.py', lambda: run(args))
    finally:
        if has_process_group():
            torch.distributed.destroy_process_group()


def run(args: argparse.Namespace) -> int:
    """Train, and return the exit code of a run that met no error."""
    runtime = create_runtime(args)
    checkpoint = find_resumed(args, runtime)
    with agree_to_start(runtime):
        check_installed(args)
        check_root(args)
        model, data_config = create_train_model(args, runtime)
        loader_train, loader_eval = create_loaders(args, data_config, runtime)
        task, mixup_fn = create_task(args, model, data_config, runtime)
        optimizer = create_optimizer(args, task, model, runtime.world_size)
        if args.model_ema:
            device = 'cpu' if args.model_ema_force_cpu else None
            task.setup_ema(decay=args.model_ema_decay, use_warmup=args.model_ema_warmup, device=device)
        resumed = resume(checkpoint, args, task, optimizer, runtime)
        schedule = Schedule(args, optimizer, -(-len(loader_train) // args.grad_accum_steps))
        if args.torchcompile:
            errors = *REJECTIONS, RuntimeError
            what = f'--torchcompile {args.torchcompile}'
            call_library(what, task.compile, backend=args.torchcompile, mode=args.torchcompile_mode, errors=errors)
        bad_steps = BadSteps(task.get_trainable_module(), optimizer, args.max_bad_steps)
        training = Training(args, runtime, task, optimizer, schedule, bad_steps, mixup_fn)
        start_epoch = args.start_epoch if args.start_epoch is not None else resumed.epoch or 0
        output = None
        if runtime.primary:
            where = training, loader_train.dataset, data_config['input_size'][-1], start_epoch, checkpoint
            output = call_library(f'--output {args.output}', Output, *where, errors=OSError)
            warn_if_averages_lag(args, schedule.num_epochs * schedule.updates_per_epoch)

    # from here on processes wait for each other
    prepare_mixing(task, loader_train, data_config)
    if runtime.distributed:
        device_ids = [runtime.device] if runtime.device.type == 'cuda' else None
        task.prepare_distributed(device_ids=device_ids, broadcast_buffers=not args.no_ddp_bb)
    recovery = Recovery(
        runtime, resumed.position, output and output.saver, interval=args.recovery_interval,
        accum_steps=args.grad_accum_steps, batch_size=args.batch_size)
    updates = start_epoch * schedule.updates_per_epoch + recovery.updates_done(start_epoch, len(loader_train))
    schedule.begin(start_epoch, updates, resumed.schedule if start_epoch == resumed.epoch else None)
    end_epoch = schedule.num_epochs if args.stop_epoch is None else min(schedule.num_epochs, args.stop_epoch)
    if start_epoch >= end_epoch:
        _logger.info(f'Nothing to do: {start_epoch} of {end_epoch} epochs are done.')
    code = 0
    try:
        with recovery.stop:
            for epoch in range(start_epoch, end_epoch):
                train_metrics = train_one_epoch(epoch, training, loader_train, recovery, output and output.folder)
                is_due = (epoch + 1) % args.val_interval == 0 or epoch + 1 in (args.save_epochs or ())
                eval_metrics = None
                if is_due or epoch + 1 == end_epoch:
                    eval_metrics = validate_all(training, loader_eval, recovery)
                rate = schedule.mean_rate()
                # before the checkpoint, so that it holds the state for the next epoch; a validation that is only due to
                # --stop-epoch does not count
                schedule.step(epoch + 1, eval_metrics[args.eval_metric] if is_due else None)
                if output is not None:
                    output.add_epoch(epoch, train_metrics, eval_metrics, rate)
                recovery.after_epoch()
    except KeyboardInterrupt:
        code = INTERRUPTED
        _logger.info('Interrupted; --resume continues after the last complete epoch.')
    except Stopped:
        code = TERMINATED
        _logger.info('Stopped by SIGTERM; --resume auto continues.')
    if output is not None:
        output.close()
    return code


if __name__ == '__main__':
    sys.exit(main())
