import copy
import logging
import pickle
from dataclasses import replace

import pytest
import torch
import torch.nn as nn
from timm.data.mixup import mixup_target
from timm.loss import BinaryCrossEntropy, SoftTargetCrossEntropy
from torch.optim.swa_utils import AveragedModel, update_bn
from torch.utils.checkpoint import checkpoint

from tests.support.models import NUM_CLASSES, build, gradients, images, labels
from timm_multimix import MultiMix, MultiMixHead, MultiMixLoss, UsageError
from timm_multimix.rows import mix, row_counts
from timm_multimix.settings import MODES


def seed(value=3):
    torch.manual_seed(value)


def step(mixup_fn, model, x, target, loss_fn=None):
    """One step of a stock training loop."""
    seed()
    model.train()
    x, target = mixup_fn(x, target)
    loss = (loss_fn or SoftTargetCrossEntropy())(model(x), target)
    loss.backward()
    return loss.detach()


def make(mode='multimix', **kwargs):
    return MultiMix(num_classes=NUM_CLASSES, mode=mode, **{**kwargs, 'num_tuples': 12})


def head_of_rows(model, mode, mixup_fn, x, **kwargs):
    """Make a head with the number of tuples and the clean weight that the rounded counts of rows amount to."""
    head = MultiMixHead(model, mode, **kwargs)
    positions = None if mode == 'multimix' else head.dense.num_positions(x)
    num_tuples, copies = row_counts(mixup_fn.loss, len(x), positions)
    head.loss.settings = replace(
        head.settings, num_tuples=num_tuples, clean_weight=copies * len(x) / (num_tuples * (positions or 1)))
    return head


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('label_smoothing', [0., 0.1])
@pytest.mark.parametrize('clean_weight', [0., 1.])
@pytest.mark.parametrize('key', ['efficientnet', 'vit', 'swin'])
def test_a_stock_loop_gets_the_loss_and_gradients_of_the_head(key, clean_weight, label_smoothing, mode):
    kwargs = dict(alpha=(0.5, 2.), clean_weight=clean_weight, label_smoothing=label_smoothing)
    # without stochastic depth, as the tuples are drawn before the forward, and those of the head after it
    model, x, target = build(key, drop_path_rate=0.).train(), images(key, 4), labels(4)
    plain = copy.deepcopy(model)
    mixup_fn = make(mode, **kwargs).attach(model)
    loss = step(mixup_fn, model, x, target)

    head = head_of_rows(plain, mode, mixup_fn, x, **kwargs)
    seed()
    expected = head(plain.forward_features(x), target)
    expected.backward()
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(gradients(model), gradients(plain), rtol=1e-3, atol=1e-5)
    for (name, buffer), (_, other) in zip(model.named_buffers(), plain.named_buffers(), strict=True):
        assert torch.equal(buffer, other), name


def test_the_gradient_through_the_attention_also_flows_through_the_targets():
    model, x, target = build('resnet').train(), images('resnet', 4), labels(4)
    plain, kwargs = copy.deepcopy(model), dict(attention_grad=True, clean_weight=0., label_smoothing=0.)
    mixup_fn = make('dense-multimix', **kwargs).attach(model)
    step(mixup_fn, model, x, target)
    head = head_of_rows(plain, 'dense-multimix', mixup_fn, x, **kwargs)
    seed()
    head(plain.forward_features(x), target).backward()
    torch.testing.assert_close(gradients(model), gradients(plain))


@pytest.mark.parametrize('mode', MODES)
def test_binary_cross_entropy(mode):
    model, x, target = build('resnet').train(), images('resnet', 4), labels(4)
    plain = copy.deepcopy(model)
    bce = BinaryCrossEntropy(smoothing=0.)
    mixup_fn = make(mode, label_smoothing=0.1).attach(model)
    loss = step(mixup_fn, model, x, target, bce)
    head = head_of_rows(plain, mode, mixup_fn, x, label_smoothing=0.1, criterion=bce)
    seed()
    torch.testing.assert_close(loss, head(plain.forward_features(x), target).detach())


