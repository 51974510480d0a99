import copy
import pickle

import numpy as np
import pytest
import torch
import torch.nn as nn
from timm.data.mixup import mixup_target
from timm.loss import BinaryCrossEntropy, SoftTargetCrossEntropy

from tests.models import NUM_CLASSES, build, gradients, images, labels
from timm_multimix import PAPER, MultiMix, MultiMixHead, MultiMixLoss
from timm_multimix.head import MODES


def seed(value=3):
    torch.manual_seed(value)
    np.random.seed(value)


def step(mixup_fn, model, x, target, loss_fn=None):
    """One step of a stock training loop."""
    seed()
    model.train()
    x, target = mixup_fn(x, target)
    loss = (loss_fn or SoftTargetCrossEntropy())(model(x), target)
    loss.backward()
    return loss.detach()


def make(mode='multimix', **kwargs):
    return MultiMix(num_classes=NUM_CLASSES, mode=mode, **{'num_tuples': 12, **kwargs})


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('label_smoothing', [0., 0.1])
@pytest.mark.parametrize('clean_weight', [0., 1.])
@pytest.mark.parametrize('key', ['efficientnet', 'vit', 'swin'])
def test_a_stock_loop_gets_the_loss_and_gradients_of_the_head(key, clean_weight, label_smoothing, mode):
    kwargs = dict(num_tuples=12, clean_weight=clean_weight, label_smoothing=label_smoothing)
    model, x, target = build(key).train(), images(key, 4), labels(4)
    plain = copy.deepcopy(model)
    loss = step(make(mode, mixup_alpha=(0.5, 2.), **kwargs).attach(model), model, x, target)

    head = MultiMixHead(plain, mode, alpha=(0.5, 2.), **kwargs)
    seed()
    expected = head(plain.forward_features(x), target)
    expected.backward()
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(gradients(model), gradients(plain), rtol=1e-3, atol=1e-5)
    for (name, buffer), (_, other) in zip(model.named_buffers(), plain.named_buffers(), strict=True):
        assert torch.equal(buffer, other), name


@pytest.mark.parametrize('mode', MODES)
def test_paper_setting(mode):
    model, x, target = build('resnet').train(), images('resnet', 4), labels(4)
    plain = copy.deepcopy(model)
    loss = step(make(mode, label_smoothing=0., **PAPER).attach(model), model, x, target)
    head = MultiMixHead(plain, mode, num_tuples=12, **PAPER)
    seed()
    torch.testing.assert_close(loss, head(plain.forward_features(x), target).detach())


@pytest.mark.parametrize('mode', MODES)
def test_binary_cross_entropy(mode):
    model, x, target = build('resnet').train(), images('resnet', 4), labels(4)
    plain = copy.deepcopy(model)
    bce = BinaryCrossEntropy()
    loss = step(make(mode, label_smoothing=0.1).attach(model), model, x, target, bce)
    head = MultiMixHead(plain, mode, num_tuples=12, label_smoothing=0.1, criterion=bce)
    seed()
    torch.testing.assert_close(loss, head(plain.forward_features(x), target).detach())


