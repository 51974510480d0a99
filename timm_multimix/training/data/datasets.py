"""Creation and checks of timm's datasets."""
import argparse
import os
from typing import Any, Dict, Optional, Tuple

from PIL import Image
from timm.data import AugMixDataset, ImageDataset, MultiLabelTarget, create_dataset
from torch.utils.data import Dataset, IterableDataset
from torchvision.datasets import VisionDataset

from ..._timm_compat import FOLDERS, source_of
from ...checks import REJECTIONS, UsageError, call_library
from .classes import check_classes
from .digits import Digits
from .folders import check_folders
from .images import CheckedImages, ClassIndex

DATASET_ERRORS = (*REJECTIONS, KeyError, RuntimeError)  # timm's and torchvision's for data that is not there


def create_datasets(args: argparse.Namespace, data_config: Dict[str, Any]) -> Tuple[Dataset, Dataset]:
    """Create the training and validation datasets; targets are class indices, or multi-hot with --task multilabel."""
    dataset_train = _create_split(args, data_config, args.train_split, is_training=True)
    dataset_eval = _create_split(args, data_config, args.val_split, is_training=False)
    check_splits(args.train_split, args.val_split, dataset_train, dataset_eval)
    for split, dataset in ((args.train_split, dataset_train), (args.val_split, dataset_eval)):
        check_folders(split, dataset, args.class_map, args.input_key)
    check_classes(args, data_config['num_classes'], dataset_train, dataset_eval)
    for dataset in (dataset_train, dataset_eval):
        if args.task == 'classification' and hasattr(dataset, 'target_transform'):
            dataset.target_transform = ClassIndex(data_config['num_classes'], dataset.target_transform)
        elif args.task == 'multilabel':
            dataset.target_transform = MultiLabelTarget(
                data_config['num_classes'], dense=args.target_format == 'multihot')
            if not isinstance(dataset, IterableDataset):
                call_library(
                    '--task multilabel needs lists of class indices, or vectors with --target-format multihot',
                    dataset.__getitem__, 0, errors=Exception)
    if args.aug_splits:
        dataset_train = AugMixDataset(dataset_train, num_splits=args.aug_splits)
    return dataset_train, dataset_eval


def read_or_refuse(dataset: Dataset, img_mode: Optional[str]) -> Dataset:
    """Make a map-style dataset end the run at an image that cannot be read, and one of torchvision give this mode."""
    return CheckedImages(dataset, img_mode) if isinstance(dataset, (ImageDataset, VisionDataset)) else dataset


def check_splits(train_split: str, val_split: str, dataset_train: Dataset, dataset_eval: Dataset) -> None:
    """Refuse to validate on training images: timm reads the whole folder if it has none with a split's name."""
    sources = source_of(dataset_train), source_of(dataset_eval)
    if train_split == val_split or not all(type(source) in FOLDERS for source in sources):
        return
    train, evaluation = (os.path.realpath(source.root) for source in sources)
    if os.path.commonpath([train, evaluation]) in (train, evaluation):
        raise UsageError(
            f'--train-split {train_split} and --val-split {val_split} read the same images (in {train} and '
            f'{evaluation})')


def _create_split(args: argparse.Namespace, data_config: Dict[str, Any], split: str, is_training: bool) -> Dataset:
    channels = data_config['input_size'][0]
    img_mode = args.input_img_mode or ('L' if channels == 1 else 'RGB')
    if len(Image.new(img_mode, (1, 1)).getbands()) != channels:
        raise UsageError(
            f'--input-img-mode {img_mode} does not give the {channels} channels of the input size; give another one, '
            f'or another --in-chans or --input-size')
    if args.dataset == 'digits':
        return Digits(split, input_img_mode=img_mode)
    root = args.data_dir or args.data
    dataset = call_library(
        f'{split} split of {args.dataset or root}',
        create_dataset,
        args.dataset,
        root=root,
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
        errors=DATASET_ERRORS,
    )
    return read_or_refuse(dataset, img_mode)
