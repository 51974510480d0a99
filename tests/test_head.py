import pytest
import torch
import torch.nn.functional as F
from timm.loss import SoftTargetCrossEntropy

from tests.support import naive
from tests.support.models import build, images, labels
from tests.support.tensors import seeded
from timm_multimix import PAPER, MultiMixHead
from timm_multimix.settings import MODES


@pytest.mark.parametrize('attention, activation, kwargs', [
    *((attention, activation, {}) for attention in ('gap', 'cam') for activation in ('relu', 'softmax')),
    ('none', 'relu', {}), (None, None, PAPER)])
def test_loss_and_gradients_are_those_of_the_written_equations(attention, activation, kwargs):
    """Without attention it is the pooled form."""
    model, target, x = build('resnet').double(), labels(3), images('resnet', 3).double()
    dense = dict(mode='multimix') if attention is None else dict(
        mode='dense-multimix', attention=attention, activation=activation)
    head = MultiMixHead(model, label_smoothing=0.1, **{**kwargs, **dense, 'num_tuples': 6})
    features = model.forward_features(x)
    loss, classifier = seeded(head, features, target), model.get_classifier()

    # Λ from the same seed: the loss draws alpha and Λ first, attention comes after
    if attention is None:
        embeddings = model.forward_head(features, pre_logits=True)
        weights = seeded(head.loss.sample_weights, model(x))
    else:
        embeddings = features.flatten(2).transpose(1, 2)
        lam = seeded(head.loss.sample_weights, head.outputs(features, target).dense_logits)
        weights = naive.dense_weights(lam, naive.attention(
            embeddings.detach(), attention, classifier.weight.detach(), target, activation))
    mixed = naive.multimix_loss(embeddings, classifier.weight, classifier.bias, target, weights, 0.1)
    clean, weight = F.cross_entropy(model(x), target, label_smoothing=0.1), kwargs.get('clean_weight', 3.)
    expected = (mixed + weight * clean) / (1. + weight)
    torch.testing.assert_close(loss, expected)
    parameters = list(model.parameters())
    grads = torch.autograd.grad(loss, parameters, retain_graph=True)
    torch.testing.assert_close(grads, torch.autograd.grad(expected, parameters))


@pytest.mark.parametrize('mode', MODES)
def test_mixed_rows_give_the_same_loss(mode):
    """The loss has the number of tuples and the clean weight that the rounded counts of rows amount to."""
    model, x, target = build('vit'), images('vit', 4), labels(4)
    head = MultiMixHead(model, mode, num_tuples=16, label_smoothing=0.1)
    features = model.forward_features(x)
    rows = seeded(head.mix, features, target)
    same = MultiMixHead(model, mode, num_tuples=4, label_smoothing=0.1)  # beside the rows of the clean batch
    torch.testing.assert_close(SoftTargetCrossEntropy()(*rows), seeded(same, features, target))


def test_attention_gets_a_gradient_only_on_request():
    model, x, target = build('resnet'), images('resnet', 3), labels(3)
    features = model.forward_features(x)
    losses, grads = [], []
    for attention_grad in (False, True):
        head = MultiMixHead(model, 'dense-multimix', num_tuples=10, attention_grad=attention_grad, attention='cam')
        assert head.outputs(features, target).attention.requires_grad == attention_grad
        losses.append(seeded(head, features, target))
        grads.append(torch.autograd.grad(losses[-1], features, retain_graph=True)[0])
    torch.testing.assert_close(*losses)
    assert not torch.allclose(*grads, rtol=1e-3)


@pytest.mark.parametrize('key', ['levit', 'repvit', 'deit_distilled'])
def test_cam_is_refused_without_a_linear_classifier(key):
    model = build(key)
    allowed = "allowed: attention 'gap' or 'none', attention_grad=False"
    with pytest.raises(ValueError, match=f"attention 'cam' needs a linear classifier.*{allowed}"):
        MultiMixHead(model, 'dense-multimix', attention='cam')
    with pytest.raises(ValueError, match=f'attention_grad=True needs a linear classifier.*{allowed}'):
        MultiMixHead(model, 'dense-multimix', attention_grad=True)
    MultiMixHead(model, 'dense-multimix', attention='none')
