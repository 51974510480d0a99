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
from torch.utils.data import DataLoader, default_collate

from tests.support.models import NUM_CLASSES, build, gradients, images, labels
from tests.support.tensors import CLONES, EXACT, seeded
from timm_multimix import MultiMix, MultiMixHead, UsageError
from timm_multimix.functional import interpolate, soft_targets
from timm_multimix.rows import row_counts
from timm_multimix.settings import MODES


def step(mixup_fn, model, x, target, loss_fn=None):
    """One step of a stock training loop."""
    model.train()
    x, target = seeded(mixup_fn, x, target)
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


@pytest.mark.parametrize('mode, key, kwargs', [
    *((mode, key, dict(alpha=(0.5, 2.), clean_weight=clean_weight, label_smoothing=0.1)) for mode in MODES
      for key, clean_weight in (('efficientnet', 0.), ('vit', 1.), ('swin', 1.))),
    *((mode, 'resnet', dict(label_smoothing=0.1, criterion=BinaryCrossEntropy(smoothing=0.))) for mode in MODES),
    ('dense-multimix', 'resnet', dict(label_smoothing=0., clean_weight=0., attention_grad=True))], ids=str)
def test_a_stock_loop_gets_the_loss_and_gradients_of_the_head(mode, key, kwargs):
    # without stochastic depth, because the tuples are drawn before the forward, and those of the head after it
    model, x, target = build(key, drop_path_rate=0.).train(), images(key, 4), labels(4)
    plain, given = copy.deepcopy(model), (x.clone(), target.clone())
    mixup_fn = make(mode, **{name: value for name, value in kwargs.items() if name != 'criterion'}).attach(model)
    loss = step(mixup_fn, model, x, target, kwargs.get('criterion'))
    assert torch.equal(x, given[0]) and torch.equal(target, given[1])

    head = head_of_rows(plain, mode, mixup_fn, x, **kwargs)
    expected = seeded(head, plain.forward_features(x), target)
    expected.backward()
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(gradients(model), gradients(plain), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(dict(model.named_buffers()), dict(plain.named_buffers()), **EXACT)
    torch.testing.assert_close(mixup_fn.clean_logits, plain(x).detach())


def test_multi_label_targets_of_any_dtype_are_smoothed_and_mixed():
    model, x = build('resnet').train(), images('resnet', 4)
    multi_hot = torch.rand(4, NUM_CLASSES, generator=torch.Generator().manual_seed(0)) < 0.4
    mixup_fn = make(multi_label=True, label_smoothing=0.2, clean_weight=0.).attach(model)
    lam = seeded(mixup_fn.loss.sample_weights, torch.zeros(4, NUM_CLASSES), num_tuples=12)
    for target in (multi_hot, multi_hot.long(), multi_hot.double()):
        torch.testing.assert_close(
            seeded(mixup_fn, x, target)[1], interpolate(lam, multi_hot.float() * 0.8 + 0.1))


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize(
    'kwargs', [dict(mixup_alpha=1.), dict(cutmix_alpha=1.), dict(cutmix_minmax=(0.3, 0.8))], ids=str)
def test_mixed_images_have_the_targets_of_the_same_mixture(kwargs, mode):
    model, x, target = build('resnet').train(), images('resnet', 5), labels(5)
    plain, mixup_fn = copy.deepcopy(model), make(mode, input_prob=1., **kwargs).attach(model)
    mixed_x, mixed_target = seeded(mixup_fn, x, target)
    expected = seeded(lambda: (mixup_fn.input_mixing.draw(), mixup_fn.input_mixing.mix(x))[1])
    assert torch.equal(mixed_x, expected.images) and not torch.equal(mixed_x, x)
    torch.testing.assert_close(mixed_target, expected.mix_target(soft_targets(target, NUM_CLASSES, 0.1)))
    assert torch.equal(model(mixed_x), plain(mixed_x))
    assert mixup_fn.clean_logits is None, 'mixed images have none'


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('kwargs, enabled, training', [
    ({}, False, True), (dict(prob=0.), True, True), (dict(mixup_alpha=1.), True, False)], ids=str)
def test_without_mixing_batches_pass_through(kwargs, enabled, training, mode):
    model, x, target = build('resnet').train(training), images('resnet', 4), labels(4)
    plain, mixup_fn = copy.deepcopy(model), make(mode, **kwargs).attach(model)
    mixup_fn.mixup_enabled = enabled
    for _ in range(4):
        same_x, soft = mixup_fn(x, target)
        assert same_x is x and torch.equal(soft, mixup_target(target, NUM_CLASSES, smoothing=0.1))
        assert torch.equal(model(same_x), plain(x))


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
@pytest.mark.parametrize('clone', CLONES.values(), ids=CLONES)
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


@pytest.mark.parametrize('kwargs', [{}, dict(prob=0.), dict(mixup_alpha=1., input_prob=1.)], ids=str)
def test_a_second_training_forward_says_what_to_do(kwargs):
    model, x, target = build('resnet').train(), images('resnet', 4), labels(4)
    mixup_fn = make(**kwargs).attach(model)
    assert model(x).shape == (4, NUM_CLASSES)  # before the first call there is no batch to run twice
    mixed, soft = mixup_fn(x, target)
    assert model(mixed).shape == soft.shape
    with pytest.raises(UsageError, match=r'call x, y = mixup_fn\(x, y\) before every training forward.*reuse=True'):
        model(mixed)
    assert model.eval()(x).shape == (4, NUM_CLASSES)  # evaluation in between is allowed
    model.train()
    mixup_fn.mixup_enabled = False
    assert torch.equal(model(x), mixup_fn.clean_logits)
    mixup_fn.mixup_enabled = True
    mixed, soft = mixup_fn(x, target)
    mixup_fn.mixup_enabled = False  # holds from the next batch on, because this one has its targets
    assert model(mixed).shape == soft.shape
    mixup_fn.mixup_enabled = True
    mixup_fn(x, target)  # a batch that is never forwarded is forgotten
    mixup_fn.mixup_enabled = False
    assert model(mixup_fn(x, target)[0]).shape == (4, NUM_CLASSES)


BEFORE_THE_FORWARD = {
    'gt': lambda y: y.gt(0.),
    'clone': torch.clone,
    'data': lambda y: y.data,
    'to': lambda y: y.to('cpu', non_blocking=True),
    'cat': lambda y: torch.cat([y, y]),
    'in place': lambda y: y.fill_(0.),
    'numpy': lambda y: y.numpy(),
    'list': lambda y: y.tolist(),
    'save': pickle.dumps,
    'deepcopy': copy.deepcopy,
    'cross-entropy': lambda y: nn.functional.cross_entropy(torch.zeros(y.shape), y),
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
        mixed_x, mixed_target = seeded(mixup_fn, x, target)
        SoftTargetCrossEntropy()(run(each, mixed_x), mixed_target).backward()
    torch.testing.assert_close(gradients(model), gradients(plain))


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


@pytest.mark.slow
@pytest.mark.parametrize('what', ['model', 'step'])
@pytest.mark.parametrize('mode', MODES)
def test_an_attached_model_and_a_whole_step_may_be_compiled(mode, what):
    model, x, target = build('resnet').train(), images('resnet', 4), labels(4)
    eager = copy.deepcopy(model)
    expected = step(make(mode).attach(eager), eager, x, target)
    mixup_fn = make(mode).attach(model)
    called = torch.compile(model, backend='eager') if what == 'model' else model

    def one_step(x, target):
        x, target = mixup_fn(x, target)
        return SoftTargetCrossEntropy()(called(x), target)

    loss = seeded(one_step if what == 'model' else torch.compile(one_step, backend='eager'), x, target)
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


def create(mode, **kwargs):
    model = build('resnet').train()
    mixup_fn = MultiMix(num_classes=NUM_CLASSES, mode=mode, num_tuples=12, label_smoothing=0., **kwargs)
    torch.manual_seed(3)
    return model, mixup_fn.attach(model), images('resnet', 4), labels(4)


def run_timm(model, mixup_fn, x, y):
    x, y = mixup_fn(x.to('cpu', torch.bfloat16), y.to('cpu'))
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.autocast('cpu', torch.bfloat16):
        return SoftTargetCrossEntropy()(model(x), y)


def run_deit(model, mixup_fn, x, y, bce_loss=False):
    x, y = mixup_fn(x, y)
    if bce_loss:
        y = y.gt(0.).type(y.dtype)
    with torch.autocast('cpu', torch.bfloat16):
        output = model(x)
        return BinaryCrossEntropy(smoothing=0.)(output, y) if bce_loss else SoftTargetCrossEntropy()(output, y)


def run_torchvision(model, mixup_fn, x, y):
    x, y = mixup_fn(x, y)  # the added line
    output = model(x)
    loss = nn.CrossEntropyLoss()(output, y)
    accuracy = (output.topk(5)[1][:, :1] == y.max(dim=1)[1][:, None]).float().mean()
    assert 0. <= accuracy <= 1.
    return loss


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('run', [run_timm, run_deit, run_torchvision])
def test_engines_get_the_loss_of_the_rows(run, mode):
    model, mixup_fn, x, target = create(mode)
    loss = run(model, mixup_fn, x, target)
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())

    model, mixup_fn, x, target = create(mode)
    _, y = mixup_fn(x, target)
    expected = -(model(x).log_softmax(dim=-1) * y).sum(dim=-1).mean()
    torch.testing.assert_close(loss, expected, rtol=0.02, atol=0.)


def test_deits_binary_loss_counts_both_examples_of_a_pair_in_full():
    model, mixup_fn, x, target = create('multimix', length=2)
    loss = run_deit(model, mixup_fn, x, target, bce_loss=True)
    model, mixup_fn, x, target = create('multimix', length=2)
    _, y = mixup_fn(x, target)
    y = torch.where(y > 0., 1., 0.)
    assert ((y.sum(dim=1) == 1.) | (y.sum(dim=1) == 2.)).all() and (y.sum(dim=1) == 2.).any()
    torch.testing.assert_close(loss, nn.BCEWithLogitsLoss()(model(x), y), rtol=0.02, atol=0.)


@pytest.mark.parametrize('num_workers', [0, 1])
@pytest.mark.parametrize('mode', MODES)
def test_in_a_collate_function_of_torchvision(mode, num_workers):
    """It works in the main process, where the pooled form has its targets at once; a worker has another model."""
    model, mixup_fn, x, target = create(mode)
    loader = DataLoader(
        list(zip(x, target)), 4, num_workers=num_workers, collate_fn=lambda batch: mixup_fn(*default_collate(batch)))
    if num_workers:
        with pytest.raises(UsageError, match='in the training loop, not in collate_fn'):
            next(iter(loader))
        return
    same_x, y = next(iter(loader))
    if mode == 'dense-multimix':
        with pytest.raises(UsageError, match=r'move images and labels to their device before mixup_fn\(x, y\)'):
            y.to('cpu')
        return
    mixed = copy.deepcopy(y.to('cpu'))
    loss = nn.CrossEntropyLoss()(model(same_x.to('cpu')), mixed)
    model, mixup_fn, x, target = create(mode)
    next(iter(DataLoader([0])))  # a loader draws a seed for its workers
    torch.testing.assert_close(loss, run_torchvision(model, mixup_fn, x, target))
