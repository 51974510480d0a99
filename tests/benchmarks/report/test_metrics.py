"""`benchmarks.report.metrics`: numbers over several seeds, and the verdicts on their differences."""
import pytest

from benchmarks.report.metrics import TABLES, best_other, num_tests, verdict, verdicts

TOP1, LOSS = TABLES['Accuracy: held-out images']


def accuracies(**values):
    """Make parts that hold each method's accuracies, given as a list of (top-1, loss), one per seed."""
    return dict(accuracy={
        method.replace('_', '-'): [dict(result=dict(top1=top1, loss=loss)) for top1, loss in seeds]
        for method, seeds in values.items()})


@pytest.mark.parametrize('metric, ours, theirs, expected', [
    (TOP1, [75., 75.5, 74.5], [70., 70.5, 69.5], '+5.00, wins'),
    (TOP1, [70., 70.5, 69.5], [75., 75.5, 74.5], '-5.00, loses'),
    (LOSS, [0.8, 0.81, 0.79], [1., 1.01, 0.99], '-0.200, wins'),
    (TOP1, [70., 75., 80.], [70., 74., 79.], '+0.67, not significantly different'),
    (TOP1, [70., 70.], [69., 69.], '+1.00, not significantly different'),
    (TOP1, [70.], [60., 61.], '+9.50, one seed: no verdict'),
    (TOP1, [], [60.], 'not measured'),
    (TOP1, [9.9, 9.8, 9.7], [5., 5.1, 4.9], 'both at chance or below'),
    (TOP1, [10.9, 10.8, 10.7], [5., 5.1, 4.9], '+5.80, wins'),
    (LOSS, [0.9, 0.8, 0.7], [5., 5.1, 4.9], '-4.200, wins'),
])
def test_verdicts(metric, ours, theirs, expected):
    assert verdict(metric, ours, theirs, chance=10.) == expected


def test_which_metrics_are_better_when_lower():
    up = {metric.name for metrics in TABLES.values() for metric in metrics if metric.higher}
    down = {metric.name for metrics in TABLES.values() for metric in metrics if not metric.higher}
    assert down == {
        'test loss', 'ECE', 'FPR95, softmax', 'FPR95, energy', 'alignment', 'uniformity', 'class spread'}
    assert {'top-1 (%)', 'PGD 2/255', 'blur', 'AUROC, energy', 'AUPR, softmax', 'class separation'} < up


def test_the_best_other_is_not_ours():
    parts = accuracies(
        plain=[(70., 1.)], cutmix=[(72., 1.2)], multimix=[(80., 0.1)], dense_multimix_pairs=[(81., 0.1)])
    assert best_other(TOP1, parts) == 'cutmix' and best_other(LOSS, parts) == 'plain'
    assert best_other(TOP1, accuracies(multimix=[(80., 0.1)])) is None


def test_the_best_other_has_several_seeds_if_any_method_has():
    parts = accuracies(plain=[(70., 1.), (71., 1.)], cutmix=[(72., 1.2)])
    assert best_other(TOP1, parts) == 'plain'


def test_a_seed_that_diverged_is_not_left_out_of_the_mean():
    parts = accuracies(
        plain=[(70., 1.), (71., 1.1)], multimix=[(72., 0.9), (10., None)],
        multimix_distilled=[(73., None), (74., None)])
    assert LOSS.cell(parts, 'plain') == '1.050 ± 0.071'
    assert LOSS.cell(parts, 'multimix') == '1 of 2 diverged' and LOSS.values(parts, 'multimix') == []
    assert LOSS.cell(parts, 'multimix-distilled') == ''  # not measured with a teacher
    rows = [row for row in verdicts(parts, 10.) if row[0] == LOSS.title]
    assert rows == [[LOSS.title, 'MultiMix', '1 of 2 diverged', '', '']]
    parts = accuracies(
        plain=[(70., 1.), (10., None)], cutmix=[(70., 1.), (71., 1.2)], multimix=[(72., 0.9), (73., 0.6)])
    rows = [row for row in verdicts(parts, 10.) if row[0] == LOSS.title]
    assert rows == [[LOSS.title, 'MultiMix', '1 of 2 diverged', 'CutMix', '-0.350, not significantly different']]


def test_the_same_comparison_counts_once():
    rows = [
        ['a', 'multimix', '+1.00, wins', 'plain', '+1.00, wins'],
        ['b', 'multimix', '+1.00, loses', 'cutmix', '+0.10, not significantly different'],
        ['c', 'multimix', 'both at chance or below', 'cutmix', '+0.10, one seed: no verdict']]
    assert num_tests(rows) == 3