def test_multi_label():
    model, x = build('resnet').train(), images('resnet', 4)
    multi_hot = (torch.rand(4, NUM_CLASSES, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    mixup_fn = make(multi_label=True, label_smoothing=0.2, clean_weight=0.).attach(model)
    seed()
    _, target = mixup_fn(x, multi_hot)
    logits = model(x)
    seed()
    criterion = MultiMixLoss(num_tuples=12, clean_weight=0.)
    expected = criterion.mix(logits.detach()[:4], multi_hot * 0.8 + 0.1)[1]
    torch.testing.assert_close(target, expected)


@pytest.mark.parametrize('mode', MODES)
def test_evaluation_is_bit_identical_to_the_plain_model(mode):
    model, x = build('mobilenetv4'), images('mobilenetv4', 4)
    with torch.no_grad():
        expected = model(x)
        mixup_fn = make(mode).attach(model)
        assert torch.equal(model(x), expected)
        mixup_fn(x, labels(4))  # a batch in flight changes nothing
        assert torch.equal(model(x), expected) and torch.equal(model(x[:3]), expected[:3])
    assert list(model.state_dict()) == list(build('mobilenetv4').state_dict())


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('soft', [False, True])
@pytest.mark.parametrize('cutmix_alpha, switch_prob', [(0., 0.5), (1., 1.), (1., 0.)])
def test_inputs_are_never_changed(cutmix_alpha, switch_prob, soft, mode):
    model, x, target = build('resnet'), images('resnet', 5), labels(5)
    if soft:
        target = nn.functional.one_hot(target, NUM_CLASSES).float()
    kept = x.clone(), target.clone()
    for label_smoothing in (0., 0.1):
        mixup_fn = make(mode, cutmix_alpha=cutmix_alpha, switch_prob=switch_prob, label_smoothing=label_smoothing)
        step(mixup_fn.attach(model), model, x, target)
        mixup_fn.detach()
        assert torch.equal(x, kept[0]) and torch.equal(target, kept[1])


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('batch_size', [1, 3, 5])
def test_any_batch_size(batch_size, mode):
    model, x, target = build('vit'), images('vit', batch_size), labels(batch_size)
    mixup_fn = make(mode, cutmix_alpha=1.).attach(model)
    for value in range(6):  # some are CutMix
        seed(value)
        model.train()
        mixed_x, mixed_target = mixup_fn(x, target)
        logits = model(mixed_x)
        assert logits.shape == mixed_target.shape and torch.isfinite(mixed_target).all()
        torch.testing.assert_close(mixed_target.sum(dim=-1), torch.ones(len(mixed_target)))


@pytest.mark.parametrize('mode', MODES)
def test_last_batch_may_be_smaller(mode):
    model = build('vit')
    mixup_fn = make(mode).attach(model)
    for batch_size in (4, 3, 4):
        assert torch.isfinite(step(mixup_fn, model, images('vit', batch_size), labels(batch_size)))


@pytest.mark.parametrize('mode', MODES)
def test_disabled_or_improbable_mixing_is_an_ordinary_step(mode):
    model, x, target = build('resnet').train(), images('resnet', 4), labels(4)
    expected = mixup_target(target, NUM_CLASSES, smoothing=0.1)
    disabled, improbable = make(mode), make(mode, prob=0.)
    disabled.mixup_enabled = False
    for mixup_fn in (disabled, improbable):
        mixup_fn.attach(model)
        same_x, soft = mixup_fn(x, target)
        assert same_x is x and torch.equal(soft, expected)
        assert model(x).shape == (4, NUM_CLASSES)
        mixup_fn.detach()


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('kwargs', [dict(cutmix_alpha=1.), dict(cutmix_minmax=(0.3, 0.8))], ids=['alpha', 'minmax'])
def test_cutmix_batches(kwargs, mode):
    model, x, target = build('resnet').train(), images('resnet', 5), labels(5)
    plain = copy.deepcopy(model)
    mixup_fn = make(mode, switch_prob=1., label_smoothing=0.1, **kwargs).attach(model)
    seed()
    cut, soft = mixup_fn(x, target)
    assert soft.shape == (5, NUM_CLASSES)
    assert torch.equal(model(cut), plain(cut))
    # each pixel is of the image itself or of its partner, and λ is the share of the former
    own, other = (cut == x).all(dim=1), (cut == x.flip(0)).all(dim=1)
    assert (own | other).all() and not own.all()
    lam = own[0].double().mean()
    torch.testing.assert_close(
        soft, mixup_target(target, NUM_CLASSES, float(lam), smoothing=0.1), rtol=1e-5, atol=1e-6)


def test_switch_prob_is_the_share_of_cutmix_batches():
    model, x, target = build('vit'), images('vit', 2), labels(2)
    mixup_fn = make(cutmix_alpha=1., switch_prob=0.25, prob=0.8).attach(model)
    seed()
    counts = {}
    for _ in range(2000):
        what = mixup_fn.switch.draw()
        counts[what] = counts.get(what, 0) + 1 / 2000
    assert counts == pytest.approx({'none': 0.2, 'cutmix': 0.2, 'multimix': 0.6}, abs=0.04)
    mixed_x, mixed_target = mixup_fn(x, target)
    assert mixed_x.shape == x.shape and mixed_target.shape[1] == NUM_CLASSES


def test_detach_gives_the_model_its_own_forward_back():
    model, x = build('resnet').train(), images('resnet', 4)
    mixup_fn = make().attach(model)
    mixup_fn(x, labels(4))
    mixup_fn.detach()
    assert 'forward' not in vars(model) and model(x).shape == (4, NUM_CLASSES)
    mixup_fn.detach()  # once more does no harm
    make().attach(model)
    mixup_fn = make()
    with pytest.raises(ValueError, match='ResNet already has a forward of its own; detach'):
        mixup_fn.attach(model)
    with pytest.raises(ValueError, match='attached to a model already'):
        make().attach(build('vit')).attach(build('vit'))


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('clone', [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=['deepcopy', 'pickle'])
def test_copies_of_an_attached_model(clone, mode):
    model, x, target = build('efficientnet'), images('efficientnet', 4), labels(4)
    mixup_fn = make(mode).attach(model)
    copied, copied_fn = clone((model, mixup_fn))
    with torch.no_grad():
        for p in copied.parameters():
            p.zero_()
    # each has its own weights, and mixes by its own object
    assert torch.equal(copied.eval()(x), torch.zeros(4, NUM_CLASSES))
    assert model.eval()(x).abs().sum() > 0.
    loss = step(mixup_fn, model, x, target)
    torch.testing.assert_close(step(copied_fn, copied, x, target), torch.tensor(NUM_CLASSES).log())
    assert not torch.isclose(loss, torch.tensor(NUM_CLASSES).log())
    assert all(p.grad is not None for p in copied.parameters())
    # the copy alone, as of an average of the weights, is the plain model
    lone = clone(model).eval()
    assert torch.equal(lone(x), model.eval()(x)) and lone.forward.__self__.model is lone


def test_a_second_forward_is_an_ordinary_one():
    model, x = build('resnet').train(), images('resnet', 4)
    mixup_fn = make().attach(model)
    _, target = mixup_fn(x, labels(4))
    assert model(x).shape == target.shape != (4, NUM_CLASSES)
    assert model(x).shape == (4, NUM_CLASSES)


def test_a_batch_that_was_never_forwarded_is_forgotten():
    model, x = build('resnet').train(), images('resnet', 4)
    mixup_fn = make().attach(model)
    mixup_fn(x, labels(4))
    mixup_fn.mixup_enabled = False
    _, target = mixup_fn(x, labels(4))
    assert model(x).shape == target.shape == (4, NUM_CLASSES)


def test_a_model_that_is_not_timms():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, NUM_CLASSES))
    assert torch.isfinite(step(make().attach(model), model, torch.randn(4, 3, 2, 2), labels(4)))


def test_multi_hot_targets_may_be_integers():
    model, x = build('resnet').train(), images('resnet', 4)
    multi_hot = (torch.rand(4, NUM_CLASSES, generator=torch.Generator().manual_seed(0)) < 0.4)
    mixup_fn = make(multi_label=True, prob=0., label_smoothing=0.2).attach(model)
    for target in (multi_hot, multi_hot.long(), multi_hot.double()):
        torch.testing.assert_close(mixup_fn(x, target)[1], multi_hot.float() * 0.8 + 0.1)
