"""Options that a timm user turns on around a model: precision, memory formats, checkpointing, dropout, compilation."""
from types import SimpleNamespace

import pytest
import torch
import torch.nn as nn
from torch._dynamo.testing import CompileCounter

from tests.support.models import NUM_CLASSES, Positions, build, gradients, images, labels
from timm_multimix import MultiMixHead, MultiMixLoss, MultiMixTask


def run(model, key, mode='dense-multimix', seed=0, x=None, **kwargs):
    task = MultiMixTask(model, mode=mode, num_tuples=8, verbose=False, **kwargs)
    task.train()
    torch.manual_seed(seed)
    return task, task(images(key, 4) if x is None else x, labels(4))


def check_trained(task):
    task_loss = task[1]['loss']
    assert task_loss.dtype == torch.float32 and torch.isfinite(task_loss)
    task_loss.backward()
    for name, parameter in task[0].get_eval_model().named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize('key', ['resnet', 'mobilenetv4', 'swin', 'vit', 'levit'])
def test_channels_last_gives_the_same_loss(key):
    plain, model = build(key), build(key).to(memory_format=torch.channels_last)
    expected = run(plain, key)[1]
    result = run(model, key, x=images(key, 4).contiguous(memory_format=torch.channels_last))[1]
    torch.testing.assert_close(result['loss'], expected['loss'], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('key', ['resnet', 'swin', 'vit'])
def test_grad_checkpointing_gives_the_same_gradients(key):
    losses, grads = [], []
    for enable in (False, True):
        model = build(key)
        model.set_grad_checkpointing(enable)
        result = run(model, key)[1]
        result['loss'].backward()
        losses.append(result['loss'].detach())
        grads.append(gradients(model))
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*grads, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('kwargs', [{}, dict(mode='multimix'), dict(attention='cam')], ids=str)
def test_low_precision_weights(kwargs, dtype):
    """The loss is computed in float32 whatever the weights are; class indices stay integers."""
    done = run(build('vit').to(dtype), 'vit', x=images('vit', 4).to(dtype), **kwargs)
    check_trained(done)
    assert done[1]['output'].dtype == dtype
    torch.testing.assert_close(done[1]['loss'], run(build('vit'), 'vit', **kwargs)[1]['loss'], rtol=0.05, atol=0.05)


@pytest.mark.parametrize('key', ['resnet', 'vit', 'convnext', 'mobilenetv4'])
def test_dropout_in_the_head(key):
    """Dense logits and embeddings come from one call of the head, with the same dropout mask."""
    model = build(key, drop_rate=0.5).train()
    head = MultiMixHead(model, 'dense-multimix')
    features = model.forward_features(images(key, 4))
    logits, embeddings = head.dense(features)
    assert head.dense.classifier is not None
    torch.testing.assert_close(head.dense.classifier(embeddings), logits)
    assert (embeddings == 0).double().mean() > 0.3, 'there is dropout, and it is drawn per position'
    again = head.dense(features)[0]
    assert not torch.equal(again, logits)
    model.eval()
    torch.testing.assert_close(*(head.dense(features)[0] for _ in range(2)), rtol=0, atol=0)


@pytest.mark.parametrize('output, message', [
    (lambda x: (x, x), 'logits must be a floating-point tensor .*got tuple'),
    (lambda x: SimpleNamespace(logits=x), 'logits must be a tensor, got SimpleNamespace: take its .logits'),
])
def test_a_model_that_does_not_return_one_tensor_is_refused_at_the_first_step(output, message):
    class Model(nn.Module):
        def forward(self, x):
            return output(x.mean((2, 3)))

    for step in (MultiMixTask(Model(), verbose=False), lambda x, y: MultiMixLoss()(Model()(x), y)):
        with pytest.raises(ValueError, match=message):
            step(torch.randn(2, 3, 4, 4), torch.tensor([0, 1]))


def test_models_from_outside_timm():
    """Pooled mode takes any module that returns logits; dense mode needs timm's methods in full."""
    bare = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, NUM_CLASSES))
    check_trained(run(bare, None, 'multimix', x=torch.randn(4, 3, 8, 8)))

    class NoEmbedding(Positions):
        def forward_head(self, x):
            return super().forward_head(x)

    with pytest.raises(ValueError, match='NoEmbedding: forward_head must take pre_logits=True'):
        MultiMixTask(NoEmbedding(NUM_CLASSES), mode='dense-multimix', verbose=False)


def test_a_compiled_step_does_not_compile_again():
    """With the whole step in torch.compile, there is one graph before the loss and none for its draws."""
    model, criterion = nn.Linear(8, NUM_CLASSES), MultiMixLoss(num_tuples=20, alpha=(0.5, 2.))
    counter = CompileCounter()

    @torch.compile(backend=counter)
    def step(x, target):
        return criterion(model(x), target)

    losses = set()
    for _ in range(50):
        loss = step(torch.ones(4, 8), labels(4))
        loss.backward()
        losses.add(loss.item())
    assert counter.frame_count <= 2
    assert len(losses) == 50, 'every step draws anew'
    torch._dynamo.reset()
