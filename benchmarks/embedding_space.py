"""The space of embeddings: `python -m benchmarks.embedding_space --recipe NAME --data-dir FOLDER`.

Embeddings of test images just before the classifier, scaled to length 1. Alignment and uniformity are those of Wang and
Isola (2020), with two images of a class as the positive pair; lower is better for both. Spread is the mean distance of
a class's embeddings to their centre, separation the mean distance between two centres. A picture in two dimensions, by
t-SNE or PCA, is recorded too.
"""
import sys
from typing import Any, Dict, List, Optional

import torch
import torch.nn.functional as F

from .suite.budget import recipe_args
from .suite.cli import mistakes
from .suite.running import create_part_parser, evaluate_runs
from .suite.runs import Run
from .suite.trained import Judged, apply

PROJECTIONS = ('tsne', 'pca')
POINTS = 400  # in the picture


def alignment(embeddings: torch.Tensor, labels: torch.Tensor) -> float:
    """Mean squared distance over all pairs of images of one class; `embeddings` `[n, d]` have length 1."""
    same = [torch.pdist(embeddings[labels == label]).square() for label in labels.unique()]
    return float(torch.cat(same).mean())


def uniformity(embeddings: torch.Tensor) -> float:
    """Log of the mean of exp(-2 |x - y|²) over all pairs; `embeddings` `[n, d]` have length 1."""
    return float(torch.pdist(embeddings).square().mul(-2.).exp().mean().log())


def class_spread(embeddings: torch.Tensor, labels: torch.Tensor) -> Dict[str, Any]:
    """Mean distance to the centre of the class, overall and per class, and mean distance between two centres."""
    spreads, centres = [], []
    for label in labels.unique():
        members = embeddings[labels == label]
        centres.append(members.mean(dim=0))
        spreads.append(float((members - centres[-1]).norm(dim=-1).mean()))
    separation = float(torch.pdist(torch.stack(centres)).mean())
    spread = sum(spreads) / len(spreads)
    return dict(spread=spread, separation=separation, ratio=spread / separation, spread_per_class=spreads)


def project(embeddings: torch.Tensor, kind: str) -> torch.Tensor:
    """Project `[n, d]` to `[n, 2]` by PCA, or by t-SNE that starts from a PCA; deterministic."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    perplexity = min(30., (len(embeddings) - 1) / 3.)
    projection = PCA(2, random_state=0) if kind == 'pca' else TSNE(perplexity=perplexity, init='pca', random_state=0)
    return torch.from_numpy(projection.fit_transform(embeddings.numpy())).float()


def check_images(recipe: str, images: int) -> None:
    """Raise a ValueError for fewer than two images of each class, which its alignment needs."""
    least = 2 * recipe_args(recipe).num_classes
    if images < least:
        raise ValueError(f'--images must be >= {least}, two of each class, got {images}')


def main(argv: Optional[List[str]] = None) -> int:
    parser = create_part_parser(__doc__)
    parser.add_argument('--projection', choices=PROJECTIONS, default='tsne')
    args = parser.parse_args(argv)
    with mistakes(parser):
        check_images(args.recipe, args.images)

    def evaluate(run: Run, judged: Judged) -> Dict[str, Any]:
        model, pixels, labels, *_ = judged
        embeddings = F.normalize(apply(model.embed, pixels, args.device), dim=-1)
        result = dict(
            images=len(pixels),
            width=embeddings.shape[1],
            alignment=alignment(embeddings, labels),
            uniformity=uniformity(embeddings),
            **class_spread(embeddings, labels),
        )
        if run.seed == args.seeds[0]:  # only one is drawn
            count = min(POINTS, len(labels))
            chosen = torch.arange(count) * len(labels) // count
            x, y = project(embeddings[chosen], args.projection).T.double().round(decimals=2).tolist()
            result['picture'] = dict(projection=args.projection, x=x, y=y, label=labels[chosen].tolist())
        return result

    return evaluate_runs('embedding_space', parser, args, dict(projection=args.projection), evaluate)


if __name__ == '__main__':
    sys.exit(main())
