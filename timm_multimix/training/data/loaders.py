"""Training and validation loaders, made of timm's parts."""
import argparse
from typing import Any, Dict, Optional, Tuple

from timm.data import create_loader, create_transform

from ..._timm_compat import allow_posterize_to_black
from ...checks import UsageError, call_library
from ...distributed import num_processes
from ..cli.flag import take
from ..cli.multimix import needs_two_views
from ..runtime import Runtime
from ..stopping import shield_workers
from .datasets import create_datasets
from .naflex import create_naflex_loaders
from .sample_seeds import seed_samples
from .views import make_views, views_collate


def create_loaders(args: argparse.Namespace, data_config: Dict[str, Any], runtime: Runtime) -> Tuple[Any, Any]:
    """Create the training and validation loaders; images are mixed later, except with NaFlex."""
    if args.aug_repeats and not runtime.distributed:
        raise UsageError(f'--aug-repeats needs several processes (torchrun), got {args.aug_repeats} in one')
    prepare_augmentation(args.aa)
    datasets = create_datasets(args, data_config)
    shared = dict(
        take(args, 'worker_seeding'),
        use_prefetcher=not args.no_prefetcher, pin_memory=args.pin_mem, num_workers=args.workers,
        mean=data_config['mean'], std=data_config['std'],
        distributed=runtime.distributed, img_dtype=runtime.model_dtype, device=runtime.device,
        persistent_workers=False,  # new workers are seeded by the epoch, so a resumed run sees the same images
    )
    keep_interpolation = args.no_aug or not args.train_interpolation
    training = dict(
        take(args, 'batch_size', 'no_aug', 'train_crop_mode', 'scale', 'ratio', 'hflip', 'vflip', 'color_jitter',
             'color_jitter_prob'),
        is_training=True,
        re_prob=args.reprob, re_mode=args.remode, re_count=args.recount, re_split=args.resplit,
        grayscale_prob=args.grayscale_prob or 0., gaussian_blur_prob=args.gaussian_blur_prob or 0.,
        auto_augment=args.aa,
        interpolation=data_config['interpolation'] if keep_interpolation else args.train_interpolation,
    )
    validation = dict(
        is_training=False, batch_size=args.validation_batch_size or args.batch_size,
        interpolation=data_config['interpolation'], crop_pct=data_config['crop_pct'])
    if args.naflex_loader:
        loaders = create_naflex_loaders(args, data_config, runtime, datasets, training, validation, shared)
    else:
        shared.update(input_size=data_config['input_size'], use_multi_epochs_loader=args.use_multi_epochs_loader)
        sizes = {} if not args.train_img_sizes else dict(
            input_size_choices=args.train_img_sizes, batch_size_choices=args.train_batch_sizes,
            batch_choice_weights=args.train_size_probs, batch_choice_seed=args.seed,
            batch_choice_schedule=args.train_size_schedule, batch_schedule_epochs=args.epochs,
            batch_schedule_spread=args.train_size_schedule_spread,
            batch_schedule_random_mix=args.train_size_random_mix, num_batches=args.train_batches_per_epoch)
        loader_train = create_loader(
            datasets[0], num_aug_repeats=args.aug_repeats, num_aug_splits=args.aug_splits,
            collate_fn=views_collate(needs_two_views(args), not args.no_prefetcher), **sizes, **training, **shared)
        if needs_two_views(args):
            make_views(datasets[0])
        # seeds would repeat if an image came several times in an epoch, or if workers were not told the epoch
        if args.worker_seeding == 'all' and not (args.aug_repeats or args.use_multi_epochs_loader):
            seed_samples(loader_train, args.seed)
        loaders = loader_train, create_loader(datasets[1], **validation, **shared)
    check_not_empty(loaders[0], args.batch_size)
    for loader in loaders:
        shield_workers(loader)
    return loaders


def prepare_augmentation(policy: Optional[str]) -> None:
    """Refuse an --aa that timm does not know, and make its posterizing work with Pillow 13."""
    allow_posterize_to_black()
    if policy:
        call_library(f'--aa {policy}', create_transform, 224, is_training=True, auto_augment=policy)


def check_not_empty(loader: Any, batch_size: int) -> None:
    if len(loader) == 0:
        num_images = -(-len(loader.dataset) // num_processes())
        raise UsageError(f'--batch-size must be at most the {num_images} training images per process, got {batch_size}')


def set_epoch(loader: Any, epoch: int) -> None:
    for part in (loader, *(getattr(loader, name, None) for name in ('sampler', 'batch_sampler', 'dataset'))):
        if hasattr(part, 'set_epoch'):
            part.set_epoch(epoch)
