"""Where nothing is mixed, loss, head and tasks give the user's criterion on `model(x)`, with the same gradients.

What cannot be used on mixed rows is refused in one line that names it. Nothing is dropped.
"""
import copy
import functools
import inspect

import pytest
import timm.loss
import torch
import torch.nn as nn
import torch.nn.functional as F

from tests.support.models import Positions
from timm_multimix import MixupETask, MultiMix, MultiMixHead, MultiMixLoss, MultiMixTask, UsageError, functional

C = 4
X = torch.randn(6, 3, 2, 2, generator=torch.Generator().manual_seed(0))
HARD = torch.tensor([0, 0, 0, 1, 2, 3])
SOFT = torch.rand(6, C, generator=torch.Generator().manual_seed(1)).softmax(dim=-1)
MULTI = (SOFT > 0.24).float()
WEIGHT = torch.tensor([0.05, 1., 2., 3.])


class Focal(nn.CrossEntropyLoss):
    def forward(self, logits, target):
        log_p = logits.log_softmax(dim=-1)
        return -(target * (1. - log_p.exp()) ** 2 * log_p).sum(dim=-1).mean()


class FocalOfLabels(nn.Module):
    def forward(self, logits, target):
        log_p = logits.log_softmax(dim=-1).gather(1, target.unsqueeze(1))
        return -((1. - log_p.exp()) ** 2 * log_p).mean()


class Smoothing(timm.loss.LabelSmoothingCrossEntropy):
    def forward(self, logits, target):
        return 2. * F.cross_entropy(logits, target, label_smoothing=self.smoothing)


def hooked():
    criterion = nn.CrossEntropyLoss()
    criterion.register_forward_hook(lambda module, inputs, loss: 2. * loss)
    return criterion


def patched():
    criterion = timm.loss.SoftTargetCrossEntropy()
    criterion.forward = lambda logits, target: 3. * F.cross_entropy(logits, target)
    return criterion


CROSS_ENTROPY = {
    'ce': nn.CrossEntropyLoss(),
    'ce smoothing': nn.CrossEntropyLoss(label_smoothing=0.2),
    'ce function': F.cross_entropy,
    'ce partial': functools.partial(F.cross_entropy, label_smoothing=0.1),
    'timm soft': timm.loss.SoftTargetCrossEntropy(),
    'timm smoothing': timm.loss.LabelSmoothingCrossEntropy(0.1),
}
OTHERS = {
    'ce weight': nn.CrossEntropyLoss(WEIGHT),
    'ce weight smoothing': nn.CrossEntropyLoss(WEIGHT, label_smoothing=0.2),
    'ce weight partial': functools.partial(F.cross_entropy, weight=WEIGHT),
    'focal': Focal(),
    'subclass smoothing': Smoothing(0.2),
    'hooked': hooked(),
    'patched': patched(),
    'bce of torch': nn.BCEWithLogitsLoss(weight=WEIGHT, pos_weight=1. / WEIGHT),
    'bce smoothing': timm.loss.BinaryCrossEntropy(smoothing=0.2),
    'bce weights': timm.loss.BinaryCrossEntropy(smoothing=0., weight=WEIGHT, pos_weight=3., sum_classes=True),
    'bce threshold': timm.loss.BinaryCrossEntropy(smoothing=0.1, target_threshold=0.2),
    'poly': timm.loss.PolyCrossEntropy(epsilon=1., smoothing=0.1),
    'mse': nn.MSELoss(),
    'l1': nn.L1Loss(),
    'huber': nn.HuberLoss(),
    'smooth l1': nn.SmoothL1Loss(),
    'poisson': nn.PoissonNLLLoss(),
    'soft margin': nn.SoftMarginLoss(),
    'hinge': nn.HingeEmbeddingLoss(),
    'multi-label soft margin': nn.MultiLabelSoftMarginLoss(WEIGHT),
}
MULTI_LABEL = {
    'bce dense smoothing': timm.loss.BinaryCrossEntropy(smoothing=0.2, smooth_dense=True),
    'asl': timm.loss.AsymmetricLossMultiLabel(smoothing=0.1, weight=WEIGHT),
    'poly bce': timm.loss.PolyBinaryCrossEntropy(gamma=1., alpha=0.3, smoothing=0.1),
    'db': timm.loss.DistributionBalancedLoss([3., 2., 2., 1.], 6, smoothing=0.1),
}
HONOURED = {**CROSS_ENTROPY, **OTHERS, **MULTI_LABEL}
CASES = [
    *((name, target) for name in {**CROSS_ENTROPY, **OTHERS} for target in ('hard', 'soft')),
    *((name, 'multi') for name in {**OTHERS, **MULTI_LABEL}),
]
pytestmark = pytest.mark.filterwarnings('ignore:Using a target size')  # of plain_value, with labels
TARGETS = dict(hard=HARD, soft=SOFT, multi=MULTI)
WAYS = ('loss', 'multimix', 'dense-multimix', 'task multimix', 'task dense-multimix')


