import copy
import random

import numpy as np
import pytest
import timm
import torch
import torch.nn as nn
from torch.distributed import fsdp
from torch.distributed.device_mesh import init_device_mesh

from tests.support.models import MODELS, NUM_CLASSES, build, images, labels
from timm_multimix import MultiMixHead
from timm_multimix.embeddings import DenseEmbeddings

CLOSE = dict(rtol=1e-4, atol=1e-5)
AVERAGE_THEN_LINEAR = ('resnet', 'efficientnet', 'swin')
WITHOUT_LINEAR = ('levit', 'repvit', 'deit_distilled')  # a batch norm first, or two heads


def single_positions(features, spec):
    """Yield each position as a separate image; its token also replaces the prefix tokens."""
    if spec.format == 'NLC':
        for j in range(spec.num_prefix_tokens, features.shape[1]):
            yield torch.cat([features[:, j:j + 1]] * (1 + spec.num_prefix_tokens), dim=1)
    else:
        height, width = features.shape[2:] if spec.format == 'NCHW' else features.shape[1:3]
        for i in range(height):
            for j in range(width):
                if spec.format == 'NCHW':
                    yield features[:, :, i:i + 1, j:j + 1]
                else:
                    yield features[:, i:i + 1, j:j + 1]


@pytest.mark.parametrize('key', MODELS)
def test_dense_logits_are_the_head_applied_position_by_position(key):
    """A head without a target is the model's own; it has no parameters, and the model keeps its own."""
    spec, model, x = MODELS[key], build(key), images(key)
    keys, parameters = list(model.state_dict()), list(model.parameters())
    head = MultiMixHead(model, 'dense-multimix', input_size=spec.input_size)
    assert list(model.state_dict()) == keys and not head.state_dict() and not list(head.parameters())
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    dense = head.dense
    assert (dense.layout.format, dense.layout.num_prefix_tokens) == (spec.format, spec.num_prefix_tokens)
    with torch.no_grad():
        features = model.forward_features(x)
        assert torch.equal(head(features), model(x))
        logits, embeddings = dense(features)
        parts = list(single_positions(features, spec))
        expected = torch.stack([model.forward_head(part) for part in parts], dim=1)
        expected_embeddings = torch.stack([model.forward_head(part, pre_logits=True) for part in parts], dim=1)

    assert logits.shape == (2, len(parts), NUM_CLASSES) and len(parts) > 1
    assert expected.std(dim=1).min() > 1e-3, 'positions must differ for the test to mean anything'
    torch.testing.assert_close(logits, expected, **CLOSE)
    torch.testing.assert_close(embeddings, expected_embeddings.flatten(2), **CLOSE)
    assert dense.num_positions(x) == dense.num_positions(x[:1]) == len(parts)
    if key in AVERAGE_THEN_LINEAR:
        torch.testing.assert_close(logits.mean(dim=1), model(x), **CLOSE)
    if key in WITHOUT_LINEAR:
        assert dense.classifier_weight is None
    else:
        assert torch.equal(dense.classifier_weight, model.get_classifier().weight.flatten(1))
        torch.testing.assert_close(model.get_classifier()(embeddings), logits, **CLOSE)


@pytest.mark.parametrize('key', ['efficientnet', 'mobilenetv4', 'repvit', 'vit', 'swin', 'cait'])
def test_building_changes_neither_model_nor_generators(key):
    model = build(key)
    model.train()
    next(model.children()).eval()  # a frozen part stays frozen
    modes = {name: module.training for name, module in model.named_modules()}
    state = copy.deepcopy(model.state_dict())
    parameters = {name: id(p) for name, p in model.named_parameters()}
    hooks = {name: len(module._forward_hooks) for name, module in model.named_modules()}
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    expected = torch.rand(3), np.random.rand(), random.random()

    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    DenseEmbeddings(model).num_positions(images(key))
    drawn = torch.rand(3), np.random.rand(), random.random()

    assert torch.equal(drawn[0], expected[0]) and drawn[1:] == expected[1:]
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert {name: id(p) for name, p in model.named_parameters()} == parameters
    assert {name: len(module._forward_hooks) for name, module in model.named_modules()} == hooks
    assert all(p.grad is None for p in model.parameters())
    after = model.state_dict()
    assert list(after) == list(state) and all(torch.equal(after[name], state[name]) for name in state)


def test_other_input_sizes_and_channels():
    model = build('resnet', in_chans=1)
    dense = DenseEmbeddings(model)
    assert dense.num_positions(torch.randn(1, 1, 96, 160)) == 3 * 5
    logits, embeddings = dense(model.forward_features(torch.randn(3, 1, 96, 160)))
    assert logits.shape == (3, 15, NUM_CLASSES) and embeddings.shape[:2] == (3, 15)


def test_input_size_is_asked_for_if_the_model_does_not_give_it():
    with pytest.raises(ValueError, match=r'coat_lite_tiny.*\[2, 3, 224, 224\].*input_size \(channels, height, width\)'):
        DenseEmbeddings(build('coat_lite'))


