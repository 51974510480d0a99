"""The space of embeddings, those just before the classifier, scaled to length 1.

Alignment and uniformity are those of Wang and Isola (2020), with two images of a class as the positive pair. Retrieval
takes every image as a query among the others, by cosine; neighbours vote for its class. With --unseen, all of that is
also measured among images of classes that were not trained on, and few-shot classification by the nearest mean of 1 or
5 examples a class.
"""
import argparse
from typing import Any, Dict

import torch
import torch.nn.functional as F

from timm_multimix import UsageError

from ..records import check_least
from .subject import Subject

SETTINGS = ('neighbours', 'unseen', 'images')
_DRAWS = 100  # of the few examples
_BLOCK = 1000  # queries at once


def add_arguments(parser: Any) -> None:
    parser.add_argument('--neighbours', type=int, default=10, help='that vote for a class (%(default)s)')


def measure(subject: Subject, args: argparse.Namespace) -> Dict[str, Any]:
    """Measure the embeddings of test images and, under 'unseen', of images of other classes."""
    check_least(args, neighbours=1)
    result = dict(measure_space(*_embed(subject, None, args), args.neighbours))
    if args.unseen:
        embeddings, labels = _embed(subject, args.unseen, args)
        result['unseen'] = dict(measure_space(embeddings, labels, args.neighbours))
        least = int(torch.unique(labels, return_counts=True)[1].min())
        result['unseen'].update({
            f'{shots}-shot': few_shot(embeddings, labels, shots) for shots in (1, 5) if shots < least})
    return result


def _embed(subject: Subject, folder: Any, args: argparse.Namespace):
    def embed(pixels: torch.Tensor) -> torch.Tensor:
        with subject.autocast():
            return F.normalize(subject.model.embed(pixels).float(), dim=-1)

    embeddings, labels = subject.collect(embed, subject.images(folder), args.images or None)
    counts = torch.unique(labels, return_counts=True)[1]
    if len(counts) < 2 or counts.min() < 2:
        raise UsageError(
            f'{folder or subject.root} must give two images of each class, of two classes, got {len(labels)} of '
            f'{len(counts)}: raise --images')
    return embeddings, labels


def measure_space(embeddings: torch.Tensor, labels: torch.Tensor, neighbours: int) -> Dict[str, Any]:
    """Measure `embeddings` `[n, d]` of length 1, at least two of each class.

    Returns:
        'alignment', the mean squared distance within a class; 'uniformity', log of the mean of exp(-2 d²) over all
        pairs; 'spread', the mean distance of a class to its centre; 'separation', the mean distance of two centres;
        in percent 'recall1', queries whose nearest other image has their class, 'map', the mean average precision, and
        'knn', queries whose neighbours vote for their class (ties by similarity).
    """
    same = [torch.pdist(embeddings[labels == label]).square() for label in labels.unique()]
    centres = torch.stack([embeddings[labels == label].mean(dim=0) for label in labels.unique()])
    spreads = [
        (embeddings[labels == label] - centre).norm(dim=-1).mean() for label, centre in zip(labels.unique(), centres)]
    potential, recall, precision, votes = 0., 0., 0., 0.
    for start in range(0, len(labels), _BLOCK):
        queries = torch.arange(start, min(start + _BLOCK, len(labels)))
        similarity = embeddings[queries] @ embeddings.T
        potential += float((4. * similarity - 4.).exp().double().sum() - len(queries))  # without the pair with itself
        similarity[torch.arange(len(queries)), queries] = -torch.inf
        order = similarity.argsort(dim=-1, descending=True, stable=True)[:, :-1]
        hits = (labels[order] == labels[queries, None]).double()
        ranks = torch.arange(1, hits.shape[1] + 1)
        recall += float(hits[:, 0].sum())
        precision += float(((hits.cumsum(dim=-1) / ranks * hits).sum(dim=-1) / hits.sum(dim=-1)).sum())
        nearest = order[:, :neighbours]
        weights = 1. + similarity.gather(-1, nearest).double() / (4. * neighbours)  # similarity only breaks ties
        ballot = torch.zeros(len(queries), int(labels.max()) + 1, dtype=torch.double)
        ballot.scatter_add_(-1, labels[nearest], weights)
        votes += float((ballot.argmax(dim=-1) == labels[queries]).sum())
    n = len(labels)
    return dict(
        images=n,
        width=embeddings.shape[1],
        alignment=float(torch.cat(same).mean()),
        uniformity=float(torch.tensor(potential / (n * (n - 1.))).log()),
        spread=float(torch.stack(spreads).mean()),
        separation=float(torch.pdist(centres).mean()),
        recall1=100. * recall / n,
        map=100. * precision / n,
        knn=100. * votes / n,
    )


def few_shot(embeddings: torch.Tensor, labels: torch.Tensor, shots: int, draws: int = _DRAWS) -> float:
    """Accuracy in percent of the nearest mean of `shots` examples a class, on all other images, over draws."""
    generator = torch.Generator().manual_seed(0)
    classes, correct, total = labels.unique(), 0, 0
    for _ in range(draws):
        order = torch.randperm(len(labels), generator=generator)
        chosen = torch.stack([order[labels[order] == label][:shots] for label in classes])
        means = F.normalize(embeddings[chosen].mean(dim=1), dim=-1)
        others = torch.ones(len(labels), dtype=torch.bool)
        others[chosen.flatten()] = False
        found = classes[(embeddings[others] @ means.T).argmax(dim=-1)]
        correct, total = correct + int((found == labels[others]).sum()), total + int(others.sum())
    return 100. * correct / total
