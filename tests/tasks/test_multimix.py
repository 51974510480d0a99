import copy
import logging

import pytest
import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy

from tests.support.models import NUM_CLASSES, build, gradients, images, labels
from timm_multimix import PAPER, MultiMixHead, MultiMixTask
from timm_multimix.settings import MODES


class Tiny(nn.Module):
    """A model with nothing but a forward and the number of its classes."""
    num_classes = NUM_CLASSES

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(12, NUM_CLASSES)

    def forward(self, x):
        return self.linear(x.flatten(1))


def seed(value=3):
    torch.manual_seed(value)


def seeded(function, *args):
    seed()
    return function(*args)


def make(model, mode='multimix', *args, **kwargs):
    return MultiMixTask(model, *args, mode=mode, verbose=False, **{**kwargs, 'num_tuples': 10})


def batch(key='resnet', batch_size=4):
    return images(key, batch_size), labels(batch_size)


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('key', ['efficientnet', 'vit', 'mobilenetv4'])
def test_loss_and_gradients_are_those_of_the_head(key, mode):
    model = build(key).train()
    plain = copy.deepcopy(model)
    x, target = batch(key)
    result = seeded(make(model, mode, criterion_kwargs=dict(smoothing=0.1)), x, target)
    result['loss'].backward()
    assert set(result) == {'loss', 'mixed_loss', 'clean_loss', 'output'}
    assert torch.equal(result['output'], copy.deepcopy(plain)(x))

    head = MultiMixHead(plain, mode, num_tuples=10, label_smoothing=0.1)
    expected = seeded(head, plain.forward_features(x), target)
    expected.backward()
    torch.testing.assert_close(result['loss'], expected)
    torch.testing.assert_close(gradients(model), gradients(plain), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize('mode', MODES)
def test_checkpoints_hold_the_plain_model(mode):
    model = build('mobilenetv4')
    keys = list(model.state_dict())
    task = make(model, mode)
    state = task.get_checkpoint_state()
    assert list(state) == ['state_dict'] and list(state['state_dict']) == keys
    assert task.get_eval_model() is model

    other = make(build('mobilenetv4'), mode)
    with torch.no_grad():
        model.get_classifier().weight.fill_(0.5)
    other.load_checkpoint_state(task.get_checkpoint_state()['state_dict'])
    x = images('mobilenetv4')
    assert torch.equal(other.get_eval_model().eval()(x), task.get_eval_model().eval()(x))


@pytest.mark.parametrize('mode', MODES)
def test_the_ema_averages_the_plain_model(mode):
    model = build('efficientnet').train()
    task = make(model, mode)
    task.setup_ema(decay=0.5)
    start = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    task(*batch('efficientnet'))['loss'].backward()
    optimizer.step()
    task.update_ema()

    averaged = task.get_checkpoint_state(ema=True)['state_dict_ema']
    assert list(averaged) == list(start)
    now = model.state_dict()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(averaged[name], (start[name] + now[name]) / 2.)
        assert parameter.data_ptr() != averaged[name].data_ptr()
    x = images('efficientnet')
    plain = build('efficientnet')
    plain.load_state_dict(averaged)
    assert torch.equal(task.get_eval_model(ema=True).eval()(x), plain.eval()(x))


@pytest.mark.parametrize('mode', MODES)
def test_distributed(mode):
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    try:
        model = build('cait').train()
        x, target = batch('cait')
        keys, expected = list(model.state_dict()), seeded(make(model, mode, **PAPER), x, target)['loss']
        task = make(model, mode, **PAPER).prepare_distributed()
        for _ in range(2):  # the second would fail if the first left parameters without a gradient
            loss = seeded(task, x, target)['loss']
            loss.backward()
        torch.testing.assert_close(loss, expected)
        assert list(task.get_checkpoint_state()['state_dict']) == keys
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize(
    'mixing', [dict(mixup_alpha=1.), dict(cutmix_alpha=1.), dict(cutmix_minmax=(0.2, 0.6))], ids=str)
@pytest.mark.parametrize('soft', [False, True])
def test_image_mixed_batches_use_soft_cross_entropy(soft, mixing, mode):
    model = build('resnet').train()
    plain = copy.deepcopy(model)
    x, target = batch()
    one_hot = F.one_hot(target, NUM_CLASSES).float() * 0.9 + 0.1 / NUM_CLASSES
    kept = x.clone()
    task = make(model, mode, input_prob=1., label_smoothing=0. if soft else 0.1, **mixing)
    result = seeded(task, x, one_hot if soft else target)
    assert set(result) == {'loss', 'output', 'input_mixed'} and result['input_mixed'] is True and torch.equal(x, kept)

    mixed = seeded(lambda: (task.input_mixing.draw(), task.input_mixing.mix(x))[1])
    output = plain(mixed.images)
    assert torch.equal(result['output'], output)
    expected = SoftTargetCrossEntropy()(output, mixed.lam * one_hot + (1. - mixed.lam) * one_hot.flip(0))
    torch.testing.assert_close(result['loss'], expected)


@pytest.mark.parametrize('mode', MODES)
def test_without_mixing_it_is_plain_cross_entropy(mode):
    model = build('vit').train()
    x, target = batch('vit')
    disabled = make(model, mode)
    disabled.mixup_enabled = False
    for task in (make(model, mode, prob=0.), disabled):
        result = task(x, target)
        assert result['input_mixed'] is False
        torch.testing.assert_close(result['loss'], F.cross_entropy(model(x), target))


@pytest.mark.parametrize('mode', MODES)
def test_parameters_to_clip(mode):
    model = build('vit')
    task = make(model, mode)
    assert list(map(id, task.get_clip_parameters())) == list(map(id, model.parameters()))
    assert list(map(id, task.get_clip_parameters(exclude_head=True))) == list(map(id, model.parameters()))[:-2]


@pytest.mark.parametrize('mode', MODES)
def test_in_eval_mode_it_is_the_plain_criterion(mode):
    model, (x, target) = build('resnet'), batch()
    task = make(model, mode, mixup_alpha=1., label_smoothing=0.1, teacher_decay=0.9).eval()
    for _ in range(4):
        result = task(x, target)
        assert set(result) == {'loss', 'output'} and torch.equal(result['output'], model(x))
        torch.testing.assert_close(result['loss'], F.cross_entropy(model(x), target, label_smoothing=0.1))


@pytest.mark.parametrize('mode', MODES)
def test_multi_label_images_are_mixed(mode):
    model, x = build('resnet').train(), images('resnet', 5)
    plain = copy.deepcopy(model)
    target = (torch.rand(5, NUM_CLASSES, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    task = make(model, mode, mixup_alpha=1., input_prob=1., multi_label=True, label_smoothing=0.2)
    result = seeded(task, x, target)
    mixed = seeded(lambda: (task.input_mixing.draw(), task.input_mixing.mix(x))[1])
    smooth = mixed.mix_target(target * 0.8 + 0.1)
    torch.testing.assert_close(result['loss'], F.binary_cross_entropy_with_logits(plain(mixed.images), smooth))


@pytest.mark.parametrize('criterion, kwargs, given', [
    (None, dict(smoothing=0.2), '0.2 by criterion_kwargs'),
    (LabelSmoothingCrossEntropy(0.2), None, '0.2 by criterion'),
])
def test_label_smoothing_given_twice_is_refused(criterion, kwargs, given):
    with pytest.raises(ValueError, match=f'label_smoothing is given twice, 0.1 and {given}'):
        make(Tiny(), 'multimix', criterion, kwargs, label_smoothing=0.1)
    assert make(Tiny(), 'multimix', None, dict(smoothing=0.2)).label_smoothing == 0.2
    assert make(Tiny(), 'multimix', label_smoothing=0.3).loss.label_smoothing == 0.3


def test_one_line_says_what_is_mixed(caplog):
    kwargs = dict(mode='dense-multimix', mixup_alpha=0.8, cutmix_alpha=1., label_smoothing=0.1, clean_weight=1.)
    with caplog.at_level(logging.INFO):
        task = MultiMixTask(build('vit'), **kwargs)
    line, = [record.message for record in caplog.records if record.name.startswith('timm_multimix')]
    for part in ('dense-multimix', '512 tuples x 16 positions', 'alpha 2 for each tuple', 'clean weight 1',
                 'label smoothing 0.1', 'Mixup (mixup_alpha 0.8) or CutMix (cutmix_alpha 1)', 'switch_prob 0.5',
                 'on 50 % of the batches', 'attention gap (relu)'):
        assert part in line
    assert task.settings.in_force() == dict(
        num_tuples=512, alpha=2., concentration='total', length=None, clean_weight=1., implementation='auto',
        gather=False, attention='gap', activation='relu', input_prob=0.5, strength=1.)


def test_the_strength_is_in_the_state():
    kwargs = dict(mixup_alpha=1., strength='auto')
    model, x = Tiny(), torch.randn(4, 3, 2, 2)
    task, target = make(model, **kwargs), model(x).argmax(dim=1)
    for _ in range(70):
        task(x, target)
    state = task.get_task_state()
    assert state['strength']['value'] > 0. and state['strength']['accuracy'] > 0.9
    other = make(Tiny(), **kwargs)
    other.load_task_state(state)
    assert other.input_mixing.metrics() == task.input_mixing.metrics()
    assert 'strength' not in make(Tiny(), mixup_alpha=1.).get_task_state()


def test_processes_that_synchronize_batch_norms_draw_the_same(monkeypatch):
    """Otherwise they would wait for each other in different passes."""
    asked = []
    monkeypatch.setattr('timm_multimix.tasks.base.agree', lambda number, device: asked.append(number) or number)
    for convert, together in ((lambda model: model, False), (nn.SyncBatchNorm.convert_sync_batchnorm, True)):
        task = make(convert(build('resnet')), mixup_alpha=1.)
        task._draw()
        assert bool(asked) == together
