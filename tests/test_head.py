import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from timm.loss import SoftTargetCrossEntropy

from tests.support import naive
from tests.support.models import MODELS, build, gradients, images, labels
from timm_multimix import PAPER, MultiMixHead
from timm_multimix.rows import row_counts

MODES = ('multimix', 'dense-multimix')


def seeded(function, *args):
    torch.manual_seed(3)
    return function(*args)


@pytest.mark.parametrize('key', MODELS)
def test_without_target_it_is_the_models_own_head(key):
    model, x = build(key), images(key)
    keys, parameters = list(model.state_dict()), list(model.parameters())
    head = MultiMixHead(model, 'dense-multimix', input_size=MODELS[key].input_size)
    with torch.no_grad():
        assert torch.equal(head(model.forward_features(x)), model(x))
    assert list(model.state_dict()) == keys
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert not head.state_dict() and not list(head.parameters())


@pytest.mark.parametrize('attention', ['gap', 'cam', 'none'])
@pytest.mark.parametrize('activation', ['relu', 'softmax'])
def test_dense_loss_and_gradients_are_those_of_the_written_equations(attention, activation):
    model, target = build('resnet').double(), labels(3)
    x = images('resnet', 3).double()
    head = MultiMixHead(
        model, 'dense-multimix', num_tuples=6, attention=attention, activation=activation, label_smoothing=0.1)
    features = model.forward_features(x)
    loss = seeded(head, features, target)

    embeddings = features.flatten(2).transpose(1, 2)
    classifier = model.get_classifier()
    a = naive.attention(embeddings.detach(), attention, classifier.weight.detach(), target, activation)
    # Λ from the same seed: the loss draws alpha and Λ first, attention comes after
    lam = seeded(head.loss.sample_weights, head.outputs(features, target).dense_logits)
    weights = naive.dense_weights(lam, a)
    mixed = naive.multimix_loss(embeddings, classifier.weight, classifier.bias, target, weights, 0.1)
    clean = F.cross_entropy(model(x), target, label_smoothing=0.1)
    expected = (mixed + 3. * clean) / 4.
    torch.testing.assert_close(loss, expected)

    grads = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    torch.testing.assert_close(grads, torch.autograd.grad(expected, list(model.parameters())))


def test_pooled_loss_and_gradients_are_those_of_the_written_equations():
    model, target = build('vit').double(), labels(4)
    x = images('vit', 4).double()
    head = MultiMixHead(model, 'multimix', **{**PAPER, 'num_tuples': 6})
    features = model.forward_features(x)
    loss = seeded(head, features, target)

    lam = seeded(head.loss.sample_weights, model(x))
    embeddings, classifier = model.forward_head(features, pre_logits=True), model.get_classifier()
    expected = naive.multimix_loss(embeddings, classifier.weight, classifier.bias, target, lam)
    torch.testing.assert_close(loss, expected)
    parameters = list(model.parameters())
    grads = torch.autograd.grad(loss, parameters, retain_graph=True)
    torch.testing.assert_close(grads, torch.autograd.grad(expected, parameters))


@pytest.mark.parametrize('mode', MODES)
def test_mixed_rows_give_the_same_loss(mode):
    """The loss has the number of tuples and the clean weight that the rounded counts of rows amount to."""
    model, x, target = build('vit'), images('vit', 4), labels(4)
    head = MultiMixHead(model, mode, num_tuples=16, label_smoothing=0.1)
    features, positions = model.forward_features(x), 1 if mode == 'multimix' else 16
    logits, targets = seeded(head.mix, features, target)
    num_tuples, copies = row_counts(head.loss, 4, None if mode == 'multimix' else 16)
    assert logits.shape == targets.shape == (num_tuples * positions + 4 * copies, 7)
    assert (num_tuples, copies * 4) == (4, 3 * 4 * positions)
    same = MultiMixHead(model, mode, num_tuples=num_tuples, label_smoothing=0.1)
    torch.testing.assert_close(SoftTargetCrossEntropy()(logits, targets), seeded(same, features, target))


@pytest.mark.parametrize('key, kwargs', [
    *((key, {}) for key in ('vit', 'vit_registers', 'cait', 'coat_lite', 'swin', 'mobilenetv4', 'levit', 'repvit')),
    ('cait', PAPER)])
def test_every_parameter_gets_a_gradient(key, kwargs):
    """Also without the clean term: otherwise DistributedDataParallel stops at the second step. Dense is the default."""
    model = build(key).train()
    head = MultiMixHead(model, input_size=MODELS[key].input_size, **{**kwargs, 'num_tuples': 10})
    head(model.forward_features(images(key, 3)), labels(3)).backward()
    for name, grad in gradients(model).items():
        assert grad is not None and torch.isfinite(grad).all(), name


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


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('clone', [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=['deepcopy', 'pickle'])
def test_copies_refer_to_the_copied_model(clone, mode):
    model, x, target = build('efficientnet').train(), images('efficientnet', 3), labels(3)
    head = MultiMixHead(model, mode, num_tuples=10)
    copied_model, copied = clone((model, head))
    assert copied.model is copied_model and copied_model is not model
    with torch.no_grad():
        for p in copied_model.parameters():
            p.zero_()
    expected = seeded(head, model.forward_features(x), target)
    assert not torch.equal(seeded(copied, copied_model.forward_features(x), target), expected)


def test_one_hot_targets_give_the_loss_of_class_indices():
    model, x, target = build('vit'), images('vit', 3), labels(3)
    for mode, kwargs in (('multimix', {}), ('dense-multimix', {}), ('dense-multimix', dict(attention='cam'))):
        head = MultiMixHead(model, mode, num_tuples=10, label_smoothing=0.1, **kwargs)
        features = model.forward_features(x)
        one_hot = F.one_hot(target, 7).float()
        torch.testing.assert_close(seeded(head, features, one_hot), seeded(head, features, target))
