import pytest
import torch
import torch.nn.functional as F

from tests.support import naive
from tests.support.tensors import ANYWHERE, CLOSE, SHAPES, random_target, random_weights
from timm_multimix import functional


def problem(shape, kind):
    """Student and teacher as (embeddings, weight, bias), target and weights."""
    torch.manual_seed(0)
    batch_size, length, num_tuples, positions, num_classes, width = SHAPES[shape]
    dense = () if positions is None else (positions,)
    shapes = (batch_size, *dense, width), (num_classes, width), (num_classes,)
    student, teacher = ([torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes] for _ in range(2))
    weights = random_weights((*dense, num_tuples, batch_size), length)
    return student, teacher, random_target(kind, batch_size, num_classes), weights


@pytest.mark.parametrize('implementation', ANYWHERE)
@pytest.mark.parametrize('gamma, label_smoothing', [(None, 0.), (None, 0.1), (0., 0.), (0.3, 0.1)])
@pytest.mark.parametrize('kind', ['hard', 'soft', 'multi-hot'])
@pytest.mark.parametrize('shape', SHAPES)
def test_loss_and_gradients_are_those_of_the_written_equations(shape, kind, gamma, label_smoothing, implementation):
    """With gamma there is a teacher, which receives no gradient."""
    student, teacher, target, weights = problem(shape, kind)
    kwargs = dict(label_smoothing=label_smoothing)
    distilled = {} if gamma is None else dict(teacher=teacher, gamma=gamma)
    expected = naive.multimix_loss(*student, target, weights, **kwargs, **distilled)
    if gamma is not None:
        kwargs.update(teacher_logits=F.linear(*teacher), gamma=gamma)
    loss = functional.mixed_cross_entropy(F.linear(*student), target, weights, implementation=implementation, **kwargs)
    torch.testing.assert_close(loss, expected, **CLOSE)
    torch.testing.assert_close(torch.autograd.grad(loss, student, retain_graph=True),
                               torch.autograd.grad(expected, student), **CLOSE)
    loss.backward()
    assert all(x.grad is None for x in teacher)


@pytest.mark.parametrize('implementation', ANYWHERE)
def test_gamma_of_one_ignores_the_teacher_bit_for_bit(implementation):
    student, teacher, target, weights = problem('dense', 'soft')
    logits, kwargs = F.linear(*student), dict(label_smoothing=0.1, implementation=implementation)
    losses = [functional.mixed_cross_entropy(logits, target, weights, **kwargs, **distilled)
              for distilled in ({}, dict(teacher_logits=F.linear(*teacher), gamma=1.))]
    grads = [torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in losses]
    assert torch.equal(*losses) and torch.equal(*grads)


def test_the_teachers_probabilities_are_constant_in_the_weights():
    """If the attention is differentiated, no gradient passes through the teacher's targets."""
    student, teacher, target, weights = problem('pooled', 'soft')
    weights.requires_grad_()
    loss = functional.mixed_cross_entropy(
        F.linear(*student), target, weights, teacher_logits=F.linear(*teacher), gamma=0.)
    constant = (weights @ F.linear(*teacher)).softmax(dim=-1).detach()
    expected = -(constant * (weights @ F.linear(*student)).log_softmax(dim=-1)).sum(dim=-1).mean()
    torch.testing.assert_close(
        torch.autograd.grad(loss, weights), torch.autograd.grad(expected, weights), **CLOSE)


def test_pairs_with_one_shared_lambda_are_manifold_mixup_at_the_last_layer():
    torch.manual_seed(0)
    embeddings = torch.randn(5, 3, dtype=torch.float64)
    classifier = torch.nn.Linear(3, 4).double()
    target = torch.randint(4, (5,))
    lam, partner = 0.3, torch.tensor([2, 0, 4, 1, 3])

    mixed = classifier(lam * embeddings + (1. - lam) * embeddings[partner])
    expected = lam * F.cross_entropy(mixed, target) + (1. - lam) * F.cross_entropy(mixed, target[partner])

    weights = lam * torch.eye(5, dtype=torch.float64) + (1. - lam) * torch.eye(5, dtype=torch.float64)[partner]
    loss = functional.mixed_cross_entropy(classifier(embeddings), target, weights)
    torch.testing.assert_close(loss, expected, **CLOSE)


def test_auto_passes_the_gradient_to_weights_and_soft_targets():
    torch.manual_seed(0)
    embeddings = torch.randn(3, 2, 4, dtype=torch.float64)
    classifier, bias = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    logits = F.linear(embeddings, classifier, bias)
    # through a softmax: off the simplex the two forms are different functions
    scores = torch.randn(2, 6, 3, dtype=torch.float64, requires_grad=True)
    hard = torch.randint(5, (3,))

    expected, = torch.autograd.grad(
        naive.multimix_loss(embeddings, classifier, bias, hard, scores.softmax(dim=-1)), scores)
    grad, = torch.autograd.grad(functional.mixed_cross_entropy(logits, hard, scores.softmax(dim=-1)), scores)
    torch.testing.assert_close(grad, expected, **CLOSE)

    soft = F.one_hot(hard, 5).double().requires_grad_()
    weights = scores.softmax(dim=-1).detach()
    grad, = torch.autograd.grad(functional.mixed_cross_entropy(logits, soft, weights), soft)
    log_probs = torch.einsum('rnb,brc->rnc', weights, logits).log_softmax(dim=-1)
    torch.testing.assert_close(grad, -torch.einsum('rnb,rnc->bc', weights, log_probs) / 12., **CLOSE)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_logits_are_accumulated_in_float32(dtype):
    torch.manual_seed(0)
    logits = torch.randn(5, 3, dtype=dtype, requires_grad=True)
    weights, target = random_weights((7, 5)), torch.randint(3, (5,))
    expected = functional.mixed_cross_entropy(logits.detach().double(), target, weights)
    with torch.autocast('cpu', torch.bfloat16):
        loss = functional.mixed_cross_entropy(logits, target, weights.float())
    loss.backward()
    assert loss.dtype == torch.float32 and logits.grad.dtype == dtype
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)


