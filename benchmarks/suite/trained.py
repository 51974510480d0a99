"""Trained models and the images they are evaluated on, both with pixels in [0, 1]."""
import os
from contextlib import nullcontext
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import torch
import torch.nn as nn
import yaml
from timm.data import create_dataset, create_transform
from timm.models import load_checkpoint

from timm_multimix.training.cli.parser import parse_args
from timm_multimix.training.model import create_train_model
from timm_multimix.training.runtime import Runtime

from .runs import Run

BATCH_SIZE = 125


class PixelModel(nn.Module):
    """A timm model that takes pixels in [0, 1] and normalises them, so that the whole function is evaluated."""

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


class Judged(NamedTuple):
    """A trained model, the test images `[n, 3, h, w]` that it is evaluated on, and the `folder` of these images."""
    model: PixelModel
    pixels: torch.Tensor
    labels: torch.Tensor
    data_config: Dict[str, object]
    folder: str


def load_run(run: Run, device: str) -> Tuple[PixelModel, Dict[str, object]]:
    """Load the model of a run after its last epoch, in eval mode and with frozen weights, and its data config.

    For a run with a teacher this is the model, not the teacher.
    """
    with open(os.path.join(run.folder, 'args.yaml'), encoding='utf-8') as file:
        written = yaml.safe_load(file)
    args, _ = parse_args([run.folder])  # flags that are newer than the run have their defaults
    vars(args).update(written)
    # the weights are those of the checkpoint, on one device
    vars(args).update(pretrained=False, pretrained_path=None, initial_checkpoint='', distributed=False, device=device)
    runtime = Runtime(torch.device(device), False, nullcontext, None, None)
    model, data_config = create_train_model(args, runtime)
    load_checkpoint(model, run.checkpoint, use_ema=False)
    pixel_model = PixelModel(model, data_config['mean'], data_config['std']).to(device)
    pixel_model.to(memory_format=torch.channels_last)
    return pixel_model.eval().requires_grad_(False), data_config


def load_pixels(folder: str, data_config: Dict[str, object], limit: Optional[int] = None) -> Tuple[torch.Tensor, ...]:
    """Load images `[n, 3, h, w]` in [0, 1] as validation sees them, and their labels `[n]`.

    The folder has a subfolder per class, or just images; `limit` of them are spread evenly in order of class.
    """
    if not has_images(folder):
        raise ValueError(f'{folder} must be a folder with images')
    dataset = create_dataset('', root=folder)
    dataset.transform = pixel_transform(data_config)
    count = len(dataset) if limit is None else min(limit, len(dataset))
    images, labels = zip(*(dataset[index * len(dataset) // count] for index in range(count)))
    return torch.stack(images).float() / 255., torch.tensor(labels)


def has_images(folder: str) -> bool:
    """Return whether timm finds images in the folder, with or without a subfolder per class."""
    try:
        return len(create_dataset('', root=folder)) > 0
    except (RuntimeError, AssertionError):  # no images, no folder
        return False


def class_names(folder: str) -> List[str]:
    """Names of the labels that `load_pixels` returns, in timm's order, in which 10 comes after 9."""
    class_to_idx = create_dataset('', root=folder).reader.class_to_idx
    return sorted(class_to_idx, key=class_to_idx.get)


def pixel_transform(data_config: Dict[str, object]) -> Callable:
    """timm's validation transform, from a PIL image to bytes `[3, h, w]`."""
    return create_transform(
        **{name: data_config[name] for name in ('input_size', 'interpolation', 'crop_pct')}, normalize=False)


def batches(*tensors: torch.Tensor, device: Optional[torch.device] = None) -> Iterator[Tuple[torch.Tensor, ...]]:
    """Yield the tensors in batches, on the device."""
    for start in range(0, len(tensors[0]), BATCH_SIZE):
        yield tuple(tensor[start:start + BATCH_SIZE].to(device) for tensor in tensors)


@torch.no_grad()
def apply(function: Callable[[torch.Tensor], torch.Tensor], pixels: torch.Tensor, device: str) -> torch.Tensor:
    """Apply `function` to all images, batch by batch; the result is on the CPU."""
    return torch.cat([function(batch).float().cpu() for batch, in batches(pixels, device=device)])


def top1(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Percentage of the images whose largest logit is that of their label."""
    return 100. * int((logits.argmax(dim=-1) == labels).sum()) / len(labels)


def calibration_error(logits: torch.Tensor, labels: torch.Tensor) -> Optional[float]:
    """Expected calibration error over 15 bins (Guo et al. 2017), from 0 to 1; None for a diverged model."""
    from torchmetrics.functional.classification import multiclass_calibration_error

    if not logits.isfinite().all():
        return None
    probabilities = logits.softmax(dim=-1)
    return float(multiclass_calibration_error(probabilities, labels, num_classes=logits.shape[-1], n_bins=15))
