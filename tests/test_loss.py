import copy
import pickle

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.loss import BinaryCrossEntropy, SoftTargetCrossEntropy

from tests.support import naive
from tests.support.tensors import CLOSE
from timm_multimix import PAPER, MultiMixLoss, functional
from timm_multimix import loss as loss_module


def problem(dense=False, batch_size=4, num_classes=3, positions=5, soft=False):
    """Logits, target, attention and clean logits."""
    torch.manual_seed(0)
    shape = (batch_size, positions, num_classes) if dense else (batch_size, num_classes)
    logits = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    target = torch.randint(num_classes, (batch_size,))
    if soft:
        target = torch.rand(batch_size, num_classes, dtype=torch.float64).softmax(dim=-1)
    if not dense:
        return logits, target, None, None
    attention = torch.rand(batch_size, positions, dtype=torch.float64).softmax(dim=-1)
    return logits, target, attention, torch.randn(batch_size, num_classes, dtype=torch.float64, requires_grad=True)


def seeded(function, *args, seed=1):
    torch.manual_seed(seed)
    return function(*args)


def by_hand(weights, logits, target, clean_logits, clean_weight, label_smoothing):
    target = naive.soft_targets(target, logits.shape[-1], label_smoothing)
    mixed_logits, mixed_target = naive.interpolate(weights, logits), naive.interpolate(weights, target)
    mixed = -(mixed_target * mixed_logits.log_softmax(dim=-1)).sum(dim=-1).mean()
    clean = -(target * clean_logits.log_softmax(dim=-1)).sum(dim=-1).mean()
    return (mixed + clean_weight * clean) / (1. + clean_weight)


@pytest.mark.parametrize('soft', [False, True])
@pytest.mark.parametrize('label_smoothing', [0., 0.1])
@pytest.mark.parametrize('clean_weight', [0., 1., 0.3])
@pytest.mark.parametrize('dense', [False, True])
@pytest.mark.parametrize('kwargs', [{}, PAPER, dict(length=2, alpha=1e-3)], ids=['default', 'paper', 'short'])
def test_loss_by_hand(dense, clean_weight, label_smoothing, soft, kwargs):
    logits, target, attention, clean_logits = problem(dense, soft=soft)
    criterion = MultiMixLoss(
        **{**kwargs, 'num_tuples': 9, 'clean_weight': clean_weight, 'label_smoothing': label_smoothing})
    weights = seeded(criterion.sample_weights, logits, attention)
    loss = seeded(criterion, logits, target, attention, clean_logits)
    expected = by_hand(
        weights, logits, target, clean_logits if dense else logits, clean_weight, label_smoothing)
    torch.testing.assert_close(loss, expected, **CLOSE)

    loss.backward()
    grad = logits.grad.clone()
    expected_grad, = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(grad, expected_grad, **CLOSE)


def test_dense_without_attention_and_clean_logits():
    logits, target, *_ = problem(dense=True)
    criterion = MultiMixLoss(num_tuples=9)
    weights = seeded(criterion.sample_weights, logits)
    expected = by_hand(weights, logits, target, logits.mean(dim=1), 3., 0.)
    torch.testing.assert_close(seeded(criterion, logits, target), expected, **CLOSE)
    uniform = torch.full((4, 5), 0.2, dtype=torch.float64)
    torch.testing.assert_close(seeded(criterion, logits, target, uniform), expected, **CLOSE)


def test_terms():
    logits, target, *_ = problem()
    criterion = MultiMixLoss(num_tuples=9, clean_weight=3.)
    terms = seeded(criterion.terms, logits, target)
    assert set(terms) == {'loss', 'mixed_loss', 'clean_loss'}
    torch.testing.assert_close(terms['clean_loss'], F.cross_entropy(logits, target), **CLOSE)
    torch.testing.assert_close(terms['loss'], 0.25 * terms['mixed_loss'] + 0.75 * terms['clean_loss'], **CLOSE)
    assert set(MultiMixLoss(**{**PAPER, 'num_tuples': 9}).terms(logits, target)) == {'loss', 'mixed_loss'}


