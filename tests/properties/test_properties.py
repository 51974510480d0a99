"""Laws of functions, loss, head and drop-in on inputs chosen by hypothesis, also at the ends of the number formats."""
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.loss import SoftTargetCrossEntropy

from tests.support.models import Positions
from tests.support.strategies import alphas, batch_sizes, booleans, implementations, many, seeds
from timm_multimix import MultiMix, MultiMixHead, MultiMixLoss, functional
from timm_multimix.functional import ACTIVATIONS, CONCENTRATIONS, dense_weights, mixed_cross_entropy, sample_dirichlet
from timm_multimix.rows import mix

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


BATCHES = st.sampled_from(['random', 'one class', 'identical images', 'identical images of one class'])
dtypes = st.sampled_from([torch.float16, torch.bfloat16])
fewer = settings(many, max_examples=80)  # each example is several forwards and backwards


def make_batch(kind, logits, num_classes, soft):
    """Make logits and targets of the given kind of batch."""
    target = torch.randint(num_classes, logits.shape[:1])
    if kind.endswith('one class'):
        target = target[:1].expand_as(target)
    if kind.startswith('identical'):
        logits = logits[:1].expand_as(logits)
    if soft:
        target = torch.nn.functional.one_hot(target, num_classes).float()
    return logits.clone(), target


@fewer
@given(
    seeds, dtypes, batch_sizes, st.sampled_from([2, 2, 3, 10]), alphas, implementations, BATCHES,
    st.floats(0., 1.), booleans, booleans, st.data())
def test_the_largest_logits_give_finite_losses_and_gradients(
        seed, dtype, batch_size, num_classes, alpha, implementation, kind, label_smoothing, soft, teacher, data):
    """Logits of the largest finite size and either sign, among ordinary ones."""
    positions = data.draw(st.none() | st.integers(1, 4))
    torch.manual_seed(seed)
    shape = (batch_size, num_classes) if positions is None else (batch_size, positions, num_classes)
    size = torch.where(torch.rand(shape) < data.draw(st.floats(0., 1.)), torch.finfo(dtype).max, 3.)
    logits, target = make_batch(kind, (size * torch.randn(shape).sign()).to(dtype), num_classes, soft)
    logits.requires_grad_()
    wide = logits.detach().float().requires_grad_()
    attention = None if positions is None else torch.rand(batch_size, positions)
    criterion = MultiMixLoss(
        data.draw(st.integers(1, 8)), alpha=alpha, clean_weight=data.draw(st.sampled_from([0., 1., 1000.])),
        label_smoothing=label_smoothing, implementation=implementation)
    teacher_logits = logits.detach().flip(0) if teacher else None
    for x in (logits, wide):
        torch.manual_seed(seed)
        loss = criterion(x, target, attention, teacher_logits=teacher_logits)
        loss.backward()
        assert loss.dtype == torch.float32 and torch.isfinite(loss)
        assert torch.isfinite(x.grad).all()
    # only in float32, as coarser rounding changes the sums over the classes
    assert wide.grad.sum(dim=-1).abs().max() < 1e-5
    assert wide.grad.abs().sum() <= 2.001
    mixed_logits, mixed_target = mix(MultiMixLoss(3, alpha=alpha, clean_weight=0.), logits, target, attention)
    assert torch.isfinite(mixed_logits).all()
    assert (mixed_target.sum(dim=-1) - 1.).abs().max() < 1e-5


@pytest.mark.parametrize('implementation', ['chunked', 'reference'])
@pytest.mark.parametrize('clean_weight', [0., 1.])
def test_a_loss_beyond_float32_is_clamped_but_its_gradient_is_not(implementation, clean_weight):
    """Every image is as wrong as bfloat16 can express: the loss would be 6.8e38, its gradients are +-1 / b."""
    torch.manual_seed(0)
    largest = torch.finfo(torch.bfloat16).max
    logits = torch.tensor([[largest, -largest]] * 4).bfloat16().requires_grad_()
    loss = MultiMixLoss(16, clean_weight=clean_weight, implementation=implementation)(logits, torch.ones(4).long())
    loss.backward()
    assert loss.item() == pytest.approx(1e30, rel=1e-5)
    torch.testing.assert_close(logits.grad.float().sum(dim=0), torch.tensor([1., -1.]), rtol=1e-2, atol=0.)


