"""Creation and checks of timm's datasets."""
import argparse
import os
from typing import Any, Callable, Dict, Tuple

from PIL import Image
from timm.data import AugMixDataset, ImageDataset, MultiLabelTarget, create_dataset
from torch.utils.data import Dataset, IterableDataset
from torchvision.datasets import VisionDataset

from ..._timm_compat import FOLDERS, source_of
from ...checks import REJECTIONS, UsageError, call_library
from ..cli.flag import take
from .classes import check_classes
from .digits import Digits
from .folders import check_folders
from .images import CheckedImages, ClassIndex


def create_datasets(args: argparse.Namespace, data_config: Dict[str, Any]) -> Tuple[Dataset, Dataset]:
    """Create the training and validation datasets; targets are class indices, or multi-hot with --task multilabel."""
    channels, num_classes = data_config['input_size'][0], data_config['num_classes']
    datasets = tuple(_create_dataset(args, channels, is_training) for is_training in (True, False))
    check_splits(args, *datasets)
    check_classes(args, num_classes, *datasets)
    for dataset in datasets:
        if args.task == 'classification' and hasattr(dataset, 'target_transform'):
            dataset.target_transform = ClassIndex(num_classes, dataset.target_transform)
        elif args.task == 'multilabel':
            dataset.target_transform = MultiLabelTarget(num_classes, dense=args.target_format == 'multihot')
            if not isinstance(dataset, IterableDataset):
                call_library(
                    '--task multilabel needs lists of class indices, or vectors with --target-format multihot',
                    dataset.__getitem__, 0, errors=Exception)
    if args.aug_splits:
        return AugMixDataset(datasets[0], num_splits=args.aug_splits), datasets[1]
    return datasets


def create_split(args: argparse.Namespace, create: Callable, **kwargs: Any) -> Dataset:
    """Create the dataset of a split by timm's `create`; an image that cannot be read ends the run if it is a map."""
    what = f'{kwargs.get("split", "a")} split of {args.dataset or args.data_dir or args.data}'
    # the errors of timm and torchvision for data that is not there
    dataset = call_library(what, create, **kwargs, errors=(*REJECTIONS, KeyError, RuntimeError))
    is_map = isinstance(dataset, (ImageDataset, VisionDataset))
    return CheckedImages(dataset, kwargs.get('input_img_mode')) if is_map else dataset


def check_splits(args: argparse.Namespace, *datasets: Dataset) -> None:
    """Check both folders, and refuse to validate on training images: timm reads all if none has a split's name."""
    splits, sources = (args.train_split, args.val_split), [*map(source_of, datasets)]
    if splits[0] != splits[1] and all(type(source) in FOLDERS for source in sources):
        train, evaluation = (os.path.realpath(source.root) for source in sources)
        if os.path.commonpath([train, evaluation]) in (train, evaluation):
            raise UsageError(
                f'--train-split {splits[0]} and --val-split {splits[1]} read the same images (in {train} and '
                f'{evaluation})')
    for split, dataset in zip(splits, datasets):
        check_folders(split, dataset, args.class_map, args.input_key)


def _create_dataset(args: argparse.Namespace, channels: int, is_training: bool) -> Dataset:
    split = args.train_split if is_training else args.val_split
    img_mode = args.input_img_mode or ('L' if channels == 1 else 'RGB')
    if len(Image.new(img_mode, (1, 1)).getbands()) != channels:
        raise UsageError(
            f'--input-img-mode {img_mode} does not give the {channels} channels of the input size; give another one, '
            f'or another --in-chans or --input-size')
    if args.dataset == 'digits':
        return Digits(split, input_img_mode=img_mode)
    return create_split(
        args, create_dataset, name=args.dataset, root=args.data_dir or args.data, split=split, is_training=is_training,
        download=args.dataset_download,
        repeats=args.epoch_repeats if is_training else 0,
        num_samples=args.train_num_samples if is_training else args.val_num_samples,
        input_img_mode=img_mode,
        trust_remote_code=args.dataset_trust_remote_code,
        **take(args, 'class_map', 'batch_size', 'seed', 'input_key', 'target_key'),
    )
