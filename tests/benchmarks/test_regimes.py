"""`benchmarks.regimes`: the table of methods and regimes."""
import json
import os

import pytest

from benchmarks.recipes import REGIMES
from benchmarks.regimes import __main__ as regimes
from benchmarks.regimes.judgement import best_three, rule_beside_the_usual
from benchmarks.regimes.scores import METHODS, Scores
from benchmarks.report.metrics import ACCURACY_METRICS


@pytest.fixture
def results(tmp_path):
    """Two regimes; Mixup has no runs in one of them, and one more seed than plain training in the other."""
    numbers = {
        ('short', 'plain'): {1: (70., 1., 0.2), 2: (72., 1.1, 0.1)},
        ('short', 'mixup'): {1: (68., 0.9, 0.1), 2: (71., 0.8, 0.1), 3: (90., 0.1, 0.1)},
        ('short', 'auto'): {1: (71., 0.7, 0.05), 2: (74., 0.6, 0.05)},
        ('fitted', 'plain'): {1: (60., 2., 0.3)},
        ('fitted', 'auto'): {1: (59., 1.5, 0.1)},
    }
    for (regime, method), seeds in numbers.items():
        for seed, values in seeds.items():
            add(str(tmp_path), regime, method, seed, *values)
    return str(tmp_path)


def add(results, regime, method, seed, top1, loss, ece):
    folder = os.path.join(results, REGIMES[regime])
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, f'{method}-{seed}.json'), 'w') as file:
        json.dump(dict(
            settings=dict(recipe=REGIMES[regime], method=method, seed=seed), environment={},
            result=dict(top1=top1, loss=loss, ece=ece)), file)


def table(results, metric):
    runs = regimes.read_regimes(results)
    rows = Scores(ACCURACY_METRICS[metric], runs, dict(short='auto', fitted='plain')).table()
    return rows[0], {row[0]: row[1:] for row in rows[1:]}


def test_means_ranks_and_the_worst_difference(results):
    header, rows = table(results, 0)
    assert header == ['top-1 (%) ↑', 'short', 'fitted', 'mean rank', 'worst difference from plain']
    assert rows['plain'] == ['71.00 ± 1.41', '60.00', '1.5', '+0.00']  # ranks 2 and 1
    assert rows['Mixup'][:2] == ['69.50 ± 2.12', ''] and rows['Mixup'][2:] == ['', '']  # not in every regime
    auto = rows['Mixup + Dense MultiMix, share found']
    assert auto == ['72.50 ± 2.12', '59.00', '1.5', '-1.00']
    assert rows['**by the rule**'] == ['72.50 ± 2.12', '60.00', '1.0', '+0.00']


def test_a_lower_loss_and_calibration_error_is_better(results):
    _, rows = table(results, 1)
    assert rows['Mixup + Dense MultiMix, share found'] == ['0.650 ± 0.071', '1.500', '1.0', '-0.400']
    _, rows = table(results, 2)
    assert rows['plain'] == ['15.0 ± 7.1', '30.0', '2.5', '+0.0']


def test_differences_use_only_the_seeds_that_both_have(results):
    scores = Scores(ACCURACY_METRICS[0], regimes.read_regimes(results), {})
    assert scores.difference('short', 'mixup') == pytest.approx(-1.5)
    assert scores.difference('fitted', 'mixup') is None


def test_the_tables_use_the_seeds_that_all_methods_share_and_the_judgement_all_of_each_comparison(results):
    os.remove(os.path.join(results, REGIMES['short'], 'auto-2.json'))
    _, rows = table(results, 0)
    assert (rows['plain'][0], rows['Mixup'][0]) == ('70.00', '68.00')
    scores = Scores(ACCURACY_METRICS[0], regimes.read_regimes(results), dict(short='mixup', fitted='auto'))
    assert best_three(scores)[1:] == [
        ['short', '1', 'Mixup + Dense MultiMix, share found: 71.00', 'plain: 70.00', 'Mixup: 68.00', '+1.00', '+3.00'],
        ['fitted', '1', 'plain: 60.00', 'Mixup + Dense MultiMix, share found: 59.00', '', '+1.00', '']]
    assert rule_beside_the_usual(scores)[1:] == [
        ['short: Mixup', '1, 2', '-1.50 (0.2)', 'plain', '-1.50 (0.2)'],
        ['fitted: Mixup + Dense MultiMix, share found', '1', '-1.00', 'plain', '-1.00']]


def test_the_best_three_by_a_loss_are_the_lowest(results):
    scores = Scores(ACCURACY_METRICS[1], regimes.read_regimes(results), dict(short='auto', fitted='plain'))
    rows = best_three(scores)
    assert [cell.split(':')[0] for cell in rows[1][2:5]] == [
        'Mixup + Dense MultiMix, share found', 'Mixup', 'plain']
    assert rule_beside_the_usual(scores)[1][3] == 'Mixup'


def test_more_seeds_can_change_the_order_of_the_best_three_and_the_best_of_the_usual(results):
    for seed, top1 in ((2, 65.), (3, 66.)):
        add(results, 'fitted', 'auto', seed, top1, 1., 0.1)
        add(results, 'fitted', 'plain', seed, 60., 1., 0.1)
    add(results, 'fitted', 'mixup', 1, 58., 1., 0.1)
    add(results, 'fitted', 'mixup', 2, 65.5, 1., 0.1)
    add(results, 'fitted', 'multimix', 1, 57., 1., 0.1)
    scores = Scores(ACCURACY_METRICS[0], regimes.read_regimes(results), dict(short='auto', fitted='auto'))
    assert [cell.split(':')[0] for cell in best_three(scores)[2][2:5]] == [
        'Mixup + Dense MultiMix, share found', 'Mixup', 'plain']  # by seed 1, which all share, plain training is first
    assert rule_beside_the_usual(scores)[2][1:] == ['1, 2', '+2.00 (0.63)', 'Mixup', '+0.25 (0.8)']


def test_the_command_prints_all_tables_and_draws(results, tmp_path, capsys):
    assert regimes.main(['--results', results, '--figure', str(tmp_path / 'figure.png')]) == 0
    assert capsys.readouterr().out.count('**by the rule**') == 3
    assert (tmp_path / 'figure.png').stat().st_size > 1000
    with pytest.raises(SystemExit) as info:
        regimes.main(['--results', str(tmp_path / 'nothing')])
    assert info.value.code == 2


def test_every_regime_has_a_rule_of_a_method_in_the_table():
    assert regimes.RULE.keys() == REGIMES.keys() and set(regimes.RULE.values()) <= set(METHODS)
