"""How the features of a model are arranged: where its positions are, and which of its tokens are none."""
import contextlib
from dataclasses import dataclass
from typing import Set

import torch
import torch.nn as nn

from .model import unsupported


@dataclass(frozen=True)
class Layout:
    """How `forward_features` arranges positions: 'NCHW', 'NHWC', or 'NLC' with `num_prefix_tokens` before them."""
    format: str
    num_prefix_tokens: int = 0

    def num_positions(self, features: torch.Tensor) -> int:
        return len(self.split(features)) // len(features)

    def split(self, features: torch.Tensor) -> torch.Tensor:
        """Return each of the b x r positions as an image of one position, in the same layout.

        A token also takes the place of the prefix tokens, so that class-token and average pooling both return it.
        """
        if self.format == 'NLC':
            tokens = features[:, self.num_prefix_tokens:]
            return tokens.reshape(-1, 1, tokens.shape[-1]).expand(-1, self.num_prefix_tokens + 1, -1)
        if self.format == 'NHWC':
            return features.reshape(-1, 1, 1, features.shape[-1])
        return features.flatten(2).transpose(1, 2).reshape(-1, features.shape[1], 1, 1)


def find_layout(model: nn.Module, features: torch.Tensor, example: torch.Tensor, grids: Set[int]) -> Layout:
    """Return the layout of `features`, the output of `model.forward_features(example)`.

    `grids` holds the numbers of positions of the maps inside the model, which tell whether there are class tokens.
    """
    if not isinstance(features, torch.Tensor):
        raise unsupported(model, f'forward_features returns a {type(features).__name__}, not one tensor of positions')
    if features.ndim == 4:
        output_format = getattr(model, 'output_fmt', None)
        nhwc = getattr(output_format, 'value', output_format) == 'NHWC'
        layout = Layout('NHWC' if nhwc else 'NCHW')
    elif features.ndim == 3:
        layout = Layout('NLC', _num_prefix_tokens(model, features, example, grids))
    else:
        raise unsupported(model, f'forward_features returns shape {list(features.shape)}, without spatial positions')
    width, expected = features.shape[1 if layout.format == 'NCHW' else -1], getattr(model, 'num_features', None)
    if isinstance(expected, int) and width != expected:
        raise unsupported(
            model, f'forward_features returns {width} channels ({layout.format}), but num_features is {expected}')
    if layout.num_prefix_tokens < 0 or layout.num_positions(features) < 1:
        raise unsupported(model, f'features have shape {list(features.shape)}, class tokens without patch tokens')
    return layout


def _num_prefix_tokens(model: nn.Module, features: torch.Tensor, example: torch.Tensor, grids: Set[int]) -> int:
    known, num_tokens = getattr(model, 'num_prefix_tokens', None), features.shape[1]
    if known is not None:
        return known
    # Some models have a class token but no such attribute: the size of the grid shows it.
    with contextlib.suppress(Exception):  # the method is missing or varies
        grid = model.forward_intermediates(example, indices=1, output_fmt='NCHW', intermediates_only=True)[-1]
        return num_tokens - grid.shape[-2] * grid.shape[-1]
    height, width = example.shape[-2:]
    surplus = next(
        (k for k in range(num_tokens) if num_tokens - k in grids or _is_grid(num_tokens - k, height, width)), None)
    if surplus != 0:
        raise unsupported(
            model, f'forward_features returns {num_tokens} tokens for {height} x {width} pixels, which are not a grid '
            'of positions: set model.num_prefix_tokens to the number of class tokens and others before the grid '
            f'({"0 if there are none" if surplus is None else f"probably {surplus}"})')
    return 0


def _is_grid(num_tokens: int, height: int, width: int) -> bool:
    rows = max(round((num_tokens * height / width) ** 0.5), 1)
    return num_tokens % rows == 0 and height // rows == width // (num_tokens // rows)
