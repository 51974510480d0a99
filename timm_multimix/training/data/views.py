"""Two independently augmented views of every training image, for self-distillation (arXiv 2206.14868, section 3.3)."""
from functools import partial
from typing import Any, Callable, List, Optional, Tuple

import torch
from timm.data.loader import fast_collate
from torch.utils.data import Dataset, default_collate


class TwoViews:
    """A transform applied twice: a pair of views. Unlike a dataset of pairs, it works with iterable datasets too."""

    def __init__(self, transform: Callable):
        self.transform = transform

    def __call__(self, image: Any) -> Tuple[Any, Any]:
        return self.transform(image), self.transform(image)


def collate_views(batch: List[Tuple[Any, Any]], collate: Callable) -> Tuple[torch.Tensor, torch.Tensor]:
    """Return images `[2b, ch, h, w]`, all first views and then all second ones, and targets `[b]`."""
    views = [collate([(pair[view], target) for pair, target in batch]) for view in range(2)]
    return torch.cat([images for images, _ in views]), views[0][1]


def views_collate(two_views: bool, use_prefetcher: bool) -> Optional[Callable]:
    """The `collate_fn` of timm's create_loader; None for its default."""
    return partial(collate_views, collate=fast_collate if use_prefetcher else default_collate) if two_views else None


def make_views(dataset: Dataset) -> None:
    """Make a dataset return two views; call this after timm's create_loader, which sets the transform."""
    dataset.transform = TwoViews(dataset.transform)
