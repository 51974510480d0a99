"""Every bad input is a UsageError that names the argument, what it was and what is allowed.

Every public constructor and function, given anything for any argument, works or does that. For a value of another type
Python's own error is enough; a number out of range is always refused.
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
from timm.loss import BinaryCrossEntropy

from tests.support.models import NUM_CLASSES, Positions, build, images, labels
from tests.support.strategies import many
from timm_multimix import MixupETask, MultiMix, MultiMixHead, MultiMixLoss, MultiMixTask, Settings, UsageError
from timm_multimix.functional import (
    dense_weights,
    draw_alpha,
    interpolate,
    mixed_cross_entropy,
    sample_dirichlet,
    spatial_attention,
)
from timm_multimix.rows import mix
from timm_multimix.settings import MODES
from timm_multimix.tasks.distillation import split_views

LOGITS, TARGET, WEIGHTS = torch.zeros(4, 3), torch.tensor([0, 1, 2, 0]), torch.full((5, 4), 0.25)
DENSE, ATTENTION, CLEAN = torch.zeros(4, 2, 3), torch.full((4, 2), 0.5), torch.zeros(4, 3)
SOFT = torch.full((4, 3), 1. / 3.)
IMAGES, BCE = torch.zeros(4, 3, 2, 2), nn.BCEWithLogitsLoss()


def case_id(value):
    """Return the argument at fault, which is the first of the parts that a message must have."""
    return re.sub(r'\W', '', str(value[0])) if isinstance(value, tuple) else str(value) if not callable(value) else ''


def mixupe(**kwargs):
    return MixupETask(Positions(3), verbose=False, **kwargs)


def taught(*args, **kwargs):
    return MultiMixTask(*args, teacher_decay=0.9, verbose=False, **kwargs)


def raises(call, *parts):
    with pytest.raises(UsageError) as error:
        call()
    message = str(error.value)
    assert all(re.search(part, message) for part in parts), f'{message!r} lacks one of {parts}'


@pytest.mark.parametrize('call, parts', [
    (lambda: sample_dirichlet(3, 5, 1., length=6), ('length', 'got 6', r'at most.*\(5\)')),
    (lambda: spatial_attention(DENSE, 'cam', target=TARGET), ('classifier_weight', "'cam'", 'None')),
    (lambda: spatial_attention(DENSE, 'cam', classifier_weight=LOGITS), ('target', "'cam'", 'None')),
    (lambda: spatial_attention(DENSE, 'cam', classifier_weight=torch.zeros(3, 7), target=TARGET),
        ('classifier_weight', r'\[c, 3\]', r'\[3, 7\]')),
    (lambda: spatial_attention(DENSE, 'cam', classifier_weight=torch.zeros(2, 3), target=TARGET),
        ('target', r'0\.\.1', 'got 2')),
    (lambda: dense_weights(WEIGHTS[None], ATTENTION), ('attention', r'\[4, 1\]', r'\[4, 2\]')),
    (lambda: interpolate(WEIGHTS, torch.zeros(5, 3)), ('values', r'\[5, 3\]', r'\[5, 4\]')),
    (lambda: interpolate(WEIGHTS, DENSE), ('values', r'\[4, 2, 3\]', r'weights \[5, 4\]')),
    (lambda: mixed_cross_entropy(LOGITS, TARGET, WEIGHTS[:, :3]), ('weights', r'\[n, 4\]', r'\[5, 3\]')),
    (lambda: mixed_cross_entropy(LOGITS, TARGET, WEIGHTS[:0]), ('weights', 'n >= 1', r'\[0, 4\]')),
    (lambda: mixed_cross_entropy(LOGITS, TARGET, []), ('weights', 'n >= 1')),
    (lambda: mixed_cross_entropy(DENSE, TARGET, WEIGHTS), ('weights', r'\[2, n, 4\]', r'\[5, 4\]')),
    (lambda: mixed_cross_entropy(LOGITS, TARGET, [WEIGHTS, WEIGHTS.long()]), ('weights', 'floating', 'int64')),
    (lambda: mixed_cross_entropy(LOGITS.double(), TARGET, WEIGHTS, implementation='triton'),
        ('implementation', 'float32', 'CUDA', 'float64 on cpu')),
    (lambda: MultiMixLoss(5, length=5)(LOGITS, TARGET), ('length', r'batch size \(4\)', 'got 5')),
    (lambda: MultiMixLoss(5)(LOGITS, TARGET, ATTENTION), ('attention', r'\[b, r, c\]', r'\[4, 3\]')),
    (lambda: MultiMixLoss(5)(DENSE, TARGET, ATTENTION.t()), ('attention', r'\[4, 2\]', r'\[2, 4\]')),
    (lambda: MultiMixLoss(5)(DENSE, TARGET, ATTENTION * float('nan')), ('attention', 'finite', 'got 8 NaN')),
    (lambda: MultiMixLoss(5)(DENSE, TARGET, -ATTENTION), ('attention', '>= 0', 'got -0.5')),
    (lambda: MultiMixLoss(5)(DENSE, TARGET, ATTENTION, CLEAN[:2]), ('clean_logits', r'\[4, 3\]', r'\[2, 3\]')),
    (lambda: MultiMixLoss(5)(LOGITS, TARGET, teacher_logits=DENSE), ('teacher_logits', r'\[4, 3\]', r'\[4, 2, 3\]')),
    (lambda: MultiMixLoss(5)(LOGITS, TARGET, teacher_logits=LOGITS / 0.), ('teacher_logits', 'finite', '12')),
    (lambda: mix(MultiMixLoss(5), DENSE, TARGET, ATTENTION, SOFT[:, :2]), ('clean_logits', r'\[4, 3\]', r'\[4, 2\]')),
    (lambda: mix(MultiMixLoss(5), LOGITS, TARGET, lam=WEIGHTS[:, :3]), ('weights', r'\[5, 3\]')),
    (lambda: Settings(input_prob='auto'), ('input_prob', 'number', "'auto', which strength='auto' replaces")),
    (lambda: Settings(strength='auto', multi_label=True), ('strength must be a number with multi_label=True',)),
    (lambda: MultiMixTask(build('vit'), BCE, dict(smoothing=0.1)), ('criterion or criterion_kwargs', 'smoothing')),
    (lambda: MultiMixTask(build('vit'), criterion_kwargs=dict(smoothing=0.2), label_smoothing=0.1),
        ('label_smoothing is given twice, 0.1 and 0.2 by criterion_kwargs',)),
    (lambda: split_views(LOGITS, 4), ('two views of 4', r'\[8, ...\]', 'single_view=True', r'\[4, 3\]')),
    (lambda: split_views((LOGITS, torch.zeros(5, 3)), 4), ('two views of 4', r'\[5, 3\]')),
    (lambda: split_views((1, LOGITS), 4), ('pair of tensors', 'int')),
    (lambda: split_views(torch.zeros(8, 3), 4, single_view=True), ('4 images', r'\[8, 3\]')),
    (lambda: MultiMixTask(build('vit'), gamma=0.), ('gamma needs teacher_decay', 'gamma=0.0')),
    (lambda: MultiMixTask(build('vit'), single_view=True), ('single_view needs teacher_decay',)),
    (lambda: taught(build('vit').half()), ('teacher_decay', 'float16', '0.9')),
    (lambda: taught(build('vit'), multi_label=True), ('teacher_decay', 'cross-entropy', 'multi_label')),
    (lambda: taught(build('vit'), BCE), ('teacher_decay', 'cross-entropy', '0.9')),
    (lambda: MultiMixLoss(criterion=BCE)(LOGITS, TARGET, teacher_logits=LOGITS), ('teacher_logits', 'cross-entropy')),
    (lambda: mixupe(mixup_alpha=0.), ('mixup_alpha', '> 0', '0.0')),
    (lambda: mixupe(criterion_kwargs=dict(smoothing=2.)), ('smoothing', '<= 1', '2.0')),
    (lambda: mixupe(exact=True, residual_grad=True), ('residual_grad', 'exact=False')),
    (lambda: mixupe(mean_image=IMAGES[0]), ('mean_image', 'exact=True')),
    (lambda: mixupe(exact=True, mean_image=IMAGES[0, 0]), ('mean_image', r'\[ch, h, w\]', r'\[2, 2\]')),
    (lambda: mixupe(exact=True, mean_image=IMAGES[0] / 0.), ('mean_image', 'finite')),
    (lambda: mixupe(exact=True)(IMAGES, TARGET), ('mean_image', 'estimate_mean_image', 'None')),
    (lambda: mixupe(exact=True, mean_image=IMAGES[0, :1])(IMAGES, TARGET), ('mean_image', r'\[3, 2, 2\]', r'\[1, 2')),
    (lambda: mixupe(exact=True).estimate_mean_image([]), ('loader', 'at least one batch')),
    (lambda: MixupETask(nn.SyncBatchNorm(3), exact=True, verbose=False), ('exact=True', 'SyncBatchNorm')),
    (lambda: mixupe(exact=True, mean_image=IMAGES[0]).compile(), ('exact=True', 'torch.compile')),
    (lambda: mixupe()(IMAGES, TARGET + 1), ('target', r'0\.\.2', 'got 3')),
    (lambda: mixupe()(IMAGES, SOFT), ('target', 'class indices', r'\[4, 3\]')),
], ids=case_id)
def test_values_that_do_not_fit_each_other(call, parts):
    raises(call, *parts)


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('kwargs', [{}, dict(cutmix_alpha=1., input_prob=1.), dict(prob=0.)], ids=str)
def test_bad_targets_of_the_drop_in_and_the_task(kwargs, mode):
    mixup_fn = MultiMix(num_classes=NUM_CLASSES, num_tuples=5, mode=mode, **kwargs)
    x, target = images('vit', 4), labels(4)
    raises(lambda: mixup_fn(x, target), f"mode '{mode}'", r'attach\(model\)')
    for call in (MultiMixTask(build('vit'), mode=mode, verbose=False, **kwargs), mixup_fn.attach(build('vit').train())):
        raises(lambda call=call: call(x, target + NUM_CLASSES), 'target', r'0\.\.6')
        raises(lambda call=call: call(x, target[:3]), 'target', r'\[4\]', r'\[3\]')
    raises(lambda: MultiMix(num_classes=5, mode=mode).attach(build('vit')), 'num_classes', '7', 'got 5')


def distilled():
    model = build('deit_distilled')
    model.set_distilled_training(True)
    return model


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('make, parts', [
    (lambda: build('resnet', num_classes=0), ('test_resnet', 'num_classes=0', 'num_classes >= 1')),
    (distilled, (r'call set_distilled_training\(False\)',)),
    (lambda: 'resnet18', ('model must be a torch.nn.Module', "got 'resnet18'")),
])
def test_models_that_no_mode_can_train_are_refused(make, parts, mode):
    model = make()
    for call in (
            lambda: MultiMixHead(model, mode),
            lambda: MultiMixTask(model, mode=mode, verbose=False),
            lambda: MultiMix(mode=mode).attach(model),
            lambda: MixupETask(model, verbose=False),
    ):
        raises(call, *parts)


@pytest.mark.parametrize('model', [nn.Linear(3, 4), nn.Identity()], ids=repr)
def test_dense_needs_a_timm_model(model):
    raises(lambda: MultiMixTask(model, mode='dense-multimix', verbose=False), type(model).__name__, 'forward_head')
    mixup_fn = MultiMix(mode='dense-multimix')
    raises(lambda: mixup_fn.attach(model), type(model).__name__, 'forward_head')
    assert 'forward' not in vars(model), 'a refused model stays as it was'
    for mode in MODES:
        raises(lambda mode=mode: MultiMixHead(model, mode), f'{type(model).__name__} has no forward_', 'MultiMixLoss')


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('key', ['resnet', 'vit', 'swin'])
def test_a_head_that_is_given_images_asks_for_features(key, mode):
    head, x = MultiMixHead(build(key), mode), images(key, 4)
    for target in (labels(4), None):
        raises(lambda target=target: head(x, target), 'features', 'forward_features', r'got shape \[4, 3, ')
    raises(lambda: head([x], labels(4)), 'features', 'got list')


ONE = 'cross-entropy needs at least 2 classes'


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('training', [True, False])
def test_one_class_is_refused_under_cross_entropy(training, mode):
    """Its probability is always 1, so the loss would be 0 and the accuracy 100 %."""
    model, x, target = build('resnet', num_classes=1), images('resnet', 4), torch.zeros(4, dtype=torch.long)
    head = MultiMixHead(model, mode, num_tuples=5).train(training)
    features = model.forward_features(x)
    tasks = [MultiMixTask(model, mode=mode, verbose=False).train(training)]
    tasks += [MultiMixTask(model, mode=mode, verbose=False, mixup_alpha=1., input_prob=1.)] if training else []
    for call in (
            lambda: MultiMixLoss(5).train(training)(LOGITS[:, :1], target),
            lambda: MultiMixLoss(5, clean_weight=0.).train(training)(DENSE[..., :1], target),
            lambda: head(features, target),
            *(lambda task=task: task(x, target) for task in tasks),
            lambda: MixupETask(model, verbose=False).train(training)(x, target),
    ):
        raises(call, 'the number of classes', ONE, 'binary cross-entropy')
    raises(lambda: MultiMix(num_classes=1), 'num_classes', ONE, 'multi_label=True')


@pytest.mark.parametrize('mode', MODES)
def test_one_class_works_under_binary_cross_entropy(mode):
    model, x, target = build('resnet', num_classes=1), images('resnet', 4), torch.tensor([[0.], [1.], [1.], [0.]])
    bce = BinaryCrossEntropy()
    mixup_fn = MultiMix(num_classes=1, multi_label=True, mode=mode, num_tuples=5)
    losses = [
        MultiMixLoss(5, criterion=bce)(LOGITS[:, :1], target),
        MultiMixHead(model, mode, num_tuples=5, criterion=bce)(model.forward_features(x), target),
        MultiMixTask(model, bce, mode=mode, verbose=False)(x, target)['loss'],
        MultiMixTask(model, multi_label=True, mode=mode, verbose=False)(x, target)['loss'],
    ]
    mixup_fn.attach(model.train())
    mixed, soft = mixup_fn(x, target)
    losses.append(bce(model(mixed), soft))
    assert all(loss.isfinite() and loss > 0.1 for loss in losses)


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
