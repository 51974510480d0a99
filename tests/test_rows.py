import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.loss import SoftTargetCrossEntropy

from tests.support.tensors import seeded
from tests.test_loss import problem
from timm_multimix import MultiMixLoss
from timm_multimix.rows import mix, row_counts


@pytest.mark.parametrize('dense', [False, True])
@pytest.mark.parametrize('num_tuples, clean_weight', [(8, 0.), (7, 0.), (8, 1.), (40, 3.), (8, 0.5), (2, 1.)])
def test_mixed_rows_under_timms_criterion_give_the_same_loss(num_tuples, clean_weight, dense):
    """The loss has the number of tuples and the clean weight that the rounded counts of rows amount to."""
    logits, target, attention, clean_logits = problem(dense, positions=4)
    criterion = MultiMixLoss(num_tuples=num_tuples, clean_weight=clean_weight, label_smoothing=0.1)
    positions = 4 if dense else None
    counts = row_counts(criterion, 4, positions)
    rows = seeded(mix, criterion, logits, target, attention, clean_logits)
    num_mixed = counts.num_tuples * (positions or 1)
    assert len(rows[0]) == num_mixed + 4 * counts.clean_copies

    weight = 4 * counts.clean_copies / num_mixed
    assert weight == pytest.approx(clean_weight, rel=0.1)
    same = MultiMixLoss(num_tuples=counts.num_tuples, clean_weight=weight, label_smoothing=0.1)
    expected = seeded(same, logits, target, attention, clean_logits)
    # targets are float32, as timm's
    torch.testing.assert_close(SoftTargetCrossEntropy()(*rows).double(), expected, rtol=1e-6, atol=0.)


@given(
    st.integers(1, 600), st.one_of(st.none(), st.integers(1, 1024)), st.floats(0.1, 10.),
    st.one_of(st.none(), st.integers(20, 1000)))
def test_rows_are_bounded_and_come_close_to_the_clean_weight(batch_size, positions, clean_weight, num_tuples):
    criterion, r = MultiMixLoss(num_tuples, clean_weight=clean_weight), positions or 1
    try:
        counts = row_counts(criterion, batch_size, positions)
    except ValueError as error:
        assert 'clean_weight' in str(error) and clean_weight < 1.
        return
    num_mixed, num_clean = counts.num_tuples * r, counts.clean_copies * batch_size
    assert num_mixed + num_clean <= 2 * (criterion.settings.tuples(positions) * r + batch_size)
    # off by at most one clean copy, or one tuple at every position
    assert abs(num_clean - clean_weight * num_mixed) <= max(batch_size, clean_weight * r)


@pytest.mark.parametrize('clean_weight', [1e-3, 1000.])
def test_a_clean_weight_that_would_need_too_many_rows_is_refused(clean_weight):
    with pytest.raises(ValueError, match=f'clean_weight={clean_weight:g} would take .* rows'):
        row_counts(MultiMixLoss(clean_weight=clean_weight), 64, 196 if clean_weight > 1 else None)


@pytest.mark.parametrize('dense', [False, True])
@pytest.mark.parametrize('soft', [False, True])
def test_in_eval_mode_rows_are_the_clean_batch(soft, dense):
    logits, target, attention, clean_logits = problem(dense, soft=soft)
    criterion = MultiMixLoss(length=5, label_smoothing=0.1).eval()
    rows, soft_target = mix(criterion, logits, target, attention, clean_logits)
    loss = criterion(logits, target, attention, clean_logits)
    torch.testing.assert_close(SoftTargetCrossEntropy()(rows, soft_target.double()), loss, rtol=1e-6, atol=1e-6)
