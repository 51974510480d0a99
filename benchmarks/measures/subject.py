"""A trained model and the images that it is measured on, both with pixels in [0, 1]."""
import itertools
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, Optional, Tuple

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.data import create_dataset, create_transform
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from timm_multimix import MultiMixHead, UsageError

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

    `data_config` has what timm's transform of validation needs; `amp_dtype` is the precision of autocast, if any.
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

    def images(self, folder: Optional[str] = None) -> Dataset:
        """Create the dataset of test images, or of a folder with a subfolder per class or just images."""
        try:
            name, root, split = (self.dataset, self.root, self.split) if folder is None else ('', folder, 'validation')
            dataset = create_dataset(name, root=root, split=split)
        except (AssertionError, OSError, RuntimeError, ValueError) as error:  # no folder, no images, no such name
            raise UsageError(f'{folder or self.root} must hold images that timm reads: {error}') from error
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
        return torch.cat([row for row, _ in rows]), torch.cat([labels for _, labels in rows])


def spread(count: int, limit: int) -> range:
    """At most `limit` indices, spread evenly over `count`."""
    limit = min(count, limit)
    return [index * count // limit for index in range(limit)]


@torch.no_grad()
def look(subject: Subject, head: MultiMixHead, pixels: torch.Tensor, labels: torch.Tensor):
    """Return what a head makes of images, and the height and width of its grid of positions."""
    features = subject.model.model.forward_features(subject.model.normalise(pixels))
    outputs = head.outputs(features, labels)
    return outputs, grid_size(features, head.dense.layout.format, outputs.dense_logits.shape[1])


def class_map(logits: torch.Tensor, grid: Tuple[int, int], size: Tuple[int, int]) -> np.ndarray:
    """Enlarge the dense logits `[r]` of a class to an image, as `[h, w]` in [0, 1]."""
    heat = F.interpolate(logits.unflatten(0, grid)[None, None], size, mode='bilinear')[0, 0].float().cpu().numpy()
    return (heat - heat.min()) / max(float(np.ptp(heat)), 1e-12)


def grid_size(features: torch.Tensor, layout: str, num_positions: int) -> Tuple[int, int]:
    """Height and width of the grid of positions, or a single row for tokens that form no square."""
    if layout != 'NLC':
        return tuple(features.shape[2:] if layout == 'NCHW' else features.shape[1:3])
    side = round(num_positions ** 0.5)
    return (side, side) if side * side == num_positions else (1, num_positions)