REFUSED = {
    'a list of features': ('crossvit_9_240', {}, r'crossvit_9_240.*returns a list'),
    'class tokens alone': ('pit_ti_224', {}, r'pit_ti_224.*\[2, 1, 256\], class tokens without patch tokens'),
    'attention pooling of the grid': ('resnet50_clip', {}, r'resnet50_clip.*AttentionPool2d.*grid'),
    'auxiliary logits': ('inception_v3', dict(aux_logits=True), r'inception_v3.*returns a tuple'),
    'dropped patches': ('test_vit', dict(patch_drop_rate=0.5), r'test_vit.*patch_drop_rate=0.5.*patch_drop_rate=0,'),
    'features only': ('test_resnet', dict(features_only=True), r'no forward_features and forward_head'),
}


@pytest.mark.parametrize('name, kwargs, message', REFUSED.values(), ids=REFUSED)
def test_unsupported_models_are_refused_with_the_reason(name, kwargs, message):
    model = timm.create_model(name, **{'num_classes': 5, **kwargs})
    training = model.training
    with pytest.raises(ValueError, match=message) as error:
        DenseEmbeddings(model)
    assert "mode 'multimix'" in str(error.value), 'it must say what would work'
    assert all(module.training == training for module in model.modules())


class Tokens(nn.Module):
    """A vision transformer of another library, in a wrapper: `extra` tokens stand before those of the patches."""

    def __init__(self, extra, linear=False):
        super().__init__()
        self.linear = linear
        self.patches = nn.Linear(3 * 16 * 16, 8) if linear else nn.Conv2d(3, 8, 16, 16)
        self.extra = nn.Parameter(torch.randn(1, extra, 8))
        self.fc = nn.Linear(8, NUM_CLASSES)

    def forward_features(self, x):
        if self.linear:
            x = self.patches(nn.functional.unfold(x, 16, stride=16).transpose(1, 2))
        else:
            x = self.patches(x).flatten(2).transpose(1, 2)
        return torch.cat([self.extra.expand(len(x), -1, -1), x], dim=1)

    def forward_head(self, x, pre_logits=False):
        x = x[:, self.extra.shape[1]:].mean(dim=1)
        return x if pre_logits else self.fc(x)

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


@pytest.mark.parametrize('linear', [False, True])
@pytest.mark.parametrize('size', [(64, 64), (64, 128), (48, 80)], ids=str)
@pytest.mark.parametrize('extra', [0, 1, 5])
def test_tokens_before_the_patches_must_be_marked(extra, size, linear):
    model = Tokens(extra, linear)
    if extra:
        with pytest.raises(ValueError, match=fr'not a grid.*model.num_prefix_tokens.*probably {extra}\)'):
            DenseEmbeddings(model, (3, *size))
        model.num_prefix_tokens = extra
    dense = DenseEmbeddings(model, (3, *size))
    assert dense.example_positions == size[0] * size[1] // 256
    x = torch.randn(2, 3, *size)
    torch.testing.assert_close(dense(model.forward_features(x))[0].mean(dim=1), model(x))


def test_nan_features_are_refused():
    model = Tokens(0)
    nn.init.constant_(model.patches.bias, float('nan'))
    with pytest.raises(ValueError, match='NaN or infinite'):
        DenseEmbeddings(model, (3, 64, 64))


def test_a_replaced_classifier_needs_its_number_of_classes():
    model = timm.create_model('test_resnet')
    model.fc = nn.Sequential(nn.Dropout(), nn.Linear(model.num_features, 4))
    with pytest.raises(ValueError, match=r'set model.num_classes = 4'):
        DenseEmbeddings(model)
    model.num_classes = 4
    assert DenseEmbeddings(model).classifier is None, 'dropout lies between'
    del model.fc[0]
    assert DenseEmbeddings(model).classifier is model.fc[0]


def test_a_single_position_is_said_once(caplog):
    dense = DenseEmbeddings(build('resnet'), (3, 64, 64))
    for size in (64, 32, 32):
        dense.num_positions(torch.randn(1, 3, size, size))
    assert sum('has one position' in record.message for record in caplog.records) == 1


@pytest.mark.skipif(not hasattr(fsdp, 'fully_shard'), reason='needs torch 2.6')
def test_a_sharded_model_is_refused_and_a_built_task_can_be_sharded(process_group):
    tasks = pytest.importorskip('timm_multimix.tasks.multimix', exc_type=ImportError)
    mesh = init_device_mesh('cpu', (1,))
    with pytest.raises(ValueError, match='build the task first, then shard its trainable_module'):
        DenseEmbeddings(fsdp.fully_shard(build('resnet'), mesh=mesh))
    task = tasks.MultiMixTask(build('resnet').train(), mode='dense-multimix', num_tuples=8, verbose=False)
    fsdp.fully_shard(task.trainable_module.model.fc, mesh=mesh)
    fsdp.fully_shard(task.trainable_module, mesh=mesh)
    for _ in range(2):
        task(images('resnet', 4), labels(4))['loss'].backward()
    assert all(p.grad is not None for p in task.parameters())