def plain_value(criterion, logits, target):
    """Call the criterion as a plain loop does: with labels if it takes them, else with one-hot targets."""
    if type(criterion) is timm.loss.LabelSmoothingCrossEntropy and target.ndim == 2:  # takes labels only
        return F.cross_entropy(logits, target, label_smoothing=criterion.smoothing)
    try:
        return criterion(logits, target)
    except (RuntimeError, ValueError):
        return criterion(logits, F.one_hot(target, C).float())


def losses(way, criterion, model, target, is_training, **task_kwargs):
    """Return the loss of one of the ways; in training without a clean term."""
    if way == 'mixupe':
        return MixupETask(model, criterion, verbose=False, **task_kwargs).train(is_training)(X, target)['loss']
    kwargs = dict(criterion=criterion, clean_weight=0., num_tuples=len(X))
    options = dict(input_size=tuple(X.shape[1:])) if 'dense' in way else {}
    if way == 'loss':
        return MultiMixLoss(**kwargs).train(is_training)(model(X), target)
    if way.startswith('task'):
        task = MultiMixTask(
            model, mode=way.split()[1], verbose=False, **kwargs, **options,
            **{'multi_label': target is MULTI, **task_kwargs})
        return task.train(is_training)(X, target)['loss']
    return MultiMixHead(model, way, **kwargs, **options).train(is_training)(model.forward_features(X), target)


def model_of_positions():
    torch.manual_seed(3)
    return Positions(C)


def assert_same(found, expected, model, plain):
    torch.testing.assert_close(found, expected)
    found.backward()
    expected.backward()
    for ours, own in zip(model.parameters(), plain.parameters()):
        torch.testing.assert_close(ours.grad, own.grad)


@pytest.mark.parametrize('name, kind', CASES)
def test_in_eval_mode_and_unmixed_it_is_the_criterion(name, kind):
    criterion, target = HONOURED[name], TARGETS[kind]
    ways = [*((way, False) for way in WAYS), *((way, True) for way in WAYS if 'task' in way)]
    if name in CROSS_ENTROPY and kind == 'hard':
        ways += [('mixupe', False), ('mixupe', True)]
    for way, is_training in ways:
        model = model_of_positions()
        plain = copy.deepcopy(model)
        found = losses(way, criterion, model, target, is_training, **(dict(prob=0.) if is_training else {}))
        assert_same(found, plain_value(criterion, plain(X), target), model, plain)


