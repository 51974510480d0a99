"""MixupE: the loss against its equations, image by image in float64, and the task."""
import copy

import numpy as np
import pytest
import torch
import torch.nn as nn
from timm.loss import SoftTargetCrossEntropy

from tests.support import naive
from tests.support.models import NUM_CLASSES, build, gradients, images, labels
from tests.support.tensors import CLOSE, EXACT, seeded
from timm_multimix import MixupETask, Settings
from timm_multimix.functional import soft_targets
from timm_multimix.input_mixing import InputMixing
from timm_multimix.tasks.mixupe_terms import average_image, mixupe_loss

SHAPE = (2, 3, 3)
MU = torch.linspace(-1., 1., 18, dtype=torch.float64).view(SHAPE)


def problem(batch_size=5):
    """A small network with second derivatives, images `[b, 2, 3, 3]` and labels."""
    generator = torch.Generator().manual_seed(2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(18, 5), nn.Tanh(), nn.Linear(5, 4)).double()
    for layer, std in ((model[1], 1. / 3.), (model[3], 1.)):
        for parameter in layer.parameters():
            nn.init.normal_(parameter, std=std, generator=generator)
    x = torch.randn(batch_size, *SHAPE, generator=generator, dtype=torch.float64)
    return model, x, torch.randint(4, (batch_size,), generator=generator)


def make(model, **kwargs):
    return MixupETask(model, verbose=False, **kwargs)


def drawn(alpha, x):
    """The mixed images and λ that the task draws."""
    mixing = InputMixing(Settings(mixup_alpha=alpha, input_prob=1.))
    return seeded(lambda: (mixing.draw(), mixing.mix(x))[1])


@pytest.mark.parametrize('exact, residual_grad', [(False, False), (False, True), (True, False)],
                         ids=['fast', 'residual', 'exact'])
@pytest.mark.parametrize('threshold', [None, 0.])
@pytest.mark.parametrize('alpha, eta, label_smoothing', [(1., 0.5, 0.), (0.3, 2., 0.1)])
@pytest.mark.parametrize('batch_size', [1, 2, 5])
def test_loss_and_gradients_are_those_of_the_written_equations(
        batch_size, alpha, eta, label_smoothing, threshold, exact, residual_grad):
    model, x, target = problem(batch_size)
    mean = MU if exact else None
    expected = naive.mixupe_loss(
        model, x, target, drawn(alpha, x).lam, alpha, eta, threshold, label_smoothing, mean, residual_grad)
    expected_grads = torch.autograd.grad(expected, tuple(model.parameters()))
    kept = x.clone()
    result = seeded(make(
        model, mixup_alpha=alpha, eta=eta, threshold=threshold, exact=exact, mean_image=mean,
        residual_grad=residual_grad, label_smoothing=label_smoothing), x, target)
    grads = torch.autograd.grad(result['loss'], tuple(model.parameters()))
    torch.testing.assert_close(result['loss'], expected, **CLOSE)
    torch.testing.assert_close(grads, expected_grads, **CLOSE)
    torch.testing.assert_close(result['output'], model(x))
    assert torch.equal(x, kept)


def test_a_threshold_of_zero_keeps_some_terms_and_drops_others():
    for mean in (None, MU):
        terms = [q.item() for q in naive.mixupe_terms(*problem(), mean_image=mean)]
        assert min(terms) < 0. < max(terms)


@pytest.mark.parametrize('sign, eta', [(1., 0.1), (-1., 1e3)])
def test_the_loss_keeps_the_size_of_mixups(sign, eta):
    """The share of the partner is E[a] = α / (2α + 1): λ and 1 - λ of a pair, each weighted by itself."""
    lam = np.random.default_rng(0).beta(0.7, 0.7, 200_000)
    share = (lam * (1. - lam)).mean() / lam.mean()
    mixed, terms = torch.tensor(2., requires_grad=True), torch.tensor([1., 2., 3.], requires_grad=True)
    loss = mixupe_loss(mixed, terms, alpha=0.7, eta=eta)
    torch.testing.assert_close(loss, torch.tensor(2. * sign))
    grad_mixed, grad_terms = torch.autograd.grad(loss, (mixed, terms))  # the scale is a constant
    torch.testing.assert_close(grad_terms, -eta * share / 3. * grad_mixed.expand(3), rtol=0.01, atol=0.)
    assert mixupe_loss(torch.tensor(0.), torch.zeros(3), alpha=1., eta=0.1) == 0.


@pytest.mark.parametrize('smoothing', [0., 0.1])
@pytest.mark.parametrize('alpha', [1., 0.3])
@pytest.mark.parametrize('key', ['resnet', 'vit'])
def test_eta_of_zero_is_mixup_bit_for_bit(key, alpha, smoothing):
    """Loss, gradients and running statistics: there is no second pass."""
    model = build(key, drop_rate=0.2).train()
    plain, other = copy.deepcopy(model), copy.deepcopy(model)
    x, target = images(key, 4), labels(4)
    result = seeded(make(model, mixup_alpha=alpha, eta=0., criterion_kwargs=dict(smoothing=smoothing)), x, target)
    result['loss'].backward()

    mixed = drawn(alpha, x)  # with the seed of the task's forward
    soft = mixed.mix_target(soft_targets(target, NUM_CLASSES, smoothing))
    expected = SoftTargetCrossEntropy()(plain(mixed.images), soft)
    expected.backward()
    assert torch.equal(result['loss'], expected) and result['input_mixed']
    torch.testing.assert_close(gradients(model), gradients(plain), **EXACT)
    torch.testing.assert_close(dict(model.named_buffers()), dict(plain.named_buffers()), **EXACT)
    seeded(make(other, mixup_alpha=alpha, eta=0.5), x, target)['loss'].backward()
    grads = [m.get_classifier().weight.grad for m in (other, plain)]
    assert not torch.allclose(*grads), 'another eta is not Mixup'


@pytest.mark.parametrize('batch_size', [1, 3])
@pytest.mark.parametrize('exact', [False, True])
@pytest.mark.parametrize('key', ['convnext', 'vit', 'resnet'])
def test_timms_models_and_odd_batches_train(key, exact, batch_size):
    """This includes fused attention, which has no second derivative."""
    model = build(key).train()
    x, target = images(key, batch_size), labels(batch_size)
    task = make(model, exact=exact, mean_image=x.mean(0) + 0.1 if exact else None, eta=0.5)
    result = seeded(task, x, target)
    result['loss'].backward()
    assert result['output'].shape == (batch_size, NUM_CLASSES) and not result['input_mixed']
    assert all(torch.isfinite(grad).all() for grad in gradients(model).values())


@pytest.mark.parametrize('exact', [False, True])
def test_without_gradients_the_loss_is_the_same(exact):
    model, x, target = problem()
    task = make(model, exact=exact, mean_image=MU if exact else None, eta=0.5)
    expected = seeded(task, x, target)
    with torch.no_grad():
        result = seeded(task, x, target)
    for name in ('loss', 'output'):
        torch.testing.assert_close(result[name], expected[name].detach(), rtol=0., atol=0.)
        assert not result[name].requires_grad


def test_the_mean_image_is_the_average_of_all_images(process_group):
    batches = [torch.randn(n, 3, 4, 4, generator=torch.Generator().manual_seed(n)) + 5. for n in (4, 4, 1)]
    loader = [(x, labels(len(x))) for x in batches]
    expected = torch.cat(batches).double().mean(0).float()
    torch.testing.assert_close(average_image(loader, torch.device('cpu')), expected)
    task = make(build('vit'), exact=True)
    torch.testing.assert_close(task.estimate_mean_image(iter(loader)), expected)