def test_multi_label_targets_are_smoothed_and_mixed():
    model, x = build('resnet').train(), images('resnet', 4)
    multi_hot = (torch.rand(4, NUM_CLASSES, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    mixup_fn = make(multi_label=True, label_smoothing=0.2, clean_weight=0.).attach(model)
    seed()
    _, target = mixup_fn(x, multi_hot)
    logits = model(x)
    seed()
    criterion = MultiMixLoss(num_tuples=12, clean_weight=0.)
    expected = mix(criterion, logits.detach()[:4], multi_hot * 0.8 + 0.1)[1]
    torch.testing.assert_close(target, expected)


@pytest.mark.parametrize('mode', MODES)
def test_evaluation_is_bit_identical_to_the_plain_model(mode):
    model, x = build('mobilenetv4'), images('mobilenetv4', 4)
    with torch.no_grad():
        expected = model(x)
        mixup_fn = make(mode).attach(model)
        assert torch.equal(model(x), expected)
        mixup_fn(x, labels(4))  # a pending batch changes nothing
        assert torch.equal(model(x), expected) and torch.equal(model(x[:3]), expected[:3])
    assert list(model.state_dict()) == list(build('mobilenetv4').state_dict())


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('soft', [False, True])
@pytest.mark.parametrize('mixing', [{}, dict(cutmix_alpha=1.), dict(mixup_alpha=1.)], ids=['none', 'cutmix', 'mixup'])
def test_inputs_are_never_changed(mixing, soft, mode):
    model, x, target = build('resnet'), images('resnet', 5), labels(5)
    if soft:
        target = nn.functional.one_hot(target, NUM_CLASSES).float()
    kept = x.clone(), target.clone()
    for label_smoothing in (0., 0.1):
        mixup_fn = make(mode, input_prob=1., label_smoothing=label_smoothing, **mixing)
        step(mixup_fn.attach(model), model, x, target)
        mixup_fn.detach()
        assert torch.equal(x, kept[0]) and torch.equal(target, kept[1])


@pytest.mark.parametrize('mode', MODES)
def test_any_batch_size(mode):
    model = build('vit').train()
    mixup_fn = make(mode, mixup_alpha=1., cutmix_alpha=1.).attach(model)
    for value in range(16):  # some are Mixup, some CutMix
        seed(value)
        batch_size = (1, 3, 5, 4)[value % 4]
        mixed_x, mixed_target = mixup_fn(images('vit', batch_size), labels(batch_size))
        logits = model(mixed_x)
        assert logits.shape == mixed_target.shape and torch.isfinite(mixed_target).all()
        torch.testing.assert_close(mixed_target.sum(dim=-1), torch.ones(len(mixed_target)))


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('batch_size', [1, 4])
@pytest.mark.parametrize('kwargs, enabled, training', [
    ({}, False, True), (dict(prob=0.), True, True), (dict(mixup_alpha=1.), True, False)], ids=str)
def test_without_mixing_batches_pass_through(kwargs, enabled, training, batch_size, mode):
    model, x, target = build('resnet').train(training), images('resnet', batch_size), labels(batch_size)
    plain, mixup_fn = copy.deepcopy(model), make(mode, **kwargs).attach(model)
    mixup_fn.mixup_enabled = enabled
    for _ in range(4):
        same_x, soft = mixup_fn(x, target)
        assert same_x is x and torch.equal(soft, mixup_target(target, NUM_CLASSES, smoothing=0.1))
        if training and batch_size == 1:
            continue  # batch norm needs more than one image
        assert torch.equal(model(same_x), plain(x))


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('kwargs', [dict(cutmix_alpha=1.), dict(cutmix_minmax=(0.3, 0.8))], ids=['alpha', 'minmax'])
def test_cutmix_targets_match_the_pixels(kwargs, mode):
    model, x, target = build('resnet').train(), images('resnet', 5), labels(5)
    plain = copy.deepcopy(model)
    mixup_fn = make(mode, input_prob=1., label_smoothing=0.1, **kwargs).attach(model)
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


def test_detach_gives_the_model_its_own_forward_back():
    model, x = build('resnet').train(), images('resnet', 4)
    mixup_fn = make().attach(model)
    mixup_fn(x, labels(4))
    mixup_fn.detach()
    assert 'forward' not in vars(model) and model(x).shape == (4, NUM_CLASSES)
    mixup_fn.detach()  # a second call does no harm
    make().attach(model)
    mixup_fn = make()
    with pytest.raises(ValueError, match='ResNet already has a replaced forward; detach'):
        mixup_fn.attach(model)
    with pytest.raises(ValueError, match='attached to a model already'):
        make().attach(build('vit')).attach(build('vit'))


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('clone', [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=['deepcopy', 'pickle'])
def test_copies_of_an_attached_model_are_independent(clone, mode):
    model, x, target = build('efficientnet').train(), images('efficientnet', 4), labels(4)
    mixup_fn = make(mode).attach(model)
    step(mixup_fn, model, x, target)
    mixup_fn(x, target)  # a copy is not in the middle of a step
    copied, copied_fn = clone((model, mixup_fn))
    assert torch.equal(copied(x), copied_fn.clean_logits)
    with torch.no_grad():
        for p in copied.parameters():
            p.zero_()
    # each has its own weights and its own mixing object
    assert torch.equal(copied.eval()(x), torch.zeros(4, NUM_CLASSES))
    assert model.eval()(x).abs().sum() > 0.
    loss = step(mixup_fn, model, x, target)
    torch.testing.assert_close(step(copied_fn, copied, x, target), torch.tensor(NUM_CLASSES).log())
    assert not torch.isclose(loss, torch.tensor(NUM_CLASSES).log())
    assert all(p.grad is not None for p in copied.parameters())
    # a copy of the model alone, as an average of the weights makes it, is the plain model
    lone = clone(model).eval()
    assert torch.equal(lone(x), model.eval()(x)) and lone.forward.__self__.model is lone


def test_a_second_training_forward_says_what_to_do():
    model, x = build('resnet').train(), images('resnet', 4)
    mixup_fn = make().attach(model)
    _, target = mixup_fn(x, labels(4))
    assert model(x).shape == target.shape != (4, NUM_CLASSES)
    with pytest.raises(ValueError, match=r'call x, y = mixup_fn\(x, y\) before every training forward.*reuse=True'):
        model(x)
    assert model.eval()(x).shape == (4, NUM_CLASSES)  # evaluation in between is allowed
    model.train()
    mixup_fn(x, labels(4))
    model(x)
    mixup_fn.mixup_enabled = False
    assert torch.equal(model(x), mixup_fn.clean_logits)
    mixup_fn.mixup_enabled = True
    _, target = mixup_fn(x, labels(4))
    mixup_fn.mixup_enabled = False  # holds from the next batch on, as this one has its targets
    assert model(x).shape == target.shape


BEFORE_THE_FORWARD = {
    'gt': lambda y: y.gt(0.),
    'argmax': lambda y: y.argmax(dim=1),
    'operator': lambda y: 0.9 * y,
    'index': lambda y: y[0],
    'clone': torch.clone,
    'detach': lambda y: y.detach(),
    'data': lambda y: y.data,
    'to': lambda y: y.to('cpu', non_blocking=True),
    'float': lambda y: y.float(),
    'cat': lambda y: torch.cat([y, y]),
    'in place': lambda y: y.fill_(0.),
    'numpy': lambda y: y.numpy(),
    'list': lambda y: y.tolist(),
    'save': pickle.dumps,
    'deepcopy': copy.deepcopy,
    'cross-entropy': lambda y: nn.functional.cross_entropy(torch.zeros(y.shape), y),
    'soft cross-entropy': lambda y: SoftTargetCrossEntropy()(torch.zeros(y.shape), y),
    'binary cross-entropy': lambda y: BinaryCrossEntropy()(torch.zeros(y.shape), y),
}


@pytest.mark.parametrize('use', BEFORE_THE_FORWARD.values(), ids=BEFORE_THE_FORWARD)
def test_dense_targets_cannot_be_used_before_the_forward(use):
    model, x = build('resnet').train(), images('resnet', 4)
    _, y = make('dense-multimix').attach(model)(x, labels(4))
    with pytest.raises(UsageError, match=r"^the targets of mode 'dense-multimix' have no values before .*; got \w+$"):
        use(y)
    assert y.ndim == y.dim() == 2 and y.is_floating_point() and 'no values before' in repr(y)
    logits = model(x)
    assert type(y) is torch.Tensor and logits.shape == y.shape
    torch.testing.assert_close(y.sum(dim=1), torch.ones(len(y)))
    use(y)


def test_pooled_targets_have_their_values_before_the_forward():
    model, x = build('resnet').train(), images('resnet', 4)
    _, y = make().attach(model)(x, labels(4))
    before = y.clone()
    torch.testing.assert_close(y.sum(dim=1), torch.ones(len(y)))
    assert len(model(x)) == len(y) and torch.equal(y, before)


@pytest.mark.parametrize('mode', MODES)
def test_targets_of_a_batch_that_was_overtaken_cannot_be_used(mode):
    """A loop that mixes the next batch too early would pair these targets with the tuples of that batch."""
    model, x = build('resnet').train(), images('resnet', 4)
    mixup_fn = make(mode).attach(model)
    _, seen = mixup_fn(x, labels(4))
    model(x)
    _, early = mixup_fn(x, labels(4))
    _, late = mixup_fn(x, labels(4))
    logits = model(x)
    with pytest.raises(UsageError, match=r'^these targets are of an earlier batch.* in turn for every batch; got .*$'):
        SoftTargetCrossEntropy()(logits, early)
    assert SoftTargetCrossEntropy()(logits, late) > 0. and torch.isfinite(seen).all()


@pytest.mark.parametrize('mode', MODES)
def test_norms_of_averaged_weights_are_updated_without_mixing(mode):
    model, x = build('resnet').train(), images('resnet', 4)
    plain, mixup_fn = copy.deepcopy(model), make(mode).attach(model)
    model(mixup_fn(x, labels(4))[0])
    averaged, expected = AveragedModel(model), AveragedModel(plain)
    for each in (averaged, expected):
        update_bn([x[:2], x[2:]], each)
    torch.testing.assert_close(dict(averaged.named_buffers()), dict(expected.named_buffers()))
    with pytest.raises(UsageError, match=r'update_bn, detach\(\) first'):
        update_bn([x], model)


@pytest.mark.parametrize('kwargs', [dict(prob=0.), dict(mixup_alpha=1., input_prob=1.)], ids=['none', 'images'])
def test_a_second_forward_is_refused_whatever_was_drawn(kwargs):
    model, x = build('resnet').train(), images('resnet', 4)
    mixup_fn = make(**kwargs).attach(model)
    assert model(x).shape == (4, NUM_CLASSES)  # before the first call there is no batch to run twice
    mixed, _ = mixup_fn(x, labels(4))
    model(mixed)
    with pytest.raises(ValueError, match='reuse=True'):
        model(mixed)


def test_bfloat16_images_under_autocast():
    model, x = build('vit').train(), images('vit', 4).bfloat16()
    mixup_fn = make('dense-multimix').attach(model)
    with torch.autocast('cpu', torch.bfloat16):
        x, y = mixup_fn(x, labels(4))
        assert torch.isfinite(SoftTargetCrossEntropy()(model(x).float(), y))


@pytest.mark.parametrize('mode', MODES)
def test_with_reuse_the_same_batch_may_be_run_again(mode):
    """The tuples stay the same, so in LBFGS's closure or SAM's step the loss is a function of the weights alone."""
    model, x = build('resnet').train(), images('resnet', 4)
    mixup_fn = make(mode, reuse=True).attach(model)
    mixup_fn(x, labels(4))
    _, target = mixup_fn(x, labels(4))
    first, rows = model(x), target.clone()
    assert torch.equal(model(x), first) and torch.equal(target, rows)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    assert not torch.equal(model(x), first) and torch.isfinite(target).all()
    mixup_fn(x, labels(4))
    assert not torch.equal(model(x), first)


def test_checkpointing_the_whole_model_gives_the_same_gradients():
    model, x, target = build('vit').train(), images('vit', 4), labels(4)
    plain = copy.deepcopy(model)
    for each, run in ((model, lambda m, x: checkpoint(m, x, use_reentrant=False)), (plain, lambda m, x: m(x))):
        mixup_fn = make('dense-multimix', reuse=True).attach(each)
        seed()
        mixed_x, mixed_target = mixup_fn(x, target)
        SoftTargetCrossEntropy()(run(each, mixed_x), mixed_target).backward()
    torch.testing.assert_close(gradients(model), gradients(plain))


@pytest.mark.parametrize('mode', MODES)
def test_clean_logits_are_those_of_the_plain_model(mode):
    model, x, target = build('resnet').train(), images('resnet', 4), labels(4)
    plain = copy.deepcopy(model)
    mixup_fn = make(mode).attach(model)
    assert mixup_fn.clean_logits is None
    x, y = mixup_fn(x, target)
    model(x)
    assert torch.equal(mixup_fn.clean_logits, plain(x)) and not mixup_fn.clean_logits.requires_grad
    mixup_fn.detach()
    mixup_fn = make(mode, mixup_alpha=1., input_prob=1.).attach(model)
    mixed, _ = mixup_fn(x, target)
    model(mixed)
    assert mixup_fn.clean_logits is None  # mixed images have no clean logits


def test_wrapped_models_are_refused_with_advice():
    model = build('resnet')
    with pytest.raises(ValueError, match='attach before torch.compile'):
        make().attach(torch.compile(model, backend='eager'))
    with pytest.raises(ValueError, match='nn.DataParallel is not supported: use DistributedDataParallel'):
        make().attach(nn.DataParallel(model))
    mixup_fn = make().attach(model.train())
    mixup_fn(images('resnet', 4), labels(4))
    with pytest.raises(ValueError, match='of 4 images, got 2; nn.DataParallel, which splits batches, is not supported'):
        model(images('resnet', 2))


@pytest.mark.parametrize('mode, what', [
    ('multimix', 'model'), ('multimix', 'step'), ('dense-multimix', 'model'), ('dense-multimix', 'step')])
def test_an_attached_model_and_a_whole_step_may_be_compiled(mode, what):
    model, x, target = build('resnet').train(), images('resnet', 4), labels(4)
    eager = copy.deepcopy(model)
    expected = step(make(mode).attach(eager), eager, x, target)
    mixup_fn = make(mode).attach(model)
    called = torch.compile(model, backend='eager') if what == 'model' else model

    def one_step(x, target):
        x, target = mixup_fn(x, target)
        return SoftTargetCrossEntropy()(called(x), target)

    seed()
    loss = (one_step if what == 'model' else torch.compile(one_step, backend='eager'))(x, target)
    torch.testing.assert_close(loss.detach(), expected)


def test_the_first_batch_logs_its_number_of_rows(caplog):
    model = build('resnet').train()
    with caplog.at_level(logging.INFO):
        mixup_fn = MultiMix(mode='dense-multimix', num_classes=NUM_CLASSES).attach(model)
        for _ in range(2):
            x, y = mixup_fn(images('resnet', 4), labels(4))
            model(x)
    rows, = [record.message for record in caplog.records if 'rows' in record.message]
    assert rows.startswith(f'MultiMix makes {len(y):,} rows of {NUM_CLASSES} classes from a batch of 4')
    assert f'{6 * y.nbytes / 2 ** 20:,.0f} MiB' in rows


def test_repr_shows_the_settings():
    mixup_fn = make('dense-multimix', mixup_alpha=0.8, cutmix_alpha=1., prob=0.9)
    text = repr(mixup_fn)
    for part in ("mode='dense-multimix'", 'num_tuples=12', 'mixup_alpha=0.8', 'cutmix_alpha=1.0', 'prob=0.9',
                 'label_smoothing=0.1', 'not attached'):
        assert text.count(part) == 1
    assert 'attached to ResNet' in repr(mixup_fn.attach(build('resnet')))


def test_the_strength_rises_on_fitted_images():
    """Labels that the model itself predicts are fitted."""
    model, x = build('vit'), images('vit', 4)
    target = model(x).argmax(dim=1)
    mixup_fn = make(mixup_alpha=1., strength='auto').attach(model.train())
    strengths = []
    for value in range(150):
        torch.manual_seed(value)
        model(mixup_fn(x, target)[0])
        strengths.append(mixup_fn.input_mixing.metrics()['strength'])
    assert strengths[8] == 0. and strengths[-1] == 1. and strengths == sorted(strengths)
    again = make(mixup_alpha=1., strength='auto')
    again.load_state_dict(mixup_fn.state_dict())
    assert again.state_dict() == mixup_fn.state_dict() and make().state_dict() == {}


def test_a_batch_that_was_never_forwarded_is_forgotten():
    model, x = build('resnet').train(), images('resnet', 4)
    mixup_fn = make().attach(model)
    mixup_fn(x, labels(4))
    mixup_fn.mixup_enabled = False
    _, target = mixup_fn(x, labels(4))
    assert model(x).shape == target.shape == (4, NUM_CLASSES)


def test_multi_hot_targets_may_be_integers():
    model, x = build('resnet').train(), images('resnet', 4)
    multi_hot = (torch.rand(4, NUM_CLASSES, generator=torch.Generator().manual_seed(0)) < 0.4)
    mixup_fn = make(multi_label=True, prob=0., label_smoothing=0.2).attach(model)
    for target in (multi_hot, multi_hot.long(), multi_hot.double()):
        torch.testing.assert_close(mixup_fn(x, target)[1], multi_hot.float() * 0.8 + 0.1)