@pytest.mark.parametrize('name, kind', CASES)
def test_if_every_tuple_is_one_example_it_is_the_criterion_on_these_rows(name, kind, monkeypatch):
    def identity(num_tuples, num_examples, *_, positions=None, dtype=None, **__):
        return torch.eye(num_examples, dtype=dtype).expand(*([positions] if positions else []), -1, -1).clone()

    monkeypatch.setattr(functional, 'sample_dirichlet', identity)
    criterion, target = HONOURED[name], TARGETS[kind]
    for way in WAYS:
        model = model_of_positions()
        plain = copy.deepcopy(model)
        rows = X.flatten(2).permute(2, 0, 1).flatten(0, 1) if 'dense' in way else X.mean(dim=(2, 3))
        repeated = target.repeat(len(rows) // len(X), *[1] * (target.ndim - 1))
        found = losses(way, criterion, model, target, True)
        assert_same(found, plain_value(criterion, plain.fc(rows), repeated), model, plain)


def made(criterion_class):
    """Make a criterion with as few arguments as it takes; None if it needs more than these."""
    given = dict(class_counts=[3., 2., 2., 1.], num_samples=6, smoothing=0.)
    names = inspect.signature(criterion_class).parameters
    try:
        return criterion_class(**{name: value for name, value in given.items() if name in names})
    except TypeError:
        return None


EVERY = {
    f'{module.__name__}.{name}': made(getattr(module, name)) for module in (nn, timm.loss) for name in dir(module)
    if inspect.isclass(getattr(module, name)) and name.endswith(('Loss', 'Entropy', 'Label'))}
TYPES = {type(criterion) for criterion in HONOURED.values()}
REFUSED = {
    **{name: found for name, found in EVERY.items() if found is not None and type(found) not in TYPES},
    'focal of labels': FocalOfLabels(),
    'a class': nn.CrossEntropyLoss,
    'a number': 3,
    'ignored class': nn.CrossEntropyLoss(ignore_index=0),
    'ignored class, partial': functools.partial(F.cross_entropy, ignore_index=0),
    'weights of examples': nn.BCEWithLogitsLoss(torch.ones(6, 1)),
    'weights of other classes': nn.CrossEntropyLoss(torch.ones(C + 1)),
    'copies of a batch': timm.loss.JsdCrossEntropy(smoothing=0.),
    'sum': timm.loss.PolyCrossEntropy(reduction='sum'),
    'a value for each row': lambda logits, target: (logits - target).mean(dim=-1),
    'labels under smoothing of 0 and 1': timm.loss.BinaryCrossEntropy(smoothing=0.2, smooth_dense=True),
}


@pytest.mark.parametrize('criterion', REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_used_on_mixed_rows_is_refused_in_one_line(criterion):
    for way in WAYS:
        with pytest.raises(UsageError) as error:
            losses(way, criterion, model_of_positions(), HARD, True)
        message = str(error.value)
        assert '\n' not in message and 'criterion' in message
        labels_only = isinstance(criterion, (FocalOfLabels, timm.loss.AsymmetricLossSingleLabel))
        assert 'class indices only' in message or not labels_only


def test_mixupe_refuses_all_but_cross_entropy():
    for criterion in (*OTHERS.values(), *MULTI_LABEL.values()):
        with pytest.raises(UsageError, match='cross-entropy'):
            losses('mixupe', criterion, model_of_positions(), HARD, True)


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('criterion', [
    nn.CrossEntropyLoss(label_smoothing=0.2), nn.CrossEntropyLoss(WEIGHT, label_smoothing=0.2),
    nn.CrossEntropyLoss(WEIGHT), *(HONOURED[name] for name in ('bce smoothing', 'poly', 'asl', 'subclass smoothing')),
], ids=repr)
def test_label_smoothing_beside_that_of_the_criterion_is_refused(criterion, way):
    model = model_of_positions()
    make = {
        'loss': MultiMixLoss, 'multimix': functools.partial(MultiMixHead, model, 'multimix'),
        'dense-multimix': functools.partial(MultiMixHead, model, 'dense-multimix', input_size=(3, 2, 2)),
    }.get(way, functools.partial(MultiMixTask, model, verbose=False))
    with pytest.raises(UsageError, match='label_smoothing'):
        make(criterion=criterion, label_smoothing=0.1)


def test_class_weights_of_mixed_images_keep_their_scale():
    """With λ = 1 the images are as they were, and so is the loss."""
    criterion, model = nn.CrossEntropyLoss(WEIGHT), model_of_positions()
    task = MultiMixTask(model, criterion, mixup_alpha=1e6, input_prob=1., verbose=False)
    same = X[:1].expand_as(X)  # of one image mixtures are that image
    result = task(same, torch.full((6,), 2))
    assert result['input_mixed']
    torch.testing.assert_close(result['loss'], criterion(model(same), torch.full((6,), 2)))


def test_targets_outside_0_and_1_are_refused_for_several_labels():
    mixup_fn = MultiMix(num_classes=C, multi_label=True).attach(model_of_positions())
    for bad in (5. * MULTI, MULTI - 0.1):
        with pytest.raises(UsageError, match=r'\[0, 1\]|>= 0'):
            mixup_fn(X, bad)
        with pytest.raises(UsageError, match=r'\[0, 1\]'):
            losses('task multimix', None, model_of_positions(), bad, True, multi_label=True)


@pytest.mark.parametrize('way', ['loss', 'task', 'multimix', 'dense-multimix'])
def test_a_loss_that_mixes_in_validation_warns_once(way, caplog):
    model = model_of_positions()
    options = dict(input_size=(3, 2, 2)) if 'dense' in way else {}
    features = model if way == 'loss' else model.forward_features
    if way == 'task':
        criterion = MultiMixTask(model, verbose=False)
    else:
        criterion = MultiMixLoss() if way == 'loss' else MultiMixHead(model, way, **options)

    def run():
        return criterion(X, HARD)['loss'] if way == 'task' else criterion(features(X), HARD)

    run().backward()
    model.forward_features = lambda x: x.detach()
    run().backward()  # cached features: the classifier is trained
    criterion.eval()
    with torch.no_grad():
        run()
    assert 'eval()' not in caplog.text
    criterion.train()
    model.requires_grad_(False)  # gradients are on
    for _ in range(2):
        run()
    assert [record.message.count('eval()') > 0 for record in caplog.records] == [True]


