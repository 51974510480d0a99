"""The share of image-mixed batches that a run finds for itself."""
import pytest
import torch

from timm_multimix import MultiMix
from timm_multimix.input_share import FoundShare


def observe(share, accuracy, times=1, batch_size=200):
    """Show the share batches with that accuracy."""
    hits = round(accuracy * batch_size)
    target = torch.zeros(batch_size, dtype=torch.long)
    logits = torch.zeros(batch_size, 3)
    logits[:hits, 0] = 1.
    logits[hits:, 1] = 1.
    for _ in range(times):
        share.observe(logits, target)
    share.settle()


def by_hand(accuracies, num_batches):
    """Average with decay 0.95 per batch, target 0.93, share from 0 to 0.6, in a tenth of the run from end to end."""
    share = average = 0.
    for accuracy in accuracies:
        average = 0.95 * average + 0.05 * accuracy
        share += 6. / num_batches * (1. if average > 0.93 else -1.)
        share = min(max(share, 0.), 0.6)
    return share, average


@pytest.mark.parametrize('num_batches', [90, 1440, 100_000])
def test_the_share_follows_the_rule(num_batches):
    accuracies = [0.5] * 20 + [1.] * 90 + [0.9] * 40 + [0.95] * 100 + [0.1] * 30
    share = FoundShare(num_batches)
    for index, accuracy in enumerate(accuracies):
        observe(share, accuracy)
        expected = by_hand(accuracies[:index + 1], num_batches)
        assert (share.share, share.accuracy) == pytest.approx(expected, abs=1e-9)


def test_images_that_are_not_fitted_are_never_mixed():
    share = FoundShare(100)
    observe(share, 0.92, times=500)
    assert share.share == 0.


def test_image_mixed_batches_do_not_count():
    share = FoundShare(100)
    observe(share, 1., times=80)
    before = share.state_dict()
    assert before['share'] > 0.
    share.observe(None, torch.zeros(4, dtype=torch.long))
    assert share.state_dict() == before


def test_soft_targets_count_by_their_largest_entry():
    hard, soft = FoundShare(100), FoundShare(100)
    logits, target = torch.randn(50, 4), torch.arange(50) % 4
    hard.observe(logits, target)
    soft.observe(logits, torch.nn.functional.one_hot(target, 4) * 0.7 + 0.1)
    assert hard.state_dict() == soft.state_dict() and hard.accuracy > 0.


def test_num_batches_is_needed():
    mixup_fn = MultiMix(mixup_alpha=1., input_prob='auto', num_classes=2).attach(torch.nn.Linear(2, 2))
    x, y = torch.randn(3, 2), torch.tensor([0, 1, 1])
    mixup_fn.model(mixup_fn(x, y)[0])
    with pytest.raises(ValueError, match="input_prob='auto' needs num_batches"):
        mixup_fn(x, y)
    mixup_fn.input_mixing.found_share.num_batches = 10
    mixup_fn(x, y)
