"""Datasets and loaders, of timm's own parts."""
import argparse
import os
from typing import Any, Dict, Tuple

from timm.data import create_dataset, create_loader
from torch.utils.data import Dataset

from .digits import Digits
from .methods import needs_two_views
from .mistakes import named
from .runtime import Runtime
from .views import make_views, views_collate


def create_loaders(args: argparse.Namespace, data_config: Dict[str, Any], runtime: Runtime) -> Tuple[Any, Any]:
    """The train and validation loaders; both give class indices, mixing comes after.

    Raises:
        ValueError: If the data is missing, or the training split does not fill one batch.
    """
    dataset_train = _create_dataset(args, data_config, args.train_split, is_training=True)
    dataset_eval = _create_dataset(args, data_config, args.val_split, is_training=False)
    _check_splits(args, dataset_train, dataset_eval)
    _check_classes(args, dataset_train, dataset_eval)
    shared = dict(
        input_size=data_config['input_size'],
        use_prefetcher=not args.no_prefetcher,
        mean=data_config['mean'],
        std=data_config['std'],
        num_workers=args.workers,
        distributed=args.distributed,
        pin_memory=args.pin_mem,
        img_dtype=runtime.model_dtype,
        device=runtime.device,
        use_multi_epochs_loader=args.use_multi_epochs_loader,
        worker_seeding=args.worker_seeding,
        persistent_workers=False,  # workers that start anew are seeded by the epoch: a resumed run sees the same images
    )
    keep_interpolation = args.no_aug or not args.train_interpolation
    loader_train = create_loader(
        dataset_train,
        batch_size=args.batch_size,
        is_training=True,
        no_aug=args.no_aug,
        re_prob=args.reprob,
        re_mode=args.remode,
        re_count=args.recount,
        train_crop_mode=args.train_crop_mode,
        scale=args.scale,
        ratio=args.ratio,
        hflip=args.hflip,
        vflip=args.vflip,
        color_jitter=args.color_jitter,
        color_jitter_prob=args.color_jitter_prob,
        grayscale_prob=args.grayscale_prob or 0.,
        gaussian_blur_prob=args.gaussian_blur_prob or 0.,
        auto_augment=args.aa,
        num_aug_repeats=args.aug_repeats,
        interpolation=data_config['interpolation'] if keep_interpolation else args.train_interpolation,
        collate_fn=views_collate(needs_two_views(args), not args.no_prefetcher),
        **shared,
    )
    if needs_two_views(args):
        make_views(dataset_train)
    if len(loader_train) == 0:
        raise ValueError(
            f'--batch-size must be at most the {len(dataset_train)} training images per process, got {args.batch_size}')
    loader_eval = create_loader(
        dataset_eval,
        batch_size=args.validation_batch_size or args.batch_size,
        is_training=False,
        interpolation=data_config['interpolation'],
        crop_pct=data_config['crop_pct'],
        **shared,
    )
    return loader_train, loader_eval


def _check_splits(args: argparse.Namespace, dataset_train: Dataset, dataset_eval: Dataset) -> None:
    """Refuse to validate on training images: timm reads the whole folder where it finds none of a split's name."""
    roots = [getattr(getattr(dataset, 'reader', None), 'root', None) for dataset in (dataset_train, dataset_eval)]
    if args.train_split == args.val_split or not all(isinstance(root, str) and os.path.isdir(root) for root in roots):
        return
    train, evaluation = map(os.path.realpath, roots)
    if os.path.commonpath([train, evaluation]) in (train, evaluation):
        folder = args.data_dir or args.data
        raise ValueError(
            f'--train-split {args.train_split} and --val-split {args.val_split} read the same images (in {train} and '
            f'{evaluation}); folders in {folder}: {", ".join(sorted(os.listdir(folder))[:10])}')


def _check_classes(args: argparse.Namespace, dataset_train: Dataset, dataset_eval: Dataset) -> None:
    """Refuse folders whose classes do not fit the model, or differ between the splits: labels would be wrong."""
    train, evaluation = (
        getattr(getattr(dataset, 'reader', dataset), 'class_to_idx', None) for dataset in (dataset_train, dataset_eval))
    if train and len(train) > args.num_classes:
        raise ValueError(f'--num-classes must be at least the {len(train)} classes of the data, got {args.num_classes}')
    if train and evaluation and train != evaluation:
        names = sorted(set(train) ^ set(evaluation), key=str)
        raise ValueError(
            f'{args.train_split} and {args.val_split} must have the same classes, got {len(train)} and '
            f'{len(evaluation)}; only one of them has {", ".join(map(str, names[:5]))}')


def _create_dataset(args: argparse.Namespace, data_config: Dict[str, Any], split: str, is_training: bool) -> Dataset:
    img_mode = args.input_img_mode or ('L' if data_config['input_size'][0] == 1 else 'RGB')
    if args.dataset == 'digits':
        return Digits(split, input_img_mode=img_mode)
    with named(f'{split} split of {args.dataset or args.data_dir or args.data}'):
        return create_dataset(
            args.dataset,
            root=args.data_dir or args.data,
            split=split,
            is_training=is_training,
            class_map=args.class_map,
            download=args.dataset_download,
            batch_size=args.batch_size,
            seed=args.seed,
            repeats=args.epoch_repeats if is_training else 0,
            num_samples=args.train_num_samples if is_training else args.val_num_samples,
            input_img_mode=img_mode,
            input_key=args.input_key,
            target_key=args.target_key,
            trust_remote_code=args.dataset_trust_remote_code,
        )
