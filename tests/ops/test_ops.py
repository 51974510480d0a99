import pytest
import torch
import torch.nn.functional as F

from tests.support.tensors import ANYWHERE, CLOSE, random_target, random_weights
from timm_multimix import MultiMixLoss
from timm_multimix.functional import mixed_cross_entropy
from timm_multimix.ops import IMPLEMENTATIONS, LossParams, chunked, reference_cross_entropy
from timm_multimix.training.cli.parser import FLAGS


def problem(kind='hard', batch_size=5, num_tuples=11, positions=7, num_classes=3):
    torch.manual_seed(0)
    logits = 3. * torch.randn(positions, batch_size, num_classes, dtype=torch.float64)
    weights = random_weights((positions, num_tuples, batch_size), length=min(3, batch_size))
    return logits.requires_grad_(), random_target(kind, batch_size, num_classes), weights


def loss_and_grad(implementation, logits, target, blocks, **kwargs):
    loss = implementation(logits, blocks, LossParams(target, 0.1, **kwargs))
    return loss.detach(), torch.autograd.grad(2.5 * loss, logits)[0]


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['hard', 'soft', 'multi-hot'])
def test_the_compiled_implementation_agrees(kind):
    for shape in ({}, dict(positions=1), dict(batch_size=1), dict(num_tuples=1), dict(num_classes=1)):
        logits, target, weights = problem(kind, **shape)
        expected = loss_and_grad(reference_cross_entropy, logits, target, [weights])
        found = loss_and_grad(IMPLEMENTATIONS['compiled'], logits, target, [weights])
        torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize('elements', [1, 6, 40, 99, 1000])  # one row, two, all tuples, three positions, all
@pytest.mark.parametrize('kind', ['hard', 'soft', 'multi-hot'])
@pytest.mark.parametrize('distilled', [False, True])
def test_any_chunks_and_blocks_give_the_same_loss(distilled, kind, elements, monkeypatch):
    """Chunks of tuples and positions, and blocks of weights, made when they are asked for, that do not divide both."""
    logits, target, weights = problem(kind)
    kwargs = dict(teacher_logits=torch.randn_like(logits), gamma=0.3) if distilled else {}
    expected = loss_and_grad(reference_cross_entropy, logits, target, iter(weights.split(3, dim=1)), **kwargs)
    torch.testing.assert_close(
        loss_and_grad(reference_cross_entropy, logits, target, [weights], **kwargs), expected, **CLOSE)
    monkeypatch.setattr(chunked, '_CHUNK_ELEMENTS', {'cpu': elements})
    monkeypatch.setattr(chunked, '_MIN_CHUNK_ROWS', 1)
    blocks = (block for block in weights.split(4, dim=1))
    torch.testing.assert_close(
        loss_and_grad(chunked.chunked_cross_entropy, logits, target, blocks, **kwargs), expected, **CLOSE)


def first_gradient(implementation, classifier):
    embeddings = torch.linspace(-1., 1., 12, dtype=torch.float64).view(4, 3).requires_grad_()
    logits = F.linear(embeddings, classifier)
    weights = random_weights((6, 4))
    loss = mixed_cross_entropy(logits, torch.tensor([0, 1, 1, 0]), weights, implementation=implementation)
    return torch.autograd.grad(loss, embeddings, create_graph=True)[0]


def test_second_derivative_is_refused_and_never_silently_wrong():
    torch.manual_seed(0)
    classifier = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    # the gradient is grad(logits) @ classifier: without the refusal one of its two derivatives would be missing
    through_logits = first_gradient('chunked', classifier)
    logits, target, weights = problem()
    loss = chunked.chunked_cross_entropy(logits, [weights], LossParams(target))
    through_the_incoming_gradient, = torch.autograd.grad(loss.square(), logits, create_graph=True)
    for grad in (through_logits, through_the_incoming_gradient):
        with pytest.raises(RuntimeError, match="no second derivatives.*implementation='reference'"):
            grad.square().sum().backward()


def test_second_derivative_of_the_reference():
    classifier = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)

    def grad(classifier):
        torch.manual_seed(0)  # the same weights in each call
        return first_gradient('reference', classifier)

    assert torch.autograd.gradcheck(grad, classifier)


def test_no_gradient_is_computed_without_need():
    logits, target, weights = problem()
    with torch.no_grad():
        assert not chunked.chunked_cross_entropy(logits, [weights], LossParams(target)).requires_grad
    loss = chunked.chunked_cross_entropy(logits.detach(), [weights], LossParams(target))
    assert not loss.requires_grad
    torch.testing.assert_close(loss, reference_cross_entropy(logits.detach(), [weights], LossParams(target)), **CLOSE)


def test_inputs_are_not_changed():
    logits, target, weights = problem('soft')
    copies = [x.detach().clone() for x in (logits, target, weights)]
    for implementation in (IMPLEMENTATIONS[name] for name in ANYWHERE):
        implementation(logits, [weights], LossParams(target, 0.1)).backward()
        assert all(torch.equal(a, b) for a, b in zip((logits, target, weights), copies, strict=True))


def test_weights_in_a_list_receive_their_gradient():
    logits, target = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    weights = torch.full((2, 4), 0.25, requires_grad=True)
    losses = [mixed_cross_entropy(logits, target, form) for form in (weights, [weights])]
    grads = [torch.autograd.grad(loss, weights)[0] for loss in losses]
    assert torch.equal(*grads) and grads[0].any()


def test_a_new_implementation_is_found_by_its_name(monkeypatch):
    """Once registered, it is available to the functions, the loss and the command line."""
    def doubled(logits, weight_blocks, params):
        return 2. * reference_cross_entropy(logits, weight_blocks, params)

    monkeypatch.setitem(IMPLEMENTATIONS, 'doubled', doubled)
    logits, target, weights = torch.randn(4, 3), torch.tensor([0, 1, 2, 0]), torch.full((2, 4), 0.25)
    losses = [mixed_cross_entropy(logits, target, weights, implementation=name) for name in ('doubled', 'reference')]
    assert losses[0] == 2. * losses[1]
    assert MultiMixLoss(8, implementation='doubled')(logits, target).isfinite()
    monkeypatch.undo()
    assert FLAGS['multimix_implementation'].choices == ('auto', *IMPLEMENTATIONS)
