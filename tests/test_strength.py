"""The share of mixed batches that follows how far the training images are fitted."""
import pytest
import torch
import torch.nn.functional as F

from tests.support.models import NUM_CLASSES, Positions, build, images
from timm_multimix import MultiMix, MultiMixHead, MultiMixLoss, MultiMixTask
from timm_multimix.strength import AdaptiveStrength


def observe(strength, accuracy, batch_size=200):
    """Show the strength a batch with that accuracy."""
    hits = round(accuracy * batch_size)
    logits = torch.zeros(batch_size, 3)
    logits[:hits, 0] = 1.
    logits[hits:, 1] = 1.
    strength.observe(logits, torch.zeros(batch_size, dtype=torch.long))


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
    assert other.strength.state_dict() == run.strength.state_dict()
    fixed = Run(kind, strength=1.)
    assert not fixed.state()
    fixed.load(run.state())  # for validation without it
    other.load(fixed.state())
    assert other.strength.value == 1., 'a state without it changes nothing'


def test_image_mixed_batches_do_not_count():
    strength = fitted(AdaptiveStrength())
    before = strength.accuracy
    for _ in range(20):
        strength.observe(None, torch.zeros(4, dtype=torch.long))
    assert strength.accuracy == before and strength.value == 1.


def test_soft_targets_count_by_their_largest_entry():
    hard, soft = AdaptiveStrength(), AdaptiveStrength()
    logits, target = torch.randn(50, 4), torch.arange(50) % 4
    hard.observe(logits, target)
    soft.observe(logits, F.one_hot(target, 4) * 0.7 + 0.1)
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
