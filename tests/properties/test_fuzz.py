"""Every public constructor and function, given anything for any argument, works or names the argument that is wrong.

For a value of another type Python's own error is enough; a number out of range is always refused.
"""
import fractions
import inspect
import numbers
import re
import typing

import numpy as np
import pytest
import torch
import torch.nn as nn
from hypothesis import given
from hypothesis import strategies as st

from tests.support.models import Positions
from tests.support.strategies import many
from timm_multimix import MixupETask, MultiMix, MultiMixHead, MultiMixLoss, MultiMixTask, UsageError
from timm_multimix.functional import (
    dense_weights,
    draw_alpha,
    interpolate,
    mixed_cross_entropy,
    sample_dirichlet,
    spatial_attention,
)
from timm_multimix.rows import mix

ANYTHING = [
    None, True, False, 0, 1, 2, -1, 10 ** 400, 0., 0.5, 1., -0.5, 1e-300, 1e300, float('nan'), float('inf'), 1j,
    '', 'gap', 'relu', 'multimix', 'batch', 'total', 'auto', '1', b'1', (), (0.5,), (0.5, 2.), (2., 0.5), ('a', 'b'),
    (None, 1), [0.1, 0.2], (1, 2, 3), (3, 2, 2), (3, 'x', 2), (3, -2, 2), {}, {'smoothing': 0.1}, {'a': 1},
    {'smoothing': 'x'}, {1: 2}, set(), object(), print, int, np.float32(0.5), np.int64(2), np.bool_(True),
    np.zeros(3), np.zeros((2, 3)),
    fractions.Fraction(1, 2), torch.tensor(0.5), torch.tensor(2), torch.tensor(True), torch.zeros(3),
    torch.full((4, 3), float('nan')), torch.zeros(0, 3), torch.zeros(4, 2, 3).long(), torch.zeros(4, 0, 3),
    torch.float16, torch.int64, torch.device('cpu'), nn.Linear(3, 2), nn.CrossEntropyLoss(),
    nn.MSELoss(reduction='sum'), Positions(2), range(2), torch.arange(4), torch.arange(4) - 1, torch.zeros(4).bool(),
    -torch.eye(4, 3), torch.eye(4, 3), torch.zeros(4, 0), torch.zeros(4, 2, 3),
]
LOGITS, TARGET, WEIGHTS = torch.zeros(4, 3), torch.tensor([0, 1, 2, 0]), torch.full((5, 4), 0.25)
OURS = dict(num_tuples=3)
DEFAULTS = {
    MultiMixLoss: OURS,
    MultiMixHead: lambda: dict(OURS, model=Positions(3)),
    MultiMix: OURS,
    MultiMixTask: lambda: dict(OURS, model=Positions(3), verbose=False),
    MixupETask: lambda: dict(model=Positions(3), verbose=False),
    sample_dirichlet: dict(num_tuples=2, num_examples=4, alpha=1.),
    draw_alpha: dict(alpha=1.),
    spatial_attention: dict(embeddings=torch.zeros(4, 2, 3)),
    dense_weights: dict(lam=torch.full((2, 5, 4), 0.25), attention=torch.full((4, 2), 0.5)),
    interpolate: dict(weights=WEIGHTS, values=LOGITS),
    mixed_cross_entropy: dict(logits=LOGITS, target=TARGET, weights=WEIGHTS),
    **{MultiMixLoss(5, criterion=criterion).forward: dict(logits=LOGITS, target=TARGET)
       for criterion in (None, nn.BCEWithLogitsLoss())},
    mix: dict(loss=MultiMixLoss(5), logits=LOGITS, target=TARGET),
}


def arguments(call):
    names = []
    for name, parameter in inspect.signature(call).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            names += typing.get_args(parameter.annotation)[0].__annotations__
        elif name != 'settings':
            names.append(name)
    return names


calls = pytest.mark.parametrize('call', DEFAULTS, ids=lambda call: call.__name__)

RANGES = {  # the lowest and the highest value allowed for each numeric argument
    **dict.fromkeys(
        ['num_tuples', 'num_examples', 'length', 'positions', 'num_classes'], (1, 2 ** 31 - 1)),
    **dict.fromkeys(
        ['label_smoothing', 'gamma', 'prob', 'switch_prob', 'input_prob', 'strength', 'teacher_decay'], (0., 1.)),
    **dict.fromkeys(['mixup_alpha', 'cutmix_alpha', 'eta'], (0., 1e308)),
    'alpha': (1e-308, 1e308),
    'clean_weight': (0., 1000.),
    'threshold': (-1e308, 1e308),
}
NAMES = ('mode', 'attention', 'activation', 'concentration', 'implementation', 'kind')


def is_number(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def attempt(call, changes):
    """Call it; a refusal says which argument, what is allowed and what it got, unless one of them has a wrong type."""
    defaults = DEFAULTS[call]
    try:
        return call(**{**(defaults() if callable(defaults) else defaults), **changes})
    except UsageError as error:
        message = str(error)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        right_type = [
            is_number(value) if name in RANGES else isinstance(value, str) and name in NAMES
            for name, value in changes.items()]
        if all(right_type):
            raise
        return None
    assert any(re.search(OTHER_NAMES.get(name, name), message) for name in changes), f'{message!r} for {changes}'
    if not {'model', 'input_size', 'criterion_kwargs', 'multi_label'} & set(changes):  # where timm may say it
        assert re.search('must|need|not both|given twice', message) and 'got' in message, f'{message!r} for {changes}'


# other names by which a message may call an argument
OTHER_NAMES = dict(
    model='model|has no|Linear|Positions', input_size='input_size|Positions', lam='lam|attention|weights',
    logits='logits|weights',
    multi_label='multi_label|criterion_kwargs', criterion_kwargs="criterion|smoothing|'a'")


def values_for(name):
    gpu = {'device': int}.get(name, ())  # the index of a GPU, if there is one
    return [value for value in ANYTHING if not isinstance(value, gpu)]


@calls
def test_any_value_for_one_argument_works_or_is_refused_by_name(call):
    for name in arguments(call):
        for value in values_for(name):
            made = attempt(call, {name: value})
            if name in RANGES and is_number(value):
                low, high = RANGES[name]
                assert low <= value <= high or made is None, (name, value)


@many
@given(st.sampled_from(list(DEFAULTS)), st.data())
def test_any_values_for_several_arguments_work_or_are_refused_by_name(call, data):
    names = data.draw(st.lists(st.sampled_from(arguments(call)), min_size=1, max_size=4, unique=True))
    attempt(call, {name: data.draw(st.sampled_from(values_for(name))) for name in names})


@many
@given(st.dictionaries(st.sampled_from(arguments(MultiMixLoss)), st.sampled_from(ANYTHING), min_size=1, max_size=2))
def test_what_is_accepted_can_be_used(changes):
    """A loss that could be built gives a finite number, or says what does not fit the batch."""
    if isinstance(changes.get('num_tuples'), int) and changes['num_tuples'] > 1000:
        return
    criterion = attempt(MultiMixLoss, changes)
    if criterion is None:
        return
    try:
        assert torch.isfinite(criterion(LOGITS, TARGET))
    except ValueError as error:
        assert str(error).startswith('length must be at most the batch size (4)')