@pytest.mark.parametrize('implementation', ['chunked', 'reference'])
def test_ordinary_images_keep_their_gradient_beside_the_largest_logits(implementation):
    """The weights are one-hot, so in effect this is the clean loss alone."""
    torch.manual_seed(0)
    logits = torch.randn(4, 5)
    logits[0] = torch.finfo(torch.bfloat16).max * torch.tensor([1., -1., 1., -1., 1.])
    logits.requires_grad_()
    target = torch.tensor([1, 2, 3, 4])
    loss = MultiMixLoss(64, alpha=1e-6, clean_weight=1., implementation=implementation)(logits, target)
    grad, = torch.autograd.grad(loss, logits)
    pull = logits.detach().softmax(dim=-1) - torch.nn.functional.one_hot(target, 5)
    ratio = grad[1:] / pull[1:]  # the share of the image in the tuples, the same for all classes
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-4, atol=0.)


def make_images(kind, batch_size, size, scale, num_classes):
    images, target = make_batch(kind, scale * torch.randn(batch_size, 3, size, size), num_classes, soft=False)
    if kind == 'random':
        images *= torch.rand(batch_size, 1, 1, 1) < 0.5  # an image of zeros has no attention
    return images, target


@fewer
@given(
    seeds, batch_sizes, st.sampled_from([2, 7]), alphas, BATCHES, st.sampled_from(['multimix', 'dense-multimix']),
    st.integers(1, 3), st.floats(-3., 4.).map(lambda exponent: 10. ** exponent), booleans, st.data())
def test_head_and_drop_in_on_extreme_batches(
        seed, batch_size, num_classes, alpha, kind, mode, size, scale, is_head, data):
    torch.manual_seed(seed)
    model = Positions(num_classes).train()
    kwargs = dict(
        mode=mode, alpha=alpha, num_tuples=data.draw(st.integers(1, 20)), label_smoothing=data.draw(st.floats(0., 1.)),
        concentration=data.draw(st.sampled_from(CONCENTRATIONS)))
    if mode == 'dense-multimix':
        kwargs.update(input_size=(3, size, size), activation=data.draw(st.sampled_from(ACTIVATIONS)))
    images, target = make_images(kind, batch_size, size, scale, num_classes)
    before = images.clone()
    if is_head:
        head = MultiMixHead(model, clean_weight=data.draw(st.floats(0., 2.)), **kwargs)
        assert torch.equal(head(model.forward_features(images)), model(images))
        loss = head(model.forward_features(images), target)
    else:
        mixing = data.draw(st.sampled_from([{}, dict(mixup_alpha=1.), dict(cutmix_alpha=1.)]))
        clean_weight = data.draw(st.sampled_from([0., 1.])) if batch_size <= 64 else 0.
        mixup_fn = MultiMix(num_classes=num_classes, clean_weight=clean_weight, **mixing, **kwargs).attach(model)
        x, y = mixup_fn(images, target)
        logits = model(x)
        loss = SoftTargetCrossEntropy()(logits, y)
        assert logits.shape == y.shape and torch.isfinite(logits).all()
        assert (y >= 0.).all() and (y.sum(dim=-1) - 1.).abs().max() < 1e-5
        if kind.endswith('one class') and kwargs['label_smoothing'] == 0.:
            assert (y[:, target[0]] - 1.).abs().max() < 1e-5
    loss.backward()
    assert torch.equal(images, before)
    assert torch.isfinite(loss) and loss >= -1e-5 * (1. + scale)
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    # the bias gets the sum of the gradients of all logits, which sum to zero over the classes
    assert model.fc.bias.grad.sum().abs() < 1e-5
