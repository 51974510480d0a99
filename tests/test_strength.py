"""The share of mixed batches that follows how far the training images are fitted."""
from functools import partial

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import save
from timm.utils import ModelEmaV2
from torch.utils.checkpoint import checkpoint

from tests.support.models import NUM_CLASSES, Positions, build, images
from timm_multimix import MultiMix, MultiMixHead, MultiMixLoss, MultiMixTask, Settings
from timm_multimix.rows import mix
from timm_multimix.strength import AdaptiveStrength

LABELS = torch.tensor([0, 1, 2, 0])


def observe(strength, accuracy, batch_size=200):
    """Show the strength a batch with that accuracy."""
    hits = round(accuracy * batch_size)
    logits = torch.zeros(batch_size, 3)
    logits[:hits, 0] = 1.
    logits[hits:, 1] = 1.
    assert strength.observe(logits.requires_grad_(), torch.zeros(batch_size, dtype=torch.long))


def fitted(strength):
    """Return the strength after so many perfect batches that it is 1."""
    for _ in range(70):
        observe(strength, 1.)
    assert strength.value == 1.
    return strength


def test_the_strength_follows_the_written_rule():
    strength, average, expected = AdaptiveStrength(), 0., 0.
    for index, accuracy in enumerate([0.5] * 23 + [1.] * 90 + [0.9] * 40 + [0.8] * 40 + [0.1] * 30):
        observe(strength, accuracy)
        average = 0.95 * average + 0.05 * accuracy
        if index % 10 == 9:
            expected = min(max((average - 0.7) / 0.25, 0.), 1.)
        assert (strength.value, strength.accuracy) == pytest.approx((expected, average), abs=1e-5)


class Run:
    """Steps on images that a model fits, because their labels are its own predictions."""

    def __init__(self, kind, strength='auto'):
        model, x = Positions(NUM_CLASSES).train(), torch.randn(4, 3, 2, 2)
        target, kwargs = model(x).argmax(dim=1), dict(num_tuples=8, strength=strength)
        if kind == 'loss':
            holder = MultiMixLoss(**kwargs)
            self.step, self.strength = lambda: holder(model(x), target), holder.strength
        elif kind == 'head':
            holder = MultiMixHead(model, 'multimix', **kwargs)
            self.step, self.strength = lambda: holder(model.forward_features(x), target), holder.loss.strength
        elif kind == 'task':
            holder = MultiMixTask(model, mixup_alpha=1., verbose=False, **kwargs)
            self.step, self.strength = lambda: holder(x, target), holder.input_mixing.strength
        else:
            holder = MultiMix(num_classes=NUM_CLASSES, mixup_alpha=1., **kwargs).attach(model)
            self.step, self.strength = lambda: model(holder(x, target)[0]), holder.input_mixing.strength
        self.state = holder.get_task_state if kind == 'task' else holder.state_dict
        self.load = holder.load_task_state if kind == 'task' else holder.load_state_dict


@pytest.mark.parametrize('kind', ['loss', 'head', 'task', 'drop-in'])
def test_the_strength_rises_on_fitted_images_and_is_in_the_state(kind):
    torch.manual_seed(0)
    run, other, values = Run(kind), Run(kind), []
    for _ in range(150):
        run.step()
        values.append(run.strength.value)
    assert values[8] == 0. and values[-1] == 1. and values == sorted(values)
    other.load(run.state())
    assert torch.equal(other.strength.get_extra_state(), run.strength.get_extra_state())
    fixed = Run(kind, strength=1.)
    assert not fixed.state()
    fixed.load(run.state())  # for validation without it
    other.load(fixed.state())
    assert other.strength.value == 1., 'a state without it changes nothing'


def test_image_mixed_batches_do_not_count():
    strength = fitted(AdaptiveStrength())
    before = strength.accuracy
    for _ in range(20):
        strength.observe(torch.randn(4, 3, requires_grad=True), LABELS, is_mixed=True)
    assert strength.accuracy == before and strength.value == 1.


