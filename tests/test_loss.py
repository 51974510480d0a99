import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.loss import SoftTargetCrossEntropy

from tests.support import naive
from tests.support.tensors import CLONES, CLOSE, seeded
from timm_multimix import PAPER, MultiMixLoss
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


def soft_cross_entropy(logits, target):
    return -(target * logits.log_softmax(dim=-1)).sum(dim=-1).mean()


def by_hand(weights, logits, target, clean_logits, clean_weight, label_smoothing, criterion=soft_cross_entropy,
            teacher_logits=None, gamma=1.):
    """Label smoothing and the clean term concern the targets alone, not the teacher."""
    target = naive.soft_targets(target, logits.shape[-1], label_smoothing)
    mixed_logits, mixed_target = naive.interpolate(weights, logits), naive.interpolate(weights, target)
    if teacher_logits is not None:
        teacher = naive.interpolate(weights, teacher_logits).softmax(dim=-1)
        mixed_target = gamma * mixed_target + (1. - gamma) * teacher
    mixed, clean = criterion(mixed_logits, mixed_target), criterion(clean_logits, target)
    return dict(loss=(mixed + clean_weight * clean) / (1. + clean_weight), mixed_loss=mixed, clean_loss=clean)


@pytest.mark.parametrize('soft', [False, True])
@pytest.mark.parametrize('label_smoothing', [0., 0.1])
@pytest.mark.parametrize('clean_weight', [0., 0.3])
@pytest.mark.parametrize('dense', [False, True])
@pytest.mark.parametrize('kwargs', [{}, PAPER, dict(length=2, alpha=1e-3), dict(gamma=0.3),
                                    dict(criterion=nn.BCEWithLogitsLoss())],
                         ids=['default', 'paper', 'short', 'distilled', 'another criterion'])
def test_loss_by_hand(dense, clean_weight, label_smoothing, soft, kwargs):
    logits, target, attention, clean_logits = problem(dense, soft=soft)
    teacher = dict(teacher_logits=torch.randn_like(logits)) if 'gamma' in kwargs else {}
    hand = {name: value for name, value in kwargs.items() if name in ('criterion', 'gamma')}
    criterion = MultiMixLoss(
        **{**kwargs, 'num_tuples': 9, 'clean_weight': clean_weight, 'label_smoothing': label_smoothing})
    weights = seeded(criterion.sample_weights, logits, attention)
    expected = by_hand(
        weights, logits, target, clean_logits if dense else logits, clean_weight, label_smoothing, **hand, **teacher)
    if not clean_weight:
        del expected['clean_loss']
    inputs = logits, target, attention, clean_logits
    torch.testing.assert_close(seeded(criterion.terms, *inputs, **teacher), expected, **CLOSE)
    loss = seeded(criterion, *inputs, **teacher)
    torch.testing.assert_close(
        torch.autograd.grad(loss, logits), torch.autograd.grad(expected['loss'], logits), **CLOSE)


def test_dense_without_attention_and_clean_logits():
    logits, target, *_ = problem(dense=True)
    criterion = MultiMixLoss(num_tuples=9)
    weights = seeded(criterion.sample_weights, logits)
    expected = by_hand(weights, logits, target, logits.mean(dim=1), 3., 0.)['loss']
    torch.testing.assert_close(seeded(criterion, logits, target), expected, **CLOSE)
    uniform = torch.full((4, 5), 0.2, dtype=torch.float64)
    torch.testing.assert_close(seeded(criterion, logits, target, uniform), expected, **CLOSE)


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
@pytest.mark.parametrize('elements, min_rows', [(1, 1), (1, 2), (50, 1), (1000, 1)])
def test_tuples_sampled_in_blocks_give_the_same_loss(elements, min_rows, dense, monkeypatch):
    monkeypatch.setattr(loss_module, '_BLOCK_ELEMENTS', {'cpu': elements})
    monkeypatch.setattr(loss_module, '_MIN_BLOCK_ROWS', min_rows)
    logits, target, attention, clean_logits = problem(dense)
    criterion = MultiMixLoss(num_tuples=9)
    weights = seeded(criterion.sample_weights, logits, attention)
    loss = seeded(criterion, logits, target, attention, clean_logits)
    expected = by_hand(weights, logits, target, clean_logits if dense else logits, 3., 0.)['loss']
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
def test_settings_reach_the_sampler(concentration, total):
    assert MultiMixLoss().sample_weights(problem(dense=True, positions=20)[0]).shape == (20, 410, 4)
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
    loss = seeded(criterion, logits, target, attention.softmax(dim=-1), clean_logits)
    grads = torch.autograd.grad(loss, (logits, attention))

    weights = seeded(criterion.sample_weights, logits, attention.softmax(dim=-1))
    expected = torch.autograd.grad(by_hand(weights, logits, target, clean_logits, 3., 0.)['loss'], (logits, attention))
    torch.testing.assert_close(grads, expected, **CLOSE)


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


@pytest.mark.parametrize('clone', CLONES.values(), ids=CLONES)
def test_copies_give_the_same_loss(clone):
    logits, target, *_ = problem()
    criterion = MultiMixLoss(9, alpha=(0.5, 2.), length=2, label_smoothing=0.1, criterion=SoftTargetCrossEntropy())
    copied = clone(criterion)
    assert repr(copied) == repr(criterion) and 'num_tuples=9' in repr(copied)
    assert torch.equal(seeded(copied, logits, target), seeded(criterion, logits, target))
    assert not criterion.state_dict()