def test_low_precision_targets_are_smoothed_in_float32():
    target = torch.tensor([[0.25, 0.75, 0.]], dtype=torch.bfloat16)
    smoothed = functional.soft_targets(target, 3, 0.1)
    torch.testing.assert_close(smoothed, 0.9 * target.float() + 0.1 / 3)


@pytest.mark.parametrize('activation', ['relu', 'softmax'])
@pytest.mark.parametrize('kind', ['gap', 'cam', 'none'])
@pytest.mark.parametrize('hard', [True, False])
def test_spatial_attention_is_that_of_the_written_equations(kind, activation, hard):
    torch.manual_seed(0)
    embeddings = torch.randn(4, 5, 3, dtype=torch.float64)
    embeddings[0] = 0.  # its scores are all zero
    classifier = torch.randn(6, 3, dtype=torch.float64)
    target = random_target('hard' if hard else 'soft', 4, 6)
    attention = functional.spatial_attention(
        embeddings, kind, classifier_weight=classifier, target=target, activation=activation)
    expected = naive.attention(embeddings, kind, classifier, target, activation)
    torch.testing.assert_close(attention, expected, **CLOSE)


def test_dense_weights_and_their_fallback_are_those_of_the_written_equations():
    torch.manual_seed(0)
    lam = random_weights((4, 6, 5), length=2)
    attention = torch.rand(5, 4, dtype=torch.float64)
    attention[:, 1] = 0.  # no example attends to this position
    attention[:3, 2] = 0.  # here tuples of only the first three examples have no attention
    weights = functional.dense_weights(lam, attention)
    torch.testing.assert_close(weights, naive.dense_weights(lam, attention), **CLOSE)
    assert torch.equal(weights[1], lam[1])
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(4, 6, dtype=torch.float64))


@pytest.mark.parametrize('weights_shape, values_shape', [((3, 4), (4, 5)), ((2, 3, 4), (4, 5)), ((2, 3, 4), (4, 2, 5))])
def test_interpolate_is_that_of_the_written_equations(weights_shape, values_shape):
    torch.manual_seed(0)
    weights, values = random_weights(weights_shape), torch.randn(values_shape, dtype=torch.float64)
    torch.testing.assert_close(functional.interpolate(weights, values), naive.interpolate(weights, values), **CLOSE)


def test_weights_keep_their_precision_under_autocast():
    torch.manual_seed(0)
    embeddings = torch.randn(8, 9, 16)
    with torch.autocast('cpu', torch.bfloat16):
        attention = functional.spatial_attention(embeddings)
        weights = functional.dense_weights(functional.sample_dirichlet(50, 8, 1., positions=9), attention)
        mixed = functional.interpolate(weights, embeddings.bfloat16())
    for rows in (attention, weights):
        assert rows.dtype == torch.float32
        assert (rows.sum(dim=-1) - 1.).abs().max() < 1e-6
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, torch.einsum('rnb,brd->rnd', weights, embeddings.bfloat16().float()))


def test_attention_and_weights_under_vmap():
    x, lam, attention = torch.rand(4, 3, 5, 2), torch.rand(4, 5, 6, 3), torch.rand(4, 3, 5)
    mapped = torch.func.vmap(functional.spatial_attention)(x)
    torch.testing.assert_close(mapped, torch.stack([functional.spatial_attention(each) for each in x]))
    mapped = torch.func.vmap(functional.dense_weights)(lam, attention)
    torch.testing.assert_close(mapped, torch.stack([functional.dense_weights(*pair) for pair in zip(lam, attention)]))


@pytest.mark.parametrize('learned', [False, True])
def test_a_row_that_nothing_attends_to_changes_no_other_row(learned):
    """On the CPU, weights without such a row take a shorter path, which gives the same digits."""
    torch.manual_seed(0)
    lam = random_weights((3, 5, 4)).float()
    attention = torch.rand(4, 3)
    without = attention.clone().requires_grad_(learned)
    with_one = torch.cat([attention, torch.zeros(4, 1)], dim=1).requires_grad_(learned)
    kept = lam.clone()
    weights = functional.dense_weights(lam, without)
    longer = functional.dense_weights(torch.cat([lam, lam[:1]]), with_one)
    assert torch.equal(longer[:3], weights) and torch.equal(longer[3], lam[0]) and torch.equal(lam, kept)
    if learned:
        factor = torch.randn_like(weights)
        grads = [torch.autograd.grad((w[:3] * factor).sum(), a)[0] for w, a in ((weights, without), (longer, with_one))]
        assert torch.equal(grads[1][:, :3], grads[0]) and not grads[1][:, 3].any()