def test_soft_targets_count_by_their_largest_entry():
    hard, soft = AdaptiveStrength(), AdaptiveStrength()
    logits, target = torch.randn(50, 4, requires_grad=True), torch.arange(50) % 4
    hard.observe(logits, target)
    soft.observe(logits, F.one_hot(target, 4) * 0.7 + 0.075)
    assert hard.accuracy == soft.accuracy > 0.


def test_a_loss_of_strength_0_is_the_plain_criterion_and_of_strength_1_has_no_smoothing():
    logits, target = torch.randn(16, 4, requires_grad=True), torch.arange(16) % 4
    loss = MultiMixLoss(strength='auto', label_smoothing=0.1)
    plain = F.cross_entropy(logits, target, label_smoothing=0.1)
    torch.testing.assert_close(loss(logits, target), plain)
    torch.testing.assert_close(
        torch.autograd.grad(loss(logits, target), logits), torch.autograd.grad(plain, logits))
    fitted(loss.strength)
    torch.manual_seed(0)
    mixed = loss(logits, target)
    torch.manual_seed(0)
    torch.testing.assert_close(mixed, MultiMixLoss()(logits, target))
    torch.testing.assert_close(loss.eval()(logits, target), plain)


def test_a_fixed_strength_is_the_share_of_mixed_batches():
    torch.manual_seed(0)
    loss, logits, target = MultiMixLoss(strength=0.3), torch.randn(8, 3), torch.arange(8) % 3
    plain = F.cross_entropy(logits, target).item()
    losses = [loss(logits, target).item() for _ in range(400)]
    assert 0.2 < sum(value != pytest.approx(plain, abs=1e-6) for value in losses) / len(losses) < 0.4


def test_a_head_of_strength_0_makes_no_pass_over_positions():
    model, x = build('resnet').train(), images('resnet', 4)
    head, target = MultiMixHead(model, 'dense-multimix', strength='auto'), torch.tensor([0, 1, 2, 0])
    features, calls = model.forward_features(x), []
    model.get_classifier().register_forward_hook(lambda module, args, output: calls.append(len(output)))
    head.refresh()  # the hook is new, so the example runs again
    calls.clear()
    torch.testing.assert_close(head(features, target), F.cross_entropy(model.forward_head(features), target))
    assert calls == [4, 4]
    fitted(head.loss.strength)
    head(features, target)
    assert max(calls) > 4


def test_rows_are_of_the_clean_batch_until_the_strength_rises():
    loss, logits = MultiMixLoss(16, strength='auto', label_smoothing=0.3), 9. * F.one_hot(LABELS, 3).float()
    head = MultiMixHead(build('resnet').train(), 'dense-multimix', strength='auto', label_smoothing=0.3)
    features = head.model.forward_features(images('resnet', 4))
    for make, owner in ((partial(mix, loss, logits.requires_grad_()), loss), (partial(head.mix, features), head.loss)):
        rows, target = make(LABELS)
        assert len(rows) == 4 and torch.equal(target, owner.smooth_target(LABELS, rows)) and target.min() > 0.
        before = owner.strength.get_extra_state()
        fitted(owner.strength)
        rows, target = make(LABELS)
        assert len(rows) > 4 and target.min() == 0. and not torch.equal(owner.strength.get_extra_state(), before)
    assert loss.strength.accuracy > 0.97


def test_validation_in_train_mode_is_not_counted_and_warned_of(caplog):
    loss, logits = MultiMixLoss(strength='auto'), 9. * F.one_hot(LABELS, 3).float()
    for _ in range(3):
        loss(logits, LABELS)
    assert loss.strength.accuracy == 0. and [record.message[:9] for record in caplog.records] == ['The Multi']


def test_a_recomputed_batch_counts_once():
    for reentrant in (False, True):  # whose first forward is without gradient
        model = Positions(NUM_CLASSES).train()
        mixing = MultiMix(num_classes=NUM_CLASSES, num_tuples=8, strength='auto', reuse=True).attach(model)
        x = torch.randn(4, 3, 2, 2, requires_grad=True)
        y = model(x).argmax(dim=1)
        x, target = mixing(x, y)
        F.cross_entropy(checkpoint(model, x, use_reentrant=reentrant), target).backward()
        assert mixing.input_mixing.strength.accuracy == pytest.approx(0.05)


