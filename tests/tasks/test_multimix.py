import copy
import logging

import pytest
import torch
import torch.nn.functional as F
from timm.loss import SoftTargetCrossEntropy

from tests.support.models import NUM_CLASSES, build, gradients, images, labels
from tests.support.tensors import seeded
from timm_multimix import MultiMixHead, MultiMixTask
from timm_multimix.settings import MODES


def make(model, mode='multimix', *args, **kwargs):
    return MultiMixTask(model, *args, mode=mode, verbose=False, **{**kwargs, 'num_tuples': 10})


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('key', ['efficientnet', 'vit', 'mobilenetv4'])
def test_loss_and_gradients_are_those_of_the_head(key, mode):
    model = build(key).train()
    plain = copy.deepcopy(model)
    x, target = images(key, 4), labels(4)
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
@pytest.mark.parametrize(
    'mixing', [dict(mixup_alpha=1.), dict(cutmix_alpha=1.), dict(cutmix_minmax=(0.2, 0.6))], ids=str)
@pytest.mark.parametrize('kind', ['hard', 'soft', 'multi-label'])
def test_image_mixed_batches_use_the_criterion_on_soft_targets(kind, mixing, mode):
    model, x, target = build('resnet').train(), images('resnet', 5), labels(5)
    plain, kept, criterion = copy.deepcopy(model), x.clone(), SoftTargetCrossEntropy()
    smooth = F.one_hot(target, NUM_CLASSES).float() * 0.9 + 0.1 / NUM_CLASSES
    kwargs = dict(label_smoothing=0.1)
    if kind == 'soft':
        target, kwargs = smooth, {}
    elif kind == 'multi-label':
        target = (torch.rand(5, NUM_CLASSES, generator=torch.Generator().manual_seed(0)) < 0.4).float()
        smooth, kwargs['multi_label'], criterion = target * 0.9 + 0.05, True, F.binary_cross_entropy_with_logits
    task = make(model, mode, input_prob=1., **mixing, **kwargs)
    result = seeded(task, x, target)
    assert set(result) == {'loss', 'output', 'input_mixed'} and result['input_mixed'] is True and torch.equal(x, kept)

    mixed = seeded(lambda: (task.input_mixing.draw(), task.input_mixing.mix(x))[1])
    output = plain(mixed.images)
    assert torch.equal(result['output'], output)
    expected = criterion(output, mixed.lam * smooth + (1. - mixed.lam) * smooth.flip(0))
    torch.testing.assert_close(result['loss'], expected)


def test_one_line_says_what_is_mixed(caplog):
    kwargs = dict(mode='dense-multimix', mixup_alpha=0.8, cutmix_alpha=1., label_smoothing=0.1, clean_weight=1.)
    with caplog.at_level(logging.INFO):
        task = MultiMixTask(build('vit'), **kwargs)
    line, = [record.message for record in caplog.records if record.name.startswith('timm_multimix')]
    for part in ('dense-multimix', '512 tuples x 16 positions', 'alpha 2 for each tuple', 'clean weight 1',
                 'label smoothing 0.1', 'Mixup (mixup_alpha 0.8) or CutMix (cutmix_alpha 1)', 'switch_prob 0.5',
                 'on 50 % of the batches', 'attention gap (relu)'):
        assert part in line
    in_force = task.settings.in_force()
    assert in_force['num_tuples'] == 512 and 'input_prob' in in_force and 'gamma' not in in_force
