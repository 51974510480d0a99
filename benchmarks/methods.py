"""The methods that the benchmarks compare, one entry each, for training, timing, tables and figures."""
import re
import zlib
from dataclasses import dataclass, replace
from typing import Dict

from timm_multimix import PAPER, UsageError
from timm_multimix.training.cli.parser import FLAGS


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


_POOLED = '--smoothing 0 --mixup-mode multimix'
_DENSE = '--smoothing 0 --mixup-mode dense-multimix'
# --multimix-paper, flag by flag, so that a variant can change one of them
_PAPER = (
    f'--multimix-tuples {PAPER["num_tuples"]} --multimix-alpha {" ".join(map(str, PAPER["alpha"]))} '
    f'--multimix-concentration {PAPER["concentration"]} --multimix-clean-weight {PAPER["clean_weight"]}')
METHODS: Dict[str, Method] = {
    'plain': Method('plain', '--smoothing 0', '#222222'),
    'label-smoothing': Method('label smoothing', '--smoothing 0.1', '#8c8c8c', 's'),
    'mixup': Method('Mixup', '--smoothing 0 --mixup 1', '#1f77b4'),
    'cutmix': Method('CutMix', '--smoothing 0 --cutmix 1', '#17becf', 's'),
    'mixup-cutmix': Method('Mixup + CutMix', '--smoothing 0 --mixup 1 --cutmix 1', '#2ca02c', '^'),
    'mixup-half': Method(
        'Mixup on half of the batches', '--smoothing 0 --mixup 1 --mixup-prob 0.5', '#1f77b4', line='--'),
    'manifold': Method(
        'manifold mixup', '--smoothing 0 --mixup 1 --device-modules benchmarks.manifold_mixup', '#9467bd', 'D'),
    'last-layer-pairs': Method(
        'pairs at the last layer', f'{_POOLED} --multimix-length 2 --multimix-concentration example '
        '--multimix-alpha 1 --multimix-clean-weight 0 --multimix-tuples 128', '#9467bd', 'D', '--'),
    'multimix': Method('MultiMix', _POOLED, '#d62728', ours=True),
    'dense-multimix': Method('Dense MultiMix', _DENSE, '#ff7f0e', 's', ours=True),
    'mixup+multimix': Method('Mixup + MultiMix', f'{_POOLED} --mixup 1', '#e377c2', '^', ours=True),
    'mixup+dense-multimix': Method('Mixup + Dense MultiMix', f'{_DENSE} --mixup 1', '#b35806', '^', ours=True),
    'mixup-cutmix+dense-multimix': Method(
        'Mixup, CutMix + Dense MultiMix', f'{_DENSE} --mixup 1 --cutmix 1', '#b35806', 'D', ours=True),
    'strength': Method(
        'Mixup + Dense MultiMix, strength auto',
        '--smoothing 0.1 --mixup-mode dense-multimix --mixup 1 --multimix-strength auto', '#bcbd22', 'P', ours=True),
    'multimix-paper': Method('MultiMix, literal', f'{_POOLED} {_PAPER}', '#7f0000', ours=True),
    'dense-multimix-paper': Method('Dense MultiMix, literal', f'{_DENSE} {_PAPER}', '#cc6600', 's', ours=True),
    'multimix-paper+mixup': Method(
        'Mixup + MultiMix, literal', f'{_POOLED} {_PAPER} --mixup 1', '#7f0000', '^', ours=True),
    'dense-multimix-paper+mixup': Method(
        'Mixup + Dense MultiMix, literal', f'{_DENSE} {_PAPER} --mixup 1', '#cc6600', '^', ours=True),
    'mixupe': Method('MixupE', '--smoothing 0 --mixup-mode mixupe --mixup 1', '#8c564b', 'v'),
    'multimix-distilled': Method(
        'MultiMix, self-distilled', f'{_POOLED} --multimix-teacher-decay 0.99', '#d62728', 'o', '--', ours=True),
    'dense-multimix-distilled': Method(
        'Dense MultiMix, self-distilled', f'{_DENSE} --multimix-teacher-decay 0.99', '#ff7f0e', 's', '--', ours=True),
}
"""Methods by the name that `--methods` takes. MultiMix and Dense MultiMix have their default flags.

In the literal methods with Mixup each batch has its images mixed or its embeddings, half of them each, as the authors
alternate. Manifold mixup (Verma et al. 2019) is `benchmarks.manifold_mixup`. The pairs at the last layer are MultiMix
of length 2 without a clean term: 128 pairs, each drawn independently and with its own λ.
"""

PAST = {'auto': Method('Mixup + Dense MultiMix, share found', '', '#bcbd22', 'X', ours=True)}
"""Methods of results in the tree that cannot be trained any more."""
_OLD_NAMES = {'manifold-mixup': 'last-layer-pairs', 'mixup-elem': 'mixup@mixup-mode=elem'}
_OLD_FLAGS = dict(clean='clean-weight', tuples='tuples', input='input-prob', lr='lr')


def find(name: str) -> Method:
    """Return the entry of a method, or of a variant `METHOD@FLAG=VALUE,FLAG=VALUE`.

    FLAG is a flag of train_timm.py without its dashes; `multimix-` and `mixupe-` may be left out. Several values of one
    flag are joined by a colon: `multimix@alpha=0.5:2,length=3`. Names in older results are understood, too.

    Raises:
        UsageError: Naming the methods, if there is none of this name, or the flag that does not exist.
    """
    method, variant, changes = current_name(name).partition('@')
    if method in PAST:
        return replace(PAST[method], label=f'{PAST[method].label}{", " * bool(variant)}{re.sub("[-=]", " ", changes)}')
    if method not in METHODS:
        raise UsageError(f'a method must be one of {", ".join(METHODS)}, or METHOD@FLAG=VALUE, got {name!r}')
    base = METHODS[method]
    if not variant:
        return base
    flags = [_flag(name, setting) for setting in changes.split(',')]
    return replace(
        base, label=f'{base.label}, {re.sub("[-=:]", " ", changes).replace(",", ", ")}',
        flags=' '.join([base.flags, *flags]), line=':', marker='xP*<>1234phd'[zlib.crc32(name.encode()) % 12])


def current_name(name: str) -> str:
    """Return the present name of a method that an older result names."""
    old = re.fullmatch(r'(.+)-(clean|tuples|input|lr)-([\d.]+)', name)
    return f'{old[1]}@{_OLD_FLAGS[old[2]]}={old[3]}' if old else _OLD_NAMES.get(name, name)


def _flag(name: str, setting: str) -> str:
    flag, equals, value = setting.partition('=')
    for prefix in ('multimix_', 'mixupe_', ''):
        found = FLAGS.get(prefix + flag.replace('-', '_'))
        if found is not None and re.fullmatch(r'[\w.:+-]*', value) and bool(value) == bool(equals):
            return f'{found.name} {value.replace(":", " ")}'.strip()
    raise UsageError(f'{name}: a variant is METHOD@FLAG=VALUE with a flag of train_timm.py, got {setting!r}')
