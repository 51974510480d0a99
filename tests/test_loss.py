import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from timm.loss import BinaryCrossEntropy, SoftTargetCrossEntropy

from tests import naive
from timm_multimix import PAPER, MultiMixLoss
from timm_multimix import loss as loss_module

CLOSE = dict(rtol=1e-9, atol=1e-12)


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
        num_tuples=9, **{**kwargs, 'clean_weight': clean_weight, 'label_smoothing': label_smoothing})
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
    assert set(MultiMixLoss(num_tuples=9, **PAPER).terms(logits, target)) == {'loss', 'mixed_loss'}


@pytest.mark.parametrize('kwargs, kappa', [({}, 2.), (dict(alpha=0.5), 0.5), (dict(PAPER, alpha=1.), 6.)])
def test_what_tells_examples_apart(kwargs, kappa):
    """On uniform predictions the mixed loss has 1 / (κ + 1) of plain cross-entropy's gradient for it."""
    logits, target = torch.zeros(6, 3, requires_grad=True), torch.tensor([0, 1, 2, 0, 1, 2])
    torch.manual_seed(0)
    criterion = MultiMixLoss(num_tuples=50_000, **kwargs)
    grad, = torch.autograd.grad(criterion(logits, target), logits)
    plain, = torch.autograd.grad(F.cross_entropy(logits, target), logits)
    share = (1. / (kappa + 1.) + criterion.clean_weight) / (1. + criterion.clean_weight)
    torch.testing.assert_close(grad[0] - grad[1], share * (plain[0] - plain[1]), rtol=0.02, atol=1e-3)


@pytest.mark.parametrize('kwargs, margin', [
    (dict(clean_weight=0.), 5.8), (dict(clean_weight=1.), 6.3), (dict(), 6.7), (dict(clean_weight=0., alpha=128.), 9.5),
    (dict(clean_weight=1e3, label_smoothing=0.1), 4.5)])
def test_the_margin_that_the_loss_asks_for(kwargs, margin):
    """Of one number, how far the label's logit is above the others, the loss has its least where docs/learning.md says.

    With label smoothing of plain cross-entropy, log(0.91 / 0.01), as the mixed loss has hardly any weight there.
    """
    criterion, steps = MultiMixLoss(num_tuples=5_000, **kwargs), torch.arange(3., 12., 0.2)
    losses = [seeded(criterion, step * torch.eye(10), torch.arange(10)) for step in steps]
    assert float(steps[torch.stack(losses).argmin()]) == pytest.approx(margin, abs=0.25)


@pytest.mark.parametrize('dense', [False, True])
@pytest.mark.parametrize('num_tuples, clean_weight', [(8, 0.), (7, 0.), (8, 1.), (4, 1.), (8, 0.5), (1, 0.25)])
def test_mixed_rows_under_timms_criterion_give_the_same_loss(num_tuples, clean_weight, dense):
    logits, target, attention, clean_logits = problem(dense, positions=4)
    criterion = MultiMixLoss(num_tuples=num_tuples, clean_weight=clean_weight, label_smoothing=0.1)
    if clean_weight == 0.25 and dense:
        criterion.clean_weight = 1.  # 4 rows beside a batch of 4; pooled it is 1 row, copied
    expected = seeded(criterion, logits, target, attention, clean_logits)
    rows = seeded(criterion.mix, logits, target, attention, clean_logits)
    # targets are float32, as timm's
    torch.testing.assert_close(SoftTargetCrossEntropy()(*rows).double(), expected, rtol=1e-6, atol=0.)


@pytest.mark.parametrize('num_mixed, batch_size, clean_weight, copies', [
    (10, 4, 0., (1, 0)),
    (12, 4, 1., (1, 3)),
    (10, 4, 1., (1, 2)),
    (4, 8, 1., (2, 1)),
    (4, 4, 1., (1, 1)),
    (100, 4, 1e-3, (40, 1)),
])
def test_copies_of_rows_come_closest_to_the_clean_weight(num_mixed, batch_size, clean_weight, copies):
    assert MultiMixLoss(clean_weight=clean_weight).row_copies(num_mixed, batch_size) == copies


def test_a_clean_weight_that_would_need_too_many_copies_is_refused():
    with pytest.raises(ValueError, match='clean_weight must be 0 or at least 0.0005.*got 1e-06'):
        MultiMixLoss(clean_weight=1e-6).row_copies(1000, 32)
    with pytest.raises(ValueError, match='clean_weight must be at most 64.*got 65'):
        MultiMixLoss(clean_weight=65).row_copies(1000, 32)