@pytest.mark.parametrize('kwargs, kappa', [({}, 2.), (dict(alpha=0.5), 0.5), (dict(PAPER, alpha=1.), 6.)])
def test_the_gradient_that_separates_examples_is_a_known_share_of_cross_entropys(kwargs, kappa):
    """On uniform predictions the mixed loss keeps 1 / (κ + 1) of plain cross-entropy's gradient that separates them."""
    logits, target = torch.zeros(6, 3, requires_grad=True), torch.tensor([0, 1, 2, 0, 1, 2])
    torch.manual_seed(0)
    criterion = MultiMixLoss(**{**kwargs, 'num_tuples': 50_000})
    grad, = torch.autograd.grad(criterion(logits, target), logits)
    plain, = torch.autograd.grad(F.cross_entropy(logits, target), logits)
    share = (1. / (kappa + 1.) + criterion.clean_weight) / (1. + criterion.clean_weight)
    torch.testing.assert_close(grad[0] - grad[1], share * (plain[0] - plain[1]), rtol=0.02, atol=1e-3)


@pytest.mark.parametrize('kwargs, margin', [
    (dict(clean_weight=0.), 5.8), (dict(clean_weight=1.), 6.3), (dict(), 6.7), (dict(clean_weight=0., alpha=128.), 9.5),
    (dict(clean_weight=1e3, label_smoothing=0.1), 4.5)])
def test_the_loss_is_least_at_the_documented_margin(kwargs, margin):
    """As a function of how far the label's logit is above the others, the loss is least where the method card says.

    With label smoothing that is plain cross-entropy's log(0.91 / 0.01), as the mixed loss has hardly any weight there.
    """
    criterion, steps = MultiMixLoss(num_tuples=5_000, **kwargs), torch.arange(3., 12., 0.2)
    losses = [seeded(criterion, step * torch.eye(10), torch.arange(10)) for step in steps]
    assert float(steps[torch.stack(losses).argmin()]) == pytest.approx(margin, abs=0.25)


@pytest.mark.parametrize('dense', [False, True])
def test_the_loss_uses_the_default_number_of_tuples(dense, monkeypatch):
    """They are counted where the weights are used."""
    drawn = []
    cross_entropy = functional.mixed_cross_entropy

    def counted(logits, target, weights, **kwargs):
        weights = list(weights)
        drawn.append(sum(block.shape[-2] for block in weights))
        return cross_entropy(logits, target, weights, **kwargs)

    monkeypatch.setattr(functional, 'mixed_cross_entropy', counted)
    logits, target, attention, clean_logits = problem(dense, positions=20)
    MultiMixLoss()(logits, target, attention, clean_logits)
    assert drawn == [410 if dense else 1000]


@pytest.mark.parametrize('dense', [False, True])
@pytest.mark.parametrize('label_smoothing', [0., 0.1])
@pytest.mark.parametrize('soft', [False, True])
def test_in_eval_mode_it_is_the_plain_criterion(soft, label_smoothing, dense):
    logits, target, attention, clean_logits = problem(dense, soft=soft)
    criterion = MultiMixLoss(length=3, label_smoothing=label_smoothing).eval()
    plain = nn.CrossEntropyLoss(label_smoothing=label_smoothing)
    inputs = clean_logits if dense else logits
    loss = criterion(logits, target, attention, clean_logits)
    torch.testing.assert_close(loss, plain(inputs, target), **CLOSE)
    assert torch.equal(criterion(logits, target, attention, clean_logits), loss)
    # a batch smaller than a tuple is fine, as nothing is mixed
    criterion(logits[:2], target[:2], None if attention is None else attention[:2],
              None if clean_logits is None else clean_logits[:2])
    assert criterion.train()(logits, target, attention, clean_logits) != loss


@pytest.mark.parametrize('dense', [False, True])
def test_another_criterion_by_hand(dense):
    logits, target, attention, clean_logits = (
        x if x is None or not x.is_floating_point() else x.detach().float() for x in problem(dense))
    bce = BinaryCrossEntropy(smoothing=0.)
    criterion = MultiMixLoss(num_tuples=9, criterion=bce, label_smoothing=0.1)
    loss = seeded(criterion, logits, target, attention, clean_logits)

    weights = seeded(criterion.sample_weights, logits, attention)
    smooth = naive.soft_targets(target, 3, 0.1).float()
    mixed = F.binary_cross_entropy_with_logits(
        naive.interpolate(weights, logits), naive.interpolate(weights, smooth))
    clean = F.binary_cross_entropy_with_logits(clean_logits if dense else logits, smooth)
    torch.testing.assert_close(loss, (mixed + 3. * clean) / 4.)


@pytest.mark.parametrize('dense', [False, True])
@pytest.mark.parametrize('elements, min_rows', [(1, 1), (1, 2), (50, 1), (1000, 1)])
def test_tuples_sampled_in_blocks_give_the_same_loss(elements, min_rows, dense, monkeypatch):
    monkeypatch.setattr(loss_module, '_BLOCK_ELEMENTS', {'cpu': elements})
    monkeypatch.setattr(loss_module, '_MIN_BLOCK_ROWS', min_rows)
    logits, target, attention, clean_logits = problem(dense)
    criterion = MultiMixLoss(num_tuples=9)
    weights = seeded(criterion.sample_weights, logits, attention)
    loss = seeded(criterion, logits, target, attention, clean_logits)
    expected = by_hand(weights, logits, target, clean_logits if dense else logits, 3., 0.)
    torch.testing.assert_close(loss, expected, **CLOSE)


