"""Laws of the functions, tried on inputs chosen by hypothesis."""
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from tests.support.strategies import alphas, batch_sizes, booleans, implementations, many, seeds
from timm_multimix import functional
from timm_multimix.functional import CONCENTRATIONS, dense_weights, mixed_cross_entropy, sample_dirichlet

SAME = dict(rtol=1e-9, atol=1e-10)


@st.composite
def problems(draw, soft=booleans, max_batch=16):
    """Draw logits `[b, r, c]`, a target and weights `[r, n, b]`."""
    batch_size, num_classes = draw(st.integers(1, max_batch)), draw(st.integers(1, 9))
    positions, num_tuples = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    torch.manual_seed(draw(seeds))
    logits = draw(st.floats(0., 100.)) * torch.randn(batch_size, positions, num_classes, dtype=torch.float64)
    target = torch.randint(num_classes, (batch_size,))
    if draw(soft):
        target = torch.randn(batch_size, num_classes, dtype=torch.float64).softmax(dim=-1)
    weights = sample_dirichlet(
        num_tuples, batch_size, draw(alphas), length=draw(st.integers(1, batch_size)), positions=positions,
        dtype=torch.float64)
    return logits.requires_grad_(), target, weights


@many
@given(seeds, st.integers(1, 50), batch_sizes, alphas, st.sampled_from(CONCENTRATIONS), st.data())
def test_rows_of_sample_dirichlet_are_distributions(seed, num_tuples, num_examples, alpha, concentration, data):
    length = data.draw(st.none() | st.integers(1, num_examples))
    positions = data.draw(st.none() | st.integers(1, 4))
    torch.manual_seed(seed)
    lam = sample_dirichlet(
        num_tuples, num_examples, alpha, concentration=concentration, length=length, positions=positions)
    assert lam.shape == (() if positions is None else (positions,)) + (num_tuples, num_examples)
    assert lam.dtype == torch.float32 and (lam >= 0.).all() and (lam.sum(dim=-1) - 1.).abs().max() < 1e-6
    assert ((lam > 0.).sum(dim=-1) <= (length or num_examples)).all()


@many
@given(problems(), st.integers(1, 8), st.sampled_from(functional.ACTIVATIONS), st.floats(-30., 18.), seeds)
def test_rows_of_attention_and_dense_weights_are_distributions(problem, width, activation, exponent, seed):
    _, _, lam = problem
    lam = lam.float()
    embeddings = 10. ** exponent * torch.randn(lam.shape[2], lam.shape[0], width)
    embeddings *= torch.rand(lam.shape[2], 1, 1) < 0.8
    attention = functional.spatial_attention(embeddings, activation=activation)
    # some images attend nowhere, or too little to be divided by their sum without losing digits
    for factor in (torch.ones(lam.shape[2], 1), torch.rand(lam.shape[2], 1) < 0.5, torch.tensor(1e-38)):
        weights = dense_weights(lam, attention * factor)
        for rows in (attention, weights):
            assert (rows >= 0.).all() and (rows.sum(dim=-1) - 1.).abs().max() < 1e-6
        assert (weights[lam == 0.] == 0.).all(), 'attention never adds an example to a tuple'
    assert torch.equal(dense_weights(lam, attention * 0.), lam)
    nothing = functional.spatial_attention(0. * embeddings)
    torch.testing.assert_close(nothing, torch.full_like(nothing, 1. / lam.shape[0]))


@many
@given(problems(), st.floats(0., 1.), st.floats(-1e3, 1e3), implementations, st.randoms(use_true_random=False))
def test_laws_of_the_loss(problem, label_smoothing, constant, implementation, random):
    """It is bounded below, its gradient in size; it knows no order of the batch and no constant in the logits."""
    logits, target, weights = problem
    kwargs = dict(label_smoothing=label_smoothing, implementation=implementation)
    loss = mixed_cross_entropy(logits, target, weights, **kwargs)
    grad, = torch.autograd.grad(loss, logits)
    assert loss >= -1e-12 * (1. + logits.abs().max())
    torch.testing.assert_close(grad.sum(dim=-1), torch.zeros(grad.shape[:2]).double(), rtol=0., atol=1e-12)
    # softmax minus target: the pull on an example is at most its share of the tuples
    assert grad.abs().sum() <= 2. + 1e-9
    if logits.shape[-1] == 1:
        assert abs(loss) < 1e-10 and grad.abs().max() < 1e-12

    other = 'chunked' if implementation == 'reference' else 'reference'
    same = mixed_cross_entropy(logits, target, weights, label_smoothing=label_smoothing, implementation=other)
    torch.testing.assert_close(same, loss, rtol=1e-9, atol=1e-12 * (1. + float(logits.detach().abs().max())))
    torch.testing.assert_close(torch.autograd.grad(same, logits)[0], grad, rtol=1e-9, atol=1e-12)

    order = list(range(len(logits)))
    random.shuffle(order)
    permuted = mixed_cross_entropy(logits[order] + constant, target[order], weights[..., order], **kwargs)
    torch.testing.assert_close(permuted, loss, **SAME)


@many
@given(problems(max_batch=300), st.floats(0., 1.), implementations)
def test_where_nothing_is_mixed_the_loss_is_plain_cross_entropy(problem, label_smoothing, implementation):
    """Tuples of one example each, and tuples of copies of one example."""
    logits, target, weights = problem
    kwargs = dict(label_smoothing=label_smoothing)
    loss = mixed_cross_entropy(
        logits[:, 0], target, torch.eye(len(logits)).double(), **kwargs, implementation=implementation)
    torch.testing.assert_close(loss, F.cross_entropy(logits[:, 0], target, **kwargs), **SAME)

    copies, same = logits[:1].expand_as(logits), target[:1].expand_as(target)
    loss = mixed_cross_entropy(copies, same, weights, **kwargs, implementation=implementation)
    expected = F.cross_entropy(logits[0], target[:1].expand(logits.shape[1], *target.shape[1:]), **kwargs)
    torch.testing.assert_close(loss, expected, **SAME)
