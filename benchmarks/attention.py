"""Attention and tuples of Dense MultiMix on images: `python -m benchmarks.attention --recipe NAME --data-dir FOLDER`.

Records for each run the attention over some test images, and tuples that Dense MultiMix would mix from them: the weight
of every example at every position. The default is the plain model and Dense MultiMix, with seed 0.
"""
import base64
import io
import sys
from typing import Any, Dict, List, Optional, Tuple

import torch
from torchvision.transforms.v2.functional import to_pil_image

from timm_multimix import MultiMixHead

from .suite.running import create_part_parser, evaluate_runs
from .suite.runs import Run
from .suite.trained import Judged, PixelModel, class_names

TUPLES = 3
LARGEST = 112  # width and height of the recorded images, at most


def maps(model: PixelModel, pixels: torch.Tensor, labels: torch.Tensor) -> Dict[str, Any]:
    """Compute attention and tuples of one batch.

    Returns:
        'attention' `[b][h][w]`, each map sums to 1; 'weights' `[n][b][h][w]`, which sum to 1 over b.
    """
    head = MultiMixHead(model.model, mode='dense-multimix', num_tuples=TUPLES, input_size=tuple(pixels.shape[1:]))
    features = model.model.forward_features(model.normalise(pixels))
    outputs = head.outputs(features, labels)
    torch.manual_seed(0)
    weights = head.loss.sample_weights(outputs.dense_logits, outputs.attention)  # [r, n, b]
    grid = grid_size(features, head.dense.layout.format, outputs.attention.shape[1])
    return dict(
        attention=_rounded(outputs.attention.unflatten(1, grid)),
        weights=_rounded(weights.permute(1, 2, 0).unflatten(2, grid)),
    )


def grid_size(features: torch.Tensor, layout: str, num_positions: int) -> Tuple[int, int]:
    """Return height and width of the grid of positions, or a single row for tokens that form no square."""
    if layout != 'NLC':
        return tuple(features.shape[2:] if layout == 'NCHW' else features.shape[1:3])
    side = round(num_positions ** 0.5)
    return (side, side) if side * side == num_positions else (1, num_positions)


def encode(image: torch.Tensor) -> str:
    """Encode `[3, h, w]` in [0, 1] as PNG in base64, at most 112 pixels wide and high."""
    picture = to_pil_image(image)
    picture.thumbnail((LARGEST, LARGEST))
    buffer = io.BytesIO()
    picture.save(buffer, format='png')
    return base64.b64encode(buffer.getvalue()).decode('ascii')


def _rounded(values: torch.Tensor) -> list:
    return values.detach().cpu().double().round(decimals=4).tolist()


def main(argv: Optional[List[str]] = None) -> int:
    parser = create_part_parser(__doc__)
    parser.set_defaults(images=8, methods=['plain', 'dense-multimix'], seeds=[0])
    args = parser.parse_args(argv)

    def evaluate(run: Run, judged: Judged) -> Dict[str, Any]:
        return dict(
            classes=class_names(judged.folder),
            labels=judged.labels.tolist(),
            images=[encode(image) for image in judged.pixels],
            **maps(judged.model, judged.pixels.to(args.device), judged.labels.to(args.device)),
        )

    return evaluate_runs('attention', parser, args, {}, evaluate)


if __name__ == '__main__':
    sys.exit(main())