def test_all_blocks_of_a_step_share_one_alpha(monkeypatch):
    monkeypatch.setattr(loss_module, '_BLOCK_ELEMENTS', {'cpu': 4000})
    logits, *_ = problem()
    criterion = MultiMixLoss(num_tuples=3000, alpha=(0.01, 100.))
    for seed in range(3):
        torch.manual_seed(seed)
        spread = [block.var(dim=0).mean() for block in criterion.sample_weights(logits).split(1000)]
        assert max(spread) < 1.3 * min(spread)


@pytest.mark.parametrize('concentration, total', [('total', 2.), ('example', 6.)])
def test_arguments_reach_the_sampler(concentration, total):
    logits, *_ = problem(batch_size=5)
    criterion = MultiMixLoss(20_000, alpha=2., length=3, concentration=concentration)
    weights = seeded(criterion.sample_weights, logits)
    assert weights.shape == (20_000, 5) and ((weights > 0.).sum(dim=-1) == 3).all()
    variance = weights[weights > 0.].var()
    torch.testing.assert_close(variance, torch.tensor(2. / 9. / (total + 1.)).double(), rtol=0.03, atol=0.)


def test_gradient_through_attention():
    logits, target, attention, clean_logits = problem(dense=True)
    attention = attention.log().requires_grad_()
    criterion = MultiMixLoss(num_tuples=9)
    torch.manual_seed(1)
    loss = criterion(logits, target, attention.softmax(dim=-1), clean_logits)
    grads = torch.autograd.grad(loss, (logits, attention))

    weights = seeded(criterion.sample_weights, logits, attention.softmax(dim=-1))
    expected = torch.autograd.grad(by_hand(weights, logits, target, clean_logits, 3., 0.), (logits, attention))
    torch.testing.assert_close(grads, expected, **CLOSE)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize('dense', [False, True])
def test_dtypes_of_loss_and_gradient(dtype, dense):
    logits, target, attention, clean_logits = problem(dense)
    attention = None if attention is None else attention.float()
    logits = logits.detach().to(dtype).requires_grad_()
    clean_logits = None if clean_logits is None else clean_logits.to(dtype)
    loss = MultiMixLoss(num_tuples=9)(logits, target, attention, clean_logits)
    loss.backward()
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.isfinite(loss) and logits.grad.dtype == dtype and torch.isfinite(logits.grad).all()


@pytest.mark.parametrize('teacher', [False, True])
def test_memory_kept_for_backward_does_not_grow_with_the_tuples(teacher):
    def kept(num_tuples):
        logits, target, attention, clean_logits = problem(dense=True)
        teacher_logits = torch.randn_like(logits) if teacher else None
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: (sizes.append(x.numel()), x)[1], lambda x: x):
            MultiMixLoss(num_tuples=num_tuples)(logits, target, attention, clean_logits, teacher_logits)
        return sum(sizes)

    assert 0 < kept(2000) == kept(20)


@pytest.mark.parametrize('clone', [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=['deepcopy', 'pickle'])
def test_copies_give_the_same_loss(clone):
    logits, target, *_ = problem()
    criterion = MultiMixLoss(9, alpha=(0.5, 2.), length=2, label_smoothing=0.1, criterion=SoftTargetCrossEntropy())
    copied = clone(criterion)
    assert repr(copied) == repr(criterion) and 'num_tuples=9' in repr(copied)
    assert torch.equal(seeded(copied, logits, target), seeded(criterion, logits, target))
    assert not criterion.state_dict()


@pytest.mark.parametrize('attention, message', [
    (torch.full((4, 2), float('nan')), 'attention must be finite'),
    (torch.tensor([[1., -0.5]] * 4), 'attention must be >= 0, got -0.5'),
    (torch.full((4, 3), 0.3), r'attention must be \[4, 2\], got shape \[4, 3\]'),
    ([[0.5, 0.5]] * 4, 'attention must be a floating-point tensor'),
])
def test_attention_is_checked(attention, message):
    with pytest.raises(ValueError, match=message):
        MultiMixLoss(num_tuples=5)(torch.zeros(4, 2, 3), torch.zeros(4, dtype=torch.long), attention)
