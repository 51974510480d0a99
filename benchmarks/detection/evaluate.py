"""Average precision of a detector over all processes."""
from typing import Dict, List, Optional

import torch
import torch.distributed as dist
import torch.nn as nn
from torch.utils.data import DataLoader, Subset

from timm_multimix.distributed import num_processes
from timm_multimix.training.progress import progress

from .data import DetectionDataset, collate

METRICS = dict(ap='map', ap50='map_50', ap75='map_75')


@torch.no_grad()
def evaluate(
        detector: nn.Module,
        dataset: DetectionDataset,
        device: torch.device,
        batch_size: int = 8,
        workers: int = 0,
) -> Optional[Dict[str, float]]:
    """Return AP, AP50 and AP75 in percent, as COCO defines them (pycocotools); None on all processes but the first.

    The processes share the images without repetition, so the result does not depend on how many there are.
    """
    world_size = num_processes()
    rank = dist.get_rank() if world_size > 1 else 0
    indices = list(range(rank, len(dataset), world_size))
    loader = DataLoader(Subset(dataset, indices), batch_size, num_workers=workers, collate_fn=collate)
    detector.eval()
    found: List = []
    for images, targets in progress(loader, 'Evaluation', rank == 0):
        for prediction, target in zip(detector([image.to(device) for image in images]), targets):
            prediction = {name: value.cpu() for name, value in prediction.items()}
            found.append((indices[len(found)], prediction, target))
    parts = [found]
    if world_size > 1:
        parts = [None] * world_size if rank == 0 else None
        dist.gather_object(found, parts)
        if rank > 0:
            return None
    found = sorted((entry for part in parts for entry in part), key=lambda entry: entry[0])
    return average_precision([entry[1] for entry in found], [entry[2] for entry in found])


def average_precision(predictions: List[Dict], targets: List[Dict]) -> Dict[str, float]:
    """AP, AP50 and AP75 in percent, from lists with an entry per image.

    Args:
        predictions: boxes `[n, 4]`, scores `[n]`, labels `[n]`.
        targets: boxes, labels, iscrowd, area.
    """
    from torchmetrics.detection import MeanAveragePrecision
    metric = MeanAveragePrecision(iou_type='bbox', backend='pycocotools', sync_on_compute=False)
    metric.update(predictions, targets)
    values = metric.compute()
    return {name: 100. * float(values[key]) for name, key in METRICS.items()}
