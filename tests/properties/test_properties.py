"""Properties that hold for any input, tried on inputs chosen by hypothesis."""
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from tests.support.strategies import alphas, batch_sizes, booleans, implementations, many, seeds
from timm_multimix import functional
from timm_multimix.functional import CONCENTRATIONS, dense_weights, mixed_cross_entropy, sample_dirichlet

scales = st.floats(0., 100.)
huge_scales = st.floats(0., 3e3)  # some logits exceed 1e4


@st.composite
def problems(draw, dtype=torch.float64, scale=scales, soft=booleans, max_batch=16):
    """Draw logits `[b, r, c]`, a target and weights `[r, n, b]`."""
    batch_size, num_classes = draw(st.integers(1, max_batch)), draw(st.integers(1, 9))
    positions, num_tuples = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    torch.manual_seed(draw(seeds))
    logits = draw(scale) * torch.randn(batch_size, positions, num_classes, dtype=dtype)
    target = torch.randint(num_classes, (batch_size,))
    if draw(soft):
        target = torch.randn(batch_size, num_classes, dtype=dtype).softmax(dim=-1)
    weights = sample_dirichlet(
        num_tuples,
        batch_size,
        draw(alphas),
        length=draw(st.integers(1, batch_size)),
        positions=positions,
        dtype=dtype,
    )
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
    assert (lam >= 0.).all() and (lam.sum(dim=-1) - 1.).abs().max() < 1e-6
    assert ((lam > 0.).sum(dim=-1) <= (length or num_examples)).all()


@many
@given(problems(), st.integers(1, 8), st.sampled_from(functional.ACTIVATIONS), st.floats(-20., 9.))
def test_rows_of_attention_and_dense_weights_are_distributions(problem, width, activation, exponent):
    _, _, lam = problem
    embeddings = 10. ** exponent * torch.randn(lam.shape[2], lam.shape[0], width)
    attention = functional.spatial_attention(embeddings, activation=activation)
    assert (attention >= 0.).all() and (attention.sum(dim=-1) - 1.).abs().max() < 1e-6
    weights = dense_weights(lam.float(), attention)
    assert (weights >= 0.).all() and (weights.sum(dim=-1) - 1.).abs().max() < 1e-6
    # attention raises or lowers a weight, but never adds an example to a tuple
    assert (weights[lam.float() == 0.] == 0.).all()


@many
@given(problems(), st.floats(0., 1.), implementations)
def test_the_loss_is_not_negative_and_its_gradient_is_bounded(problem, label_smoothing, implementation):
    logits, target, weights = problem
    loss = mixed_cross_entropy(
        logits, target, weights, label_smoothing=label_smoothing, implementation=implementation)
    grad, = torch.autograd.grad(loss, logits)
    assert loss >= -1e-12 * (1. + logits.abs().max())
    torch.testing.assert_close(grad.sum(dim=-1), torch.zeros(grad.shape[:2]).double(), rtol=0., atol=1e-12)
    # softmax minus target: the pull on an example is at most its share of the tuples
    assert grad.abs().sum() <= 2. + 1e-9
    if logits.shape[-1] == 1:
        assert abs(loss) < 1e-10 and grad.abs().max() < 1e-12


@many
@given(problems(), st.floats(0., 1.))
def test_implementations_agree(problem, label_smoothing):
    logits, target, weights = problem
    losses = [
        mixed_cross_entropy(logits, target, weights, label_smoothing=label_smoothing, implementation=name)
        for name in ('chunked', 'reference')
    ]
    scale = 1. + float(logits.detach().abs().max())
    torch.testing.assert_close(*losses, rtol=1e-9, atol=1e-12 * scale)
    grads = [torch.autograd.grad(loss, logits)[0] for loss in losses]
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-12)


@many
@given(problems(max_batch=300), st.floats(0., 1.), implementations)
def test_identity_weights_give_plain_cross_entropy(problem, label_smoothing, implementation):
    logits, target, _ = problem
    logits = logits[:, 0]
    loss = mixed_cross_entropy(
        logits,
        target,
        torch.eye(len(logits)).double(),
        label_smoothing=label_smoothing,
        implementation=implementation,
    )
    expected = F.cross_entropy(logits, target, label_smoothing=label_smoothing)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-10)


@many
@given(problems(), st.randoms(use_true_random=False), implementations)
def test_the_order_of_the_batch_does_not_matter(problem, random, implementation):
    logits, target, weights = problem
    order = list(range(len(logits)))
    random.shuffle(order)
    loss = mixed_cross_entropy(logits, target, weights, implementation=implementation)
    permuted = mixed_cross_entropy(logits[order], target[order], weights[..., order], implementation=implementation)
    torch.testing.assert_close(permuted, loss, rtol=1e-9, atol=1e-10)


@many
@given(problems(soft=st.just(False)), implementations)
def test_identical_images_of_one_class_give_plain_cross_entropy(problem, implementation):
    logits, target, weights = problem
    logits = logits[:1].expand_as(logits)
    target = target[:1].expand_as(target)
    loss = mixed_cross_entropy(logits, target, weights, implementation=implementation)
    expected = F.cross_entropy(logits[0], target[:1].expand(logits.shape[1]))
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-10)


@many
@given(problems(), st.floats(-1e3, 1e3), implementations)
def test_a_constant_added_to_all_logits_changes_nothing(problem, constant, implementation):
    logits, target, weights = problem
    losses = [
        mixed_cross_entropy(x, target, weights, implementation=implementation) for x in (logits, logits + constant)]
    torch.testing.assert_close(*losses, rtol=1e-9, atol=1e-10)
