"""Options that a timm user turns on around a model: precision, memory formats, checkpointing, dropout, compilation."""
import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn as nn
from torch._dynamo.testing import CompileCounter

from tests.support.models import NUM_CLASSES, build, gradients, images, labels
from timm_multimix import MultiMixHead, MultiMixLoss, MultiMixTask
from timm_multimix.settings import MODES

KEYS = ('resnet', 'mobilenetv4', 'swin', 'vit', 'levit')


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


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('key', KEYS)
def test_channels_last_gives_the_same_loss(key, mode):
    plain, model = build(key), build(key).to(memory_format=torch.channels_last)
    expected = run(plain, key, mode)[1]
    result = run(model, key, mode, x=images(key, 4).contiguous(memory_format=torch.channels_last))[1]
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


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('key', KEYS)
def test_autocast_bfloat16(key, mode):
    others = [dict(criterion_kwargs=dict(loss_type='bce')), dict(teacher_decay=0.9, single_view=True)]
    for kwargs in [{}, *(others if key == 'vit' else [])]:
        with torch.autocast('cpu', torch.bfloat16):
            done = run(build(key), key, mode, **kwargs)
        check_trained(done)
        assert done[1]['output'].dtype == torch.bfloat16
        exact = run(build(key), key, mode, **kwargs)[1]['loss']
        torch.testing.assert_close(done[1]['loss'], exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('mode', MODES)
def test_low_precision_weights(mode, dtype):
    """The loss is computed in float32 whatever the weights are; class indices stay integers."""
    done = run(build('vit').to(dtype), 'vit', mode, x=images('vit', 4).to(dtype))
    check_trained(done)
    assert done[1]['output'].dtype == dtype
    torch.testing.assert_close(done[1]['loss'], run(build('vit'), 'vit', mode)[1]['loss'], rtol=0.05, atol=0.05)


def test_cam_attention_with_low_precision_weights():
    model = build('vit').to(torch.bfloat16)
    check_trained(run(model, 'vit', x=images('vit', 4).bfloat16(), attention='cam'))


@pytest.mark.parametrize('key', ['resnet', 'efficientnet', 'vit', 'convnext_atto', 'mobilenetv3', 'cait'])
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


def test_dropout_between_embedding_and_classifier_is_detected():
    """If dropout follows the embedding, the classifier on the embedding is not the whole head."""
    class Late(nn.Module):
        num_classes, num_features, drop_rate = NUM_CLASSES, 8, 0.5

        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 4, 4)
            self.fc = nn.Linear(8, NUM_CLASSES)

        def forward_features(self, x):
            return self.stem(x)

        def forward_head(self, x, pre_logits=False):
            x = x.mean((2, 3))
            return x if pre_logits else self.fc(nn.functional.dropout(x, self.drop_rate, self.training))

        def forward(self, x):
            return self.forward_head(self.forward_features(x))

    model = Late().train()
    head = MultiMixHead(model, 'dense-multimix', num_tuples=8, input_size=(3, 16, 16))
    assert head.dense.classifier is None
    with pytest.raises(ValueError, match="attention 'cam' needs a linear classifier"):
        MultiMixHead(model, 'dense-multimix', attention='cam', input_size=(3, 16, 16))
    features = model.forward_features(torch.randn(4, 3, 16, 16))
    assert not torch.equal(head.dense(features)[0], head.dense(features)[0]), 'dropout is drawn in each call'
    head(features, labels(4)).backward()
    assert all(p.grad is not None for p in model.parameters())
    model.drop_rate = 0.
    assert MultiMixHead(model, 'dense-multimix', input_size=(3, 16, 16)).dense.classifier is model.fc


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('key', ['resnet', 'vit', *(
    pytest.param(key, marks=pytest.mark.slow) for key in ('mobilenetv4', 'swin'))])
def test_torch_compile_without_a_graph_break(key, mode):
    expected = run(build(key), key, mode)[1]
    task = MultiMixTask(build(key), mode=mode, num_tuples=8, verbose=False)
    assert task.compile(backend='eager', fullgraph=True) is task.get_eval_model()
    assert list(task.get_checkpoint_state()['state_dict']) == list(build(key).state_dict())
    task.eval()
    with torch.no_grad():
        assert torch.equal(task.get_eval_model()(images(key)), build(key)(images(key)))
    task.train()
    torch.manual_seed(0)
    result = task(images(key, 4), labels(4))
    for name in expected:
        torch.testing.assert_close(result[name], expected[name])
    result['loss'].backward()
    torch._dynamo.reset()


@pytest.mark.parametrize('output, message', [
    (lambda x: (x, x), 'logits must be a floating-point tensor .*got tuple'),
    (lambda x: SimpleNamespace(logits=x), 'logits must be a tensor, got a SimpleNamespace: take its .logits'),
])
def test_a_model_that_does_not_return_one_tensor_is_refused_at_the_first_step(output, message):
    class Model(nn.Module):
        def forward(self, x):
            return output(x.mean((2, 3)))

    for step in (MultiMixTask(Model(), verbose=False), lambda x, y: MultiMixLoss()(Model()(x), y)):
        with pytest.raises(ValueError, match=message):
            step(torch.randn(2, 3, 4, 4), torch.tensor([0, 1]))


def test_models_from_outside_timm_work_pooled_and_are_refused_dense():
    """Pooled mode takes any module that returns logits; dense mode needs timm's three methods and says so."""
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, NUM_CLASSES)

        def forward(self, x):
            return self.fc(x.mean((2, 3)))

    x = torch.randn(4, 3, 8, 8)
    done = run(Bare(), None, 'multimix', x=x)
    check_trained(done)
    with pytest.raises(ValueError, match="Bare has no forward_features and forward_head.*mode 'multimix'"):
        MultiMixTask(Bare(), mode='dense-multimix', verbose=False)

    class NoEmbedding(Bare):
        def forward_features(self, x):
            return x

        def forward_head(self, x):
            return self.fc(x.mean((2, 3)))

    with pytest.raises(ValueError, match='NoEmbedding: forward_head must take pre_logits=True'):
        MultiMixTask(NoEmbedding(), mode='dense-multimix', verbose=False)


@pytest.mark.parametrize('key', ['mobilenetv4', 'levit', 'repvit'])
def test_dense_steps_leave_the_statistics_of_a_plain_step(key):
    model, x = build(key).train(), images(key, 4)
    plain = copy.deepcopy(model)
    torch.manual_seed(0)
    plain(x)
    run(model, key, x=x)
    for (name, buffer), (_, expected) in zip(model.named_buffers(), plain.named_buffers()):
        assert torch.equal(buffer, expected), name


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
