import dataclasses
import inspect
from typing import get_type_hints

import pytest
import torch

from tests.support.models import NUM_CLASSES, build
from timm_multimix import PAPER, MultiMix, MultiMixHead, MultiMixLoss, MultiMixTask, Settings, UsageError
from timm_multimix.settings import NAMES, DropInArguments, HeadArguments, LossArguments, TaskArguments


def task(**kwargs):
    return MultiMixTask(build('vit'), verbose=False, **kwargs)


def head(**kwargs):
    return MultiMixHead(build('vit'), **kwargs)


@pytest.mark.parametrize('positions, tuples', [
    (None, 1000), (1, 1000), (8, 1000), (9, 910), (49, 167), (64, 128), (196, 42), (256, 32), (1024, 32)])
def test_default_number_of_tuples(positions, tuples):
    assert Settings().tuples(positions) == tuples
    assert Settings(num_tuples=7).tuples(positions) == 7
    assert Settings(**PAPER).tuples(positions) == 1000


@pytest.mark.parametrize('create, message', [
    (lambda: MultiMix(gamma=0.3), 'MultiMix has no argument gamma, got gamma=0.3; MultiMixTask has'),
    (lambda: MultiMix(implementation='chunked'), "MultiMix has no argument implementation, .*'chunked'; MultiMixTask"),
    (lambda: head(gamma=0.3), 'MultiMixHead has no argument gamma'),
    (lambda: MultiMixLoss(attention='gap'), 'MultiMixLoss has no argument attention'),
    (lambda: MultiMixLoss(num_tuple=5), 'has no argument num_tuple, got num_tuple=5; did you mean num_tuples?'),
    (lambda: MultiMix(aplha=5), 'has no argument aplha, got aplha=5; did you mean alpha?'),
    (lambda: head(cleanweight=5), 'has no argument cleanweight, got cleanweight=5; did you mean clean_weight?'),
    (lambda: task(smoothing=0.1), 'did you mean label_smoothing?'),
    (lambda: task(mixup_prob=0.1), 'did you mean prob?'),
    (lambda: task(verbos=True), 'did you mean verbose?'),
    (lambda: task(zzz=1), 'MultiMixTask has no argument zzz, got zzz=1$'),
    (lambda: MultiMixLoss(alpha=1., settings=Settings()), 'settings or keyword arguments, not both'),
    (lambda: MultiMixLoss(5, settings=Settings()), 'settings or keyword arguments, not both'),
    (lambda: head(alpha=1., settings=Settings()), 'settings or keyword arguments, not both'),
])
def test_arguments_of_others_and_misspelt_ones_are_refused(create, message):
    with pytest.raises(UsageError, match=message):
        create()


@pytest.mark.parametrize('name, value', [
    ('attention', 'cam'), ('attention', 'none'), ('activation', 'softmax'), ('attention_grad', True),
    ('input_size', (3, 32, 32))])
def test_dense_options_are_refused_in_the_pooled_form(name, value):
    with pytest.raises(UsageError, match=f"{name} needs mode 'dense-multimix', got {name}=.* with 'multimix'"):
        Settings(**{name: value})


@pytest.mark.parametrize('name, value', [('activation', 'softmax'), ('attention_grad', True)])
def test_options_of_attention_are_refused_without_it(name, value):
    with pytest.raises(UsageError, match=f"{name} needs attention 'gap' or 'cam', got {name}=.* with 'none'"):
        Settings(mode='dense-multimix', attention='none', **{name: value})


def test_settings_come_back_from_their_values():
    settings = Settings(mode='dense-multimix', alpha=[0.5, 2.], cutmix_minmax=(0.2, 0.8), teacher_decay=0.9, gamma=None)
    assert Settings(**dataclasses.asdict(settings)) == settings
    assert eval(repr(settings)) == settings and repr(Settings()) == 'Settings()'
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.alpha = 1.


@pytest.mark.parametrize('arguments', [LossArguments, HeadArguments, DropInArguments, TaskArguments])
def test_typed_arguments_are_settings_of_the_same_types(arguments):
    types = get_type_hints(Settings)
    assert all(types[name] == type for name, type in get_type_hints(arguments).items())
    assert arguments is not TaskArguments or set(get_type_hints(arguments)) == set(NAMES)


def test_a_setting_of_the_loss_may_be_assigned_for_one_version_more():
    loss = MultiMixLoss(alpha=1.)
    with pytest.warns(DeprecationWarning, match=r'replace\(loss.settings, clean_weight=...\)'):
        loss.clean_weight = 0.
    assert loss.settings == Settings(alpha=1., clean_weight=0.) and (loss.alpha, loss.clean_weight) == (1., 0.)
    assert 'clean_loss' not in loss.terms(torch.zeros(4, 3), torch.arange(4) % 3)


@pytest.mark.parametrize('create', [task, head, lambda: MultiMix(num_classes=3)])
def test_settings_are_those_at_creation(create):
    built = create()
    with pytest.raises(AttributeError, match='settings'):
        built.settings = dataclasses.replace(built.settings, clean_weight=0.)


def test_settings_of_loss_and_task_are_shown_once():
    for shown in (repr(MultiMixLoss(7)), repr(head(num_tuples=7)), repr(task(num_tuples=7, mode='dense-multimix')),
                  repr(MultiMix(num_tuples=7, num_classes=NUM_CLASSES))):
        assert shown.count('num_tuples=7') == 1 and shown.count('label_smoothing=') == 1, shown


def test_head_task_and_drop_in_have_one_default_mode():
    drop_in = MultiMix(num_classes=NUM_CLASSES)
    assert head().mode == task().settings.mode == drop_in.settings.mode == Settings().mode


@pytest.mark.skipif(
    'reason' not in inspect.signature(torch.compiler.disable).parameters, reason='this torch takes no reason')
@pytest.mark.parametrize('strength, why', [(1., 'numpy'), (0.5, 'numpy'), ('auto', "strength 'auto' counts batches")])
def test_fullgraph_says_why_the_loss_is_not_compiled(strength, why):
    loss = torch.compile(MultiMixLoss(strength=strength), backend='eager', fullgraph=True)
    with pytest.raises(Exception, match=why):  # 'meta': on a CPU values are checked first
        loss(torch.randn(4, 3, device='meta', requires_grad=True), (torch.arange(4) % 3).to('meta'))
    torch._dynamo.reset()