def test_mix_takes_weights():
    logits, target, *_ = problem()
    criterion = MultiMixLoss(clean_weight=0.)
    mixed_logits, mixed_target = criterion.mix(logits, target, weights=torch.eye(4, dtype=torch.float64).flip(0))
    torch.testing.assert_close(mixed_logits, logits.flip(0))
    torch.testing.assert_close(mixed_target, F.one_hot(target.flip(0), 3).double())


@pytest.mark.parametrize('dense', [False, True])
def test_another_criterion(dense):
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
def test_tuples_sampled_in_blocks(elements, min_rows, dense, monkeypatch):
    monkeypatch.setattr(loss_module, '_BLOCK_ELEMENTS', {'cpu': elements})
    monkeypatch.setattr(loss_module, '_MIN_BLOCK_ROWS', min_rows)
    logits, target, attention, clean_logits = problem(dense)
    criterion = MultiMixLoss(num_tuples=9)
    blocks = list(criterion._weight_blocks(logits, attention))
    assert sum(block.shape[-2] for block in blocks) == 9
    assert all(block.shape[-2] <= min_rows or block.numel() <= elements for block in blocks)
    assert len(blocks) == 1 or elements < 1000

    weights = seeded(criterion.sample_weights, logits, attention)
    loss = seeded(criterion, logits, target, attention, clean_logits)
    expected = by_hand(weights, logits, target, clean_logits if dense else logits, 3., 0.)
    torch.testing.assert_close(loss, expected, **CLOSE)


def test_one_alpha_for_all_blocks_of_a_step(monkeypatch):
    monkeypatch.setattr(loss_module, '_BLOCK_ELEMENTS', {'cpu': 4000})
    logits, *_ = problem()
    criterion = MultiMixLoss(num_tuples=3000, alpha=(0.01, 100.))
    for seed in range(3):
        spread = [block.var(dim=0).mean() for block in seeded(lambda: list(criterion._weight_blocks(logits, None)))]
        assert len(spread) == 3 and max(spread) < 1.3 * min(spread)
        torch.manual_seed(seed)


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
def test_dtypes(dtype, dense):
    logits, target, attention, clean_logits = problem(dense)
    attention = None if attention is None else attention.float()
    logits = logits.detach().to(dtype).requires_grad_()
    clean_logits = None if clean_logits is None else clean_logits.to(dtype)
    loss = MultiMixLoss(num_tuples=9)(logits, target, attention, clean_logits)
    loss.backward()
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.isfinite(loss) and logits.grad.dtype == dtype and torch.isfinite(logits.grad).all()
    mixed, _ = MultiMixLoss(num_tuples=9).mix(logits, target, attention, clean_logits)
    assert mixed.dtype == loss.dtype


def test_memory_kept_for_backward_does_not_grow_with_the_tuples():
    def kept(num_tuples):
        logits, target, attention, clean_logits = problem(dense=True)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: (sizes.append(x.numel()), x)[1], lambda x: x):
            MultiMixLoss(num_tuples=num_tuples)(logits, target, attention, clean_logits)
        return sum(sizes)

    assert kept(2000) == kept(20)


@pytest.mark.parametrize('clone', [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=['deepcopy', 'pickle'])
def test_copies(clone):
    logits, target, *_ = problem()
    criterion = MultiMixLoss(9, (0.5, 2.), 2, 'example', 0.5, 0.1, criterion=SoftTargetCrossEntropy())
    copied = clone(criterion)
    assert repr(copied) == repr(criterion) and 'num_tuples=9' in repr(copied)
    assert torch.equal(seeded(copied, logits, target), seeded(criterion, logits, target))
    assert not criterion.state_dict()


def test_paper_setting():
    criterion = MultiMixLoss(**PAPER)
    assert (criterion.num_tuples, criterion.alpha, criterion.concentration) == (1000, (0.5, 2.), 'example')
    assert criterion.clean_weight == 0. and criterion.length is None


@pytest.mark.parametrize('attention, message', [
    (torch.full((4, 2), float('nan')), 'attention must be finite'),
    (torch.tensor([[1., -0.5]] * 4), 'attention must be >= 0, got -0.5'),
    (torch.full((4, 3), 0.3), r'attention must be \[b, r\] = \[4, 2\], got \[4, 3\]'),
    ([[0.5, 0.5]] * 4, 'attention must be a floating-point tensor'),
])
def test_attention_is_checked(attention, message):
    with pytest.raises(ValueError, match=message):
        MultiMixLoss(num_tuples=5)(torch.zeros(4, 2, 3), torch.zeros(4, dtype=torch.long), attention)