def test_labels_may_be_on_another_device_and_the_default_type_may_be_coarse():
    assert AdaptiveStrength().observe(torch.zeros(4, 3, device='meta', requires_grad=True), LABELS)
    torch.set_default_dtype(torch.bfloat16)
    try:
        strength = AdaptiveStrength()
        for _ in range(300):
            observe(strength, 0.9)
    finally:
        torch.set_default_dtype(torch.float32)
    assert strength.accuracy == pytest.approx(0.9, abs=1e-5)


@pytest.mark.parametrize('kwargs', [{}, dict(teacher_decay=0.9, single_view=True)], ids=['ema', 'teacher'])
def test_averages_and_checkpoints_of_a_module_that_holds_it(kwargs):
    task = MultiMixTask(build('resnet'), mode='dense-multimix', strength='auto', verbose=False, **kwargs)
    if not kwargs:
        task.setup_ema(decay=0.5)
    fitted(task.loss.strength)
    task(images('resnet', 4), LABELS)['loss'].backward()
    task.update_ema(1)
    assert not any('strength' in name for name in task.trainable_module.state_dict())
    module = nn.Module()
    module.loss = MultiMixLoss(strength='auto')
    ModelEmaV2(module, decay=0.5).update(module)
    assert save(module.state_dict())  # as the Trainer of transformers
    assert task.loss.strength.value == 1.


@pytest.mark.parametrize('kind', ['task', 'head', 'drop-in'])
def test_processes_that_synchronize_batch_norms_draw_the_same(kind, monkeypatch):
    """Otherwise they would wait for each other in different passes."""
    asked = []
    monkeypatch.setattr('timm_multimix.strength.num_processes', lambda: 2)
    monkeypatch.setattr('timm_multimix.strength.agree', lambda number, device: asked.append(number) or number)
    for convert, together in ((lambda model: model, False), (nn.SyncBatchNorm.convert_sync_batchnorm, True)):
        model, kwargs = build('resnet').train(), dict(mode='dense-multimix', strength=0.5)
        features = model.forward_features(images('resnet', 4))
        model = convert(model)  # whose body now needs a GPU, but not its head
        if kind == 'task':
            MultiMixTask(model, verbose=False, **kwargs)._draw()
        elif kind == 'head':
            MultiMixHead(model, **kwargs)(features, LABELS)
        else:
            MultiMix(num_classes=NUM_CLASSES, **kwargs).attach(model)(images('resnet', 4), LABELS)
        assert bool(asked) == together


@pytest.mark.parametrize('step, message', [
    (lambda x: MultiMixLoss(length=5, strength='auto')(x[:, :, 0, 0], LABELS), 'length must be at most the batch size'),
    (lambda x: MultiMixTask(Positions(3), length=5, strength='auto', verbose=False)(x, LABELS), 'length must be'),
    (lambda x: MultiMix(num_classes=3, length=5, strength='auto').attach(Positions(3))(x, LABELS), 'length must be'),
    (lambda x: MultiMix(num_classes=3, clean_weight=1e-3, strength='auto').attach(Positions(3))(x, LABELS),
     'clean_weight=0.001 would take'),
    (lambda x: MultiMixLoss(criterion=nn.BCEWithLogitsLoss(), strength='auto')(
        x[:, :, 0, 0].requires_grad_(), torch.ones(4, 3)), 'rows of the target must sum to 1, got sums from 3 to 3'),
    (lambda x: MultiMixLoss(criterion=nn.CrossEntropyLoss(torch.ones(3), label_smoothing=0.1), strength='auto'),
     "strength 'auto' leaves label smoothing out of mixed batches"),
    (lambda x: Settings(mixup_alpha=1., input_prob=1., strength='auto'), 'input_prob must be below 1'),
    (lambda x: setattr(MultiMixLoss(), 'settings', Settings(strength='auto')), "strength must stay 1.0, got 'auto'"),
    (lambda x: setattr(MultiMixLoss(), 'settings', Settings(label_smoothing=0.1)),
     'label_smoothing must stay None, got 0.1'),
])
def test_mistakes_show_before_anything_is_mixed(step, message):
    with pytest.raises(ValueError, match=message):
        step(torch.randn(4, 3, 2, 2))
