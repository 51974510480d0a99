"""What the flags of self-distillation and of MixupE ask for, and where they are refused."""
import argparse
import math

_NOT_WITH_EXACT = {
    'torchcompile': 'it gives no second derivatives',
    'grad_checkpointing': 'it computes attention anew by a kernel that has no second derivative',
    'train_img_sizes': 'the mean image has one size',
    'sync_bn': 'it has no second derivative',
}


def needs_two_views(args: argparse.Namespace) -> bool:
    """Whether the loader gives two views of every training image, the other one for a teacher that is asked."""
    return args.multimix_teacher_decay is not None and not args.multimix_single_view and args.multimix_gamma != 1.


def mixupe_kwargs(args: argparse.Namespace) -> dict:
    """Keyword arguments of `MixupETask` that the flags set."""
    given = dict(
        mixup_alpha=args.mixup if args.mixup > 0. else None,
        eta=args.mixupe_eta,
        threshold=args.mixupe_threshold,
        exact=args.mixupe_exact,
    )
    return {name: value for name, value in given.items() if value is not None}


def check_teacher(args: argparse.Namespace) -> None:
    """Refuse flags of self-distillation that do not apply.

    Raises:
        ValueError: Naming the flag and what it needs or allows.
    """
    if args.multimix_teacher_decay is None:
        for flag in ('--multimix-teacher-warmup', '--multimix-gamma', '--multimix-single-view'):
            if _value(args, flag) is not None:
                raise ValueError(f'{flag} needs --multimix-teacher-decay, which turns self-distillation on')
    elif needs_two_views(args) and args.resplit:
        raise ValueError(
            '--resplit leaves the first of two views unerased, the student\'s; leave it out, or give '
            '--multimix-single-view')
    elif args.bce_loss or args.loss not in (None, 'ce'):
        raise ValueError(f'--multimix-teacher-decay needs cross-entropy, so not {_loss_flag(args)}')
    for flag in ('--multimix-teacher-decay', '--multimix-gamma'):
        value = _value(args, flag)
        if value is not None and not 0. <= value <= 1.:
            raise ValueError(f'{flag} must be in [0, 1], got {value}')


def check_mixupe(args: argparse.Namespace) -> None:
    """Refuse flags of MixupE in another mode, and those that do not go with it.

    Raises:
        ValueError: Naming the flag and what it needs or allows.
    """
    if args.mixup_mode != 'mixupe':
        for flag in ('--mixupe-eta', '--mixupe-threshold', '--mixupe-exact'):
            if _value(args, flag) is not None:
                raise ValueError(f'{flag} needs --mixup-mode mixupe, got {args.mixup_mode!r}')
        return
    if args.cutmix > 0. or args.cutmix_minmax is not None:
        raise ValueError('--cutmix and --cutmix-minmax need another --mixup-mode than mixupe, which is Mixup alone')
    if args.bce_loss or args.loss not in (None, 'ce'):
        raise ValueError(f'--mixup-mode mixupe needs cross-entropy, so not {_loss_flag(args)}')
    if args.task != 'classification':
        raise ValueError(f'--mixup-mode mixupe needs --task classification, got {args.task}')
    if args.mixupe_eta is not None and not 0. <= args.mixupe_eta < math.inf:
        raise ValueError(f'--mixupe-eta must be >= 0, got {args.mixupe_eta}')
    if args.mixupe_threshold is not None and not math.isfinite(args.mixupe_threshold):
        raise ValueError(f'--mixupe-threshold must be a finite number, got {args.mixupe_threshold}')
    if args.mixupe_exact:
        for name, reason in _NOT_WITH_EXACT.items():
            if getattr(args, name):
                raise ValueError(f'--mixupe-exact does not go with --{name.replace("_", "-")}: {reason}')


def _loss_flag(args: argparse.Namespace) -> str:
    return '--bce-loss' if args.bce_loss else f'--loss {args.loss}'


def _value(args: argparse.Namespace, flag: str) -> object:
    return getattr(args, flag[2:].replace('-', '_'))
