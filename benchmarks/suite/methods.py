"""The methods that the benchmarks compare, one entry each, for training, timing, tables and figures."""
from dataclasses import dataclass, replace
from typing import Dict


@dataclass(frozen=True)
class Method:
    """Everything that the benchmarks know about a method.

    Args:
        label: Name in tables and figures.
        flags: Flags for train_timm.py, in addition to those of the recipe.
        color: Color of its lines and points.
        marker: Marker of its points.
        line: Style of its lines.
        ours: Whether it mixes by MultiMix, and so is compared with the others.
    """
    label: str
    flags: str
    color: str
    marker: str = 'o'
    line: str = '-'
    ours: bool = False


_DENSE = '--smoothing 0 --mixup-mode dense-multimix'
METHODS: Dict[str, Method] = {
    'plain': Method('plain', '--smoothing 0', '#222222'),
    'label-smoothing': Method('label smoothing', '--smoothing 0.1', '#8c8c8c', 's'),
    'mixup': Method('Mixup', '--smoothing 0 --mixup 1', '#1f77b4'),
    'cutmix': Method('CutMix', '--smoothing 0 --cutmix 1', '#17becf', 's'),
    'mixup-cutmix': Method('Mixup + CutMix', '--smoothing 0 --mixup 1 --cutmix 1', '#2ca02c', '^'),
    'mixup-half': Method(
        'Mixup on half of the batches', '--smoothing 0 --mixup 1 --mixup-prob 0.5', '#1f77b4', line='--'),
    'manifold-mixup': Method(
        'manifold mixup', '--smoothing 0 --mixup-mode multimix --multimix-length 2 --multimix-concentration example '
        '--multimix-alpha 1 --multimix-clean-weight 0 --multimix-tuples 128', '#9467bd', 'D'),
    'multimix': Method('MultiMix', '--smoothing 0 --mixup-mode multimix', '#d62728', ours=True),
    'dense-multimix': Method('Dense MultiMix', _DENSE, '#ff7f0e', 's', ours=True),
    'mixup+multimix': Method(
        'Mixup + MultiMix', '--smoothing 0 --mixup-mode multimix --mixup 1', '#e377c2', '^', ours=True),
    'mixup+dense-multimix': Method('Mixup + Dense MultiMix', f'{_DENSE} --mixup 1', '#b35806', '^', ours=True),
    'mixup-cutmix+dense-multimix': Method(
        'Mixup, CutMix + Dense MultiMix', f'{_DENSE} --mixup 1 --cutmix 1', '#b35806', 'D', ours=True),
    'dense-multimix-paper+mixup': Method(
        'Mixup + Dense MultiMix, literal', f'{_DENSE} --multimix-paper --mixup 1', '#7f3b08', 'X', ':', ours=True),
    'auto': Method(
        'Mixup + Dense MultiMix, share found',
        f'{_DENSE} --mixup 1 --multimix-input-prob auto', '#bcbd22', 'P', ours=True),
    'mixupe': Method('MixupE', '--smoothing 0 --mixup-mode mixupe --mixup 1', '#8c564b', 'v'),
    'multimix-distilled': Method(
        'MultiMix, self-distilled', '--smoothing 0 --mixup-mode multimix --multimix-teacher-decay 0.99', '#d62728',
        'o', '--', ours=True),
    'dense-multimix-distilled': Method(
        'Dense MultiMix, self-distilled', f'{_DENSE} --multimix-teacher-decay 0.99', '#ff7f0e', 's', '--', ours=True),
}
"""Methods by the name that `--methods` takes. MultiMix and Dense MultiMix have their default flags.

Manifold mixup (Verma et al. 2019) mixes at the last layer: 128 pairs by Beta(1, 1), as many as the CIFAR recipes have
images per batch. It is MultiMix of length 2, which differs from the paper in two ways: every pair has its own λ, while
the authors draw one per batch, and pairs are drawn independently, so an image may be in none or in several, while the
authors take a permutation.
"""

KNOBS: Dict[str, Method] = {}
"""Variants that `--methods` takes too; each changes one setting of a method."""


def find(name: str) -> Method:
    """Return the entry of a method or variant; any other name, such as a model from scratch, becomes a grey label."""
    return METHODS.get(name) or KNOBS.get(name) or Method(name, '', '#999999', line=':')


def _add_variant(method: str, knob: str, flags: str) -> None:
    base = METHODS[method]
    KNOBS[f'{method}-{knob}'] = replace(
        base, label=f'{base.label}, {knob.replace("-", " ")}', flags=f'{base.flags} {flags}', line=':',
        marker='xP*<>1234phd'[len(KNOBS) % 12])


_PAIRS = '--multimix-length 2 --multimix-concentration example --multimix-alpha 1'
for _mode in ('multimix', 'dense-multimix'):
    for _knob, _flags in {
            'paper': '--multimix-paper',
            'paper-clean': '--multimix-concentration example --multimix-alpha 0.5 2 --multimix-clean-weight 1',
            'mixed-only': '--multimix-clean-weight 0',
            'clean-half': '--multimix-clean-weight 0.5',
            'tuples-64': '--multimix-tuples 64',
            'tuples-1000': '--multimix-tuples 1000',
            'clean-1': '--multimix-clean-weight 1',
            'clean-3': '--multimix-clean-weight 3',  # now the default; older runs have this name
            'alpha-0.5': '--multimix-alpha 0.5',
            'alpha-1': '--multimix-alpha 1',
            'alpha-4': '--multimix-alpha 4',
            'pairs': f'{_PAIRS} --multimix-clean-weight 1',
            'pairs-only': f'{_PAIRS} --multimix-clean-weight 0',
            'cutmix': '--cutmix 1 --mixup-switch-prob 0.5',
            'half-plain': '--mixup-prob 0.5',
            'smoothing': '--smoothing 0.1',
    }.items():
        _add_variant(_mode, _knob, _flags)
for _attention in ('none', 'cam'):
    _add_variant('dense-multimix', f'attention-{_attention}', f'--multimix-attention {_attention}')
for _knob, _flags in {
        'clean-0': '--multimix-clean-weight 0',
        'clean-1': '--multimix-clean-weight 1',
        'clean-3': '--multimix-clean-weight 3',  # as above
        'tuples-1000': '--multimix-tuples 1000',
        'input-0.3': '--multimix-input-prob 0.3',
        'input-0.7': '--multimix-input-prob 0.7',
}.items():
    _add_variant('mixup+dense-multimix', _knob, _flags)
for _weight in (1, 3):
    _add_variant('auto', f'clean-{_weight}', f'--multimix-clean-weight {_weight}')
_add_variant('mixup', 'elem', '--mixup-mode elem')  # timm's slowest way to mix, for timing
for _method in ('plain', 'multimix', 'dense-multimix'):  # for the ViT, whose default is a class token
    _add_variant(_method, 'avg-pool', '--gp avg')
for _method in METHODS:  # the first six are for AdamW, the others for SGD
    for _rate in (0.0003, 0.001, 0.003, 0.01, 0.03, 0.3, 0.4, 0.8, 3.2):
        _add_variant(_method, f'lr-{_rate}', f'--lr {_rate}')
