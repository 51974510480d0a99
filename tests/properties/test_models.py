"""A law for models: what is trained is what is validated, however a model was changed, and whenever."""
import types

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.loss import SoftTargetCrossEntropy

from tests.support.models import NUM_CLASSES, labels
from tests.support.tensors import CLONES
from timm_multimix import MultiMix, MultiMixHead, MultiMixTask
from timm_multimix.settings import MODES

X, TARGET = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0)), labels(6)


class Small(nn.Module):
    """timm's interface, with a batch norm in the head."""
    num_classes = NUM_CLASSES
    pretrained_cfg = dict(input_size=(3, 16, 16))

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.norm = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, NUM_CLASSES)

    def reset_classifier(self, num_classes):
        self.fc = nn.Linear(8, num_classes)

    def forward_features(self, x):
        return self.stem(x)

    def forward_head(self, x, pre_logits=False):
        x = self.norm(x).mean((2, 3))
        return x if pre_logits else self.fc(x)

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


class Adjusted(Small):
    def forward(self, x):
        return super().forward(x) - torch.arange(7.)


class Branched(nn.Module):
    """A layer with a second branch that does nothing yet, as that of LoRA."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.down, self.up = nn.Linear(8, 2, bias=False), nn.Linear(2, NUM_CLASSES, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x):
        return self.layer(x) + self.up(self.down(x))


class LinearWithBranch(nn.Linear):
    """The same as a subclass of the layer."""

    def __init__(self):
        super().__init__(8, NUM_CLASSES)
        self.up = nn.Parameter(torch.zeros(NUM_CLASSES, 8))

    def forward(self, x):
        return super().forward(x) + x @ self.up.t()


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, x):
        return x * self.scale


def replace(layer):
    return lambda model: setattr(model, 'fc', layer())


def patch_classifier(model):
    forward = model.fc.forward
    model.fc.forward = lambda x: forward(x) * 2.


def freeze_and_branch(model):
    model.requires_grad_(False)
    model.fc = Branched(model.fc)


HONOURED = {
    'nothing': lambda model: None,
    'weight norm': lambda model: nn.utils.parametrizations.weight_norm(model.fc),
    'weight norm by a hook': lambda model: nn.utils.weight_norm(model.fc),
    'a frozen stem': lambda model: model.stem.requires_grad_(False),
    'a new classifier': lambda model: model.reset_classifier(NUM_CLASSES),
    'layers as the classifier': replace(lambda: nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, NUM_CLASSES))),
    'a batch norm in the classifier': replace(lambda: nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, NUM_CLASSES))),
    'an adapter': freeze_and_branch,
    'an adapter by inheritance': replace(LinearWithBranch),
    'a scale before': replace(lambda: nn.Sequential(Scale(), nn.Linear(8, NUM_CLASSES))),
    'a scale behind': replace(lambda: nn.Sequential(nn.Linear(8, NUM_CLASSES), Scale())),
    'synchronized batch norms': nn.SyncBatchNorm.convert_sync_batchnorm,
    'a hook on the classifier': lambda model: model.fc.register_forward_hook(lambda *args: args[2] - torch.arange(7.)),
    'a patched classifier': patch_classifier,
    'a hook on the layer before': lambda model: model.norm.register_forward_hook(lambda *args: args[2] * 2.),
    'a hook that only looks': lambda model: model.register_forward_hook(lambda *args: None),
}
HOOKS = {
    'normalisation in a hook': lambda model: model.register_forward_pre_hook(lambda _, args: (args[0] * 2. - 1.,)),
    'augmentation in a hook': lambda model: model.register_forward_pre_hook(
        lambda model, args: (args[0].flip(-1) + 1.,) if model.training else None),
    'adjustment in a hook': lambda model: model.register_forward_hook(lambda *args: args[2] - torch.arange(7.)),
}
FORWARDS = {
    'a patched forward': lambda model: setattr(
        model, 'forward', types.MethodType(lambda self, x: type(self).forward(self, x) * 2., model)),
    'an overridden forward': lambda model: setattr(model, '__class__', Adjusted),
}


class Trained:
    """A model and its loss, with MultiMix as a head, a task or the drop-in."""

    def __init__(self, kind, mode, model):
        self.kind, self.model = kind, model
        kwargs = dict(mode=mode, num_tuples=64)
        if kind == 'head':
            self.mixer = MultiMixHead(model, **kwargs)
        elif kind == 'task':
            self.mixer = MultiMixTask(model, verbose=False, **kwargs)
        else:
            self.mixer = MultiMix(num_classes=NUM_CLASSES, label_smoothing=0., **kwargs).attach(model)

    def loss(self, training, x=X, target=TARGET):
        self.model.train(training)
        if self.kind == 'drop-in':
            x, target = self.mixer(x, target)
            logits = self.model(x)
            return SoftTargetCrossEntropy()(logits, target)
        self.mixer.train(training)
        if self.kind == 'task':
            return self.mixer(x, target)['loss']
        return self.mixer(self.model.forward_features(x), target)


def trained_by(model, loss):
    model.zero_grad()
    loss.backward()
    return {name for name, parameter in model.named_parameters() if parameter.grad is not None}


def changed(kind, mode, when, change):
    torch.manual_seed(0)
    model = Small()
    if when == 'before':
        change(model)
        return Trained(kind, mode, model)
    trained = Trained(kind, mode, model)
    trained.loss(True)
    model.load_state_dict(Small().state_dict())  # undo the statistics
    change(model)
    return trained


def plain_steps(model):
    """What the criterion on `model(x)` gives: the loss in eval mode, what a training step trains, and the buffers."""
    attached = vars(model).get('forward')
    if isinstance(getattr(attached, '__self__', None), MultiMix):
        del model.forward
    before = [buffer.clone() for buffer in model.buffers()]
    loss = F.cross_entropy(model.eval()(X), TARGET).detach()
    trained = trained_by(model, F.cross_entropy(model.train()(X), TARGET))
    after = [buffer.clone() for buffer in model.buffers()]
    with torch.no_grad():
        for buffer, value in zip(model.buffers(), before, strict=True):
            buffer.copy_(value)
    if attached is not None:
        model.forward = attached
    return loss, trained, after


def check_law(trained):
    model = trained.model
    loss, parameters, buffers = plain_steps(model)
    torch.testing.assert_close(trained.loss(False), loss)
    assert trained_by(model, trained.loss(True)) == parameters
    for (name, buffer), expected in zip(model.named_buffers(), buffers, strict=True):
        assert torch.equal(buffer, expected), f'{name} is not that of one plain pass'


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('kind', ['head', 'task', 'drop-in'])
@pytest.mark.parametrize('when', ['before', 'after'])
@pytest.mark.parametrize('change', HONOURED.values(), ids=HONOURED)
def test_a_changed_model_is_trained_as_it_is(change, when, kind, mode):
    trained = changed(kind, mode, when, change)
    check_law(trained)
    if kind == 'head' and mode == 'dense-multimix':  # later values too, of what does nothing at the start
        model = trained.model.eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
            features = model.forward_features(X)
            positions = features.flatten(2).transpose(1, 2).reshape(-1, 8, 1, 1)
            torch.testing.assert_close(
                trained.mixer.outputs(features, TARGET).dense_logits.flatten(0, 1), model.forward_head(positions))


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('kind', ['head', 'task', 'drop-in'])
@pytest.mark.parametrize('when', ['before', 'after'])
@pytest.mark.parametrize('change', [*HOOKS.values(), *FORWARDS.values()], ids=[*HOOKS, *FORWARDS])
def test_what_forward_does_besides_is_honoured_or_refused(change, when, kind, mode):
    hooks = change in HOOKS.values()
    if kind == 'drop-in' and when == 'after' and not hooks:
        pytest.skip('the drop-in is itself a replaced forward')
    refused = kind == 'head' or mode == 'dense-multimix'
    if kind == 'drop-in':
        refused = not hooks and (mode == 'dense-multimix' or change is FORWARDS['a patched forward'])
    if not refused:
        return check_law(changed(kind, mode, when, change))
    with pytest.raises(ValueError, match='forward'):
        changed(kind, mode, when, change).loss(True)


@pytest.mark.parametrize('fullgraph', [False, True])
def test_a_compiled_step_sees_a_new_classifier(fullgraph):
    torch.manual_seed(0)
    model = Small()
    task = MultiMixTask(model, mode='dense-multimix', num_tuples=8, clean_weight=0., verbose=False)
    task.compile(backend='eager', fullgraph=fullgraph)
    task(X, TARGET)
    model.fc = nn.Linear(8, NUM_CLASSES)
    nn.init.zeros_(model.fc.weight), nn.init.zeros_(model.fc.bias)
    loss = task(X, TARGET)['loss']
    loss.backward()
    torch.testing.assert_close(loss, torch.tensor(NUM_CLASSES).log())
    assert model.fc.weight.grad is not None


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('clone', CLONES.values(), ids=CLONES)
def test_copies_see_a_new_classifier_of_their_own(clone, mode):
    model = Small()
    head = MultiMixHead(model, mode, num_tuples=8, clean_weight=0.)
    copied_model, copied = clone((model, head))
    copied_model.fc = nn.Linear(8, NUM_CLASSES)
    copied(copied_model.forward_features(X), TARGET).backward()
    assert copied.model is copied_model and copied_model.fc.weight.grad is not None and model.fc.weight.grad is None
    if mode == 'dense-multimix':
        assert head.dense.classifier is model.fc and copied.dense.classifier is copied_model.fc


def test_a_new_head_must_fit_the_options():
    model = Small()
    head = MultiMixHead(model, 'dense-multimix', attention='cam')
    model.fc = Branched(model.fc)
    with pytest.raises(ValueError, match="attention 'cam' needs a linear classifier"):
        head(model.forward_features(X), TARGET)
    model.fc = nn.Linear(8, 3)
    with pytest.raises(ValueError, match='returns 3 logits.*set model.num_classes = 3'):
        head(model.forward_features(X), TARGET)


@pytest.mark.parametrize('mode', MODES)
def test_a_teacher_without_the_new_parameters_is_refused(mode):
    model = Small()
    task = MultiMixTask(model, mode=mode, teacher_decay=0.9, single_view=True, num_tuples=8, verbose=False)
    model.fc = nn.Linear(8, NUM_CLASSES)
    task(X, TARGET)['loss'].backward()
    task.update_ema()
    model.fc = Branched(model.fc)
    with pytest.raises(ValueError, match='8 parameter tensors, its teacher 6'):
        task.update_ema()
