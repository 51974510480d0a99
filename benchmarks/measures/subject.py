"""A trained model and the images that it is measured on, both with pixels in [0, 1]."""
import argparse
import itertools
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterator, Optional, Sequence, Tuple

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.data import ImageDataset, create_dataset, create_transform
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset
from torchvision.datasets import VisionDataset

from timm_multimix import MultiMixHead, UsageError
from timm_multimix.picture import grid_of
from timm_multimix.training.data.classes import class_names, some
from timm_multimix.training.data.digits import Digits
from timm_multimix.training.data.folders import check_folders, check_root
from timm_multimix.training.data.images import CheckedImages

Batches = Iterator[Tuple[torch.Tensor, torch.Tensor]]


class PixelModel(nn.Module):
    """A timm model that takes pixels in [0, 1] and normalises them, so that the whole function is measured."""

    def __init__(self, model: nn.Module, mean: Tuple[float, ...], std: Tuple[float, ...]):
        super().__init__()
        self.model = model
        self.register_buffer('mean', torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(std).view(-1, 1, 1), persistent=False)

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        return ((pixels - self.mean) / self.std).contiguous(memory_format=torch.channels_last)  # faster, also on a CPU

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits `[b, c]` of `pixels` `[b, 3, h, w]`."""
        return self.model(self.normalise(pixels))

    def embed(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embeddings `[b, d]`, the input of the classifier."""
        features = self.model.forward_features(self.normalise(pixels))
        return self.model.forward_head(features, pre_logits=True).flatten(1)


@dataclass(frozen=True)
class Subject:
    """A model in eval mode with frozen weights, and its test images: a split of a folder, or of timm's `dataset` there.

    `data_config` has what timm's transform of validation needs; `amp_dtype` is the precision of autocast, if any;
    `reading` are arguments of timm's create_dataset, and `classes` the names of the model's classes, if known.
    """
    model: PixelModel
    data_config: Dict[str, Any]
    device: torch.device
    dataset: str
    root: str
    split: str = 'validation'
    batch_size: int = 128
    workers: int = 0
    amp_dtype: Optional[torch.dtype] = None
    reading: Dict[str, Any] = field(default_factory=dict)
    classes: Sequence[str] = ()

    @property
    def img_mode(self) -> str:
        """PIL's mode of the images that the model takes."""
        return self.reading.get('input_img_mode') or ('L' if self.data_config['input_size'][0] == 1 else 'RGB')

    def images(self, folder: Optional[str] = None) -> Dataset:
        """Create the dataset of test images, or of a folder with a subfolder per class or just images.

        Raises:
            UsageError: If there is no such data, or its classes are not those of the model.
        """
        name, root, split = (self.dataset, self.root, self.split) if folder is None else ('', folder, 'validation')
        reading, mode = self.reading if folder is None else {}, self.img_mode
        if name:
            check_root(argparse.Namespace(dataset=name))
        try:
            dataset = Digits(split, mode) if name == 'digits' else create_dataset(
                name, root=root, split=split, **{**reading, 'input_img_mode': mode})
        except (AssertionError, OSError, RuntimeError, ValueError) as error:  # no folder, no images, no such name
            raise UsageError(f'{folder or self.root} must hold images that timm reads: {error}') from error
        if isinstance(dataset, (ImageDataset, VisionDataset)):
            dataset = CheckedImages(dataset, mode)
        if folder is None:
            check_folders(split, dataset, reading.get('class_map', ''), reading.get('input_key'))
            names = class_names(dataset)
            if self.classes and names and names != [*self.classes]:
                raise UsageError(
                    f'{root} must have the classes that the model was trained on, {some(self.classes)}, got '
                    f'{some(names)}')
        dataset.transform = self.transform()
        return dataset

    def transform(self) -> Callable:
        """timm's transform of validation, from a PIL image to bytes `[3, h, w]`."""
        names = ('input_size', 'interpolation', 'crop_pct', 'crop_mode')
        return create_transform(**{name: self.data_config[name] for name in names}, normalize=False)

    def batches(self, dataset: Dataset, limit: Optional[int] = None) -> Batches:
        """Yield pixels `[b, 3, h, w]` and labels `[b]` on the device, in order.

        With a `limit`, that many images are spread evenly over the dataset; of a stream they are the first.
        """
        if isinstance(dataset, IterableDataset):
            dataset = dataset if limit is None else list(itertools.islice(dataset, limit))
        elif limit is not None and limit < len(dataset):
            dataset = Subset(dataset, spread(len(dataset), limit))
        for pixels, labels in DataLoader(dataset, self.batch_size, num_workers=self.workers):
            yield pixels.to(self.device).float() / 255., labels.to(self.device)

    def autocast(self) -> Any:
        return torch.autocast(self.device.type, self.amp_dtype) if self.amp_dtype else nullcontext()

    @torch.no_grad()
    def logits(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits `[b, c]` in float32."""
        with self.autocast():
            return self.model(pixels).float()

    @torch.no_grad()
    def collect(self, function: Callable, dataset: Dataset, limit: Optional[int]) -> Tuple[torch.Tensor, torch.Tensor]:
        """Return what `function` makes of the pixels of every batch, and the labels, both on the CPU."""
        rows = [(function(pixels).float().cpu(), labels.cpu()) for pixels, labels in self.batches(dataset, limit)]
        values = torch.cat([row for row, _ in rows])
        if not values.isfinite().all():
            raise UsageError('the model returns NaN or infinite values, so nothing but its accuracy can be measured')
        return values, torch.cat([labels for _, labels in rows])


def spread(count: int, limit: int) -> range:
    """At most `limit` indices, spread evenly over `count`."""
    limit = min(count, limit)
    return [index * count // limit for index in range(limit)]


@torch.no_grad()
def look(subject: Subject, head: MultiMixHead, pixels: torch.Tensor, labels: torch.Tensor):
    """Return what a head makes of images, and the height and width of its grid of positions."""
    features = subject.model.model.forward_features(subject.model.normalise(pixels))
    outputs = head.outputs(features, labels)
    layout = head.dense.layout.format
    if layout == 'NLC':
        return outputs, grid_of(outputs.dense_logits.shape[1], *pixels.shape[-2:])
    return outputs, tuple(features.shape[2:] if layout == 'NCHW' else features.shape[1:3])


def class_map(logits: torch.Tensor, grid: Tuple[int, int], size: Tuple[int, int]) -> np.ndarray:
    """Enlarge the dense logits `[r]` of a class to an image, as `[h, w]` in [0, 1]."""
    heat = F.interpolate(logits.unflatten(0, grid)[None, None], size, mode='bilinear')[0, 0].float().cpu().numpy()
    return (heat - heat.min()) / max(float(np.ptp(heat)), 1e-12)
