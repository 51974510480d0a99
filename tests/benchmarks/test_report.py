"""`benchmarks.report`: one frame of all results, comparisons by seed, ranks, and pages that it writes."""
import json
from pathlib import Path

import pandas as pd
import pytest
import timm
import torch
from scipy import stats

from benchmarks.recipes import REGIMES
from benchmarks.records import RESULTS, to_json, write_record
from benchmarks.report import __main__ as report
from benchmarks.report import figures
from benchmarks.report.frame import Metric, methods_of, of_method, read_results
from benchmarks.report.tables import (
    ACCURACY,
    Regimes,
    accuracy_table,
    measure_table,
    step_table,
    to_markdown,
    variants_table,
)
from tests.support.benchmarks import check_schema

NUMBERS = {
    ('short', 'plain'): {1: (70., 1., 0.2), 2: (72., 1.1, 0.1)},
    ('short', 'mixup'): {1: (68., 0.9, 0.1), 2: (71., 0.8, 0.1), 3: (90., 0.1, 0.1)},
    ('short', 'dense-multimix'): {1: (71., 0.7, 0.05), 2: (74., 0.6, 0.05)},
    ('fitted', 'plain'): {1: (60., 2., 0.3)},
    ('fitted', 'strength'): {1: (59., 1.5, 0.1)},
    ('fitted', 'dense-multimix'): {1: (58., 1.6, 0.1)},
}


def add(folder, recipe, method, seed, measures=None, data='d', **result):
    """Write a result; `result` is that of accuracy."""
    environment = dict(
        commit='c0ffee', python='3', torch='2', torchvision='0', timm='1', numpy='2', timm_multimix='0.2', threads=1,
        processor='CPU', gpu=None)
    measured = {
        name: dict(settings=dict(data=data), environment=environment, result=each)
        for name, each in {'accuracy': result, **(measures or {})}.items()}
    path = folder / recipe / f'{method}-{seed}.json'
    write_record(str(path), dict(
        benchmark='evaluate', settings=dict(recipe=recipe, method=method, seed=seed, checkpoint='a', model='m'),
        training=dict(commits=['bead']), measures=measured))
    return str(path)


@pytest.fixture
def folder(tmp_path):
    for (regime, method), seeds in NUMBERS.items():
        for seed, (top1, loss, ece) in seeds.items():
            add(tmp_path, REGIMES[regime], method, seed, top1=top1, loss=loss, ece=ece)
    return tmp_path


def frame_of(folder):
    return read_results(sorted(map(str, folder.rglob('*.json'))))


def rows_of(table):
    return {row[0]: row[1:] for row in table}


def test_committed_results_follow_the_schema():
    for path in sorted(Path(RESULTS).rglob('*.json')):
        record = json.loads(path.read_text())
        try:
            check_schema(record)
        except (AssertionError, KeyError) as error:
            pytest.fail(f'{path}: {error!r}')
        if record['benchmark'] == 'evaluate':
            assert path.parent.name == record['settings']['recipe']
            assert path.name == '{method}-{seed}.json'.format(**record['settings'])


@pytest.mark.slow
def test_committed_tables_and_blocks_are_those_of_the_results(tmp_path):
    """The report of the repository writes nothing new."""
    pages = [path for path in Path(RESULTS).parents[1].glob('docs/*.md')]
    before = [path.read_text() for path in pages]
    assert report.main(['--output', str(tmp_path), '--pages', *map(str, pages)]) == 0
    assert [path.read_text() for path in pages] == before
    for path in (Path(RESULTS) / 'tables').glob('*.*'):
        if path.suffix != '.png':
            assert (tmp_path / path.name).read_text() == path.read_text(), path.name


def test_the_frame_has_a_row_per_checkpoint(folder):
    frame = frame_of(folder)
    assert len(frame) == 10 and methods_of(frame) == ['plain', 'mixup', 'dense-multimix', 'strength']
    row = frame[(frame.method == 'mixup') & (frame.seed == 3)].iloc[0]
    assert (row['accuracy.top1'], row.commits, row.commit) == (90., 'bead', 'c0ffee')


def test_means_ranks_and_the_worst_difference(folder):
    header, *rows = Regimes(frame_of(folder), ACCURACY[0]).table()
    rows = rows_of(rows)
    assert header == ['top-1 (%) ↑', 'short', 'fitted', 'mean rank', 'worst difference from plain']
    assert rows['plain'] == ['71.00 ± 1.41', '60.00', '1.5', '+0.00']  # ranks 2 and 1
    assert rows['Mixup'] == ['69.50 ± 2.12', '', '', '']  # not in every regime
    assert rows['Dense MultiMix'] == ['72.50 ± 2.12', '58.00', '1.5', '-2.00']  # strength, not everywhere, has no rank


def test_a_lower_loss_and_calibration_error_is_better(folder):
    assert rows_of(Regimes(frame_of(folder), ACCURACY[1]).table())['Dense MultiMix'] == [
        '0.650 ± 0.071', '1.600', '1.0', '-0.400']
    assert rows_of(Regimes(frame_of(folder), ACCURACY[2]).table())['plain'] == ['15.0 ± 7.1', '30.0', '2.0', '+0.0']


def test_tables_use_shared_seeds_and_judgements_all_of_each_comparison(folder):
    (folder / REGIMES['short'] / 'dense-multimix-2.json').unlink()
    scores = Regimes(frame_of(folder), ACCURACY[0])
    assert rows_of(scores.table())['Mixup'][0] == '68.00'
    assert scores.best_three()[1:] == [
        ['short', '1', 'Dense MultiMix: 71.00', 'plain: 70.00', 'Mixup: 68.00', '+1.00', '+3.00'],
        ['fitted', '1', 'plain: 60.00', 'Mixup + Dense MultiMix, strength auto: 59.00', 'Dense MultiMix: 58.00',
         '+1.00', '+2.00']]
    for seed, top1 in ((2, 65.), (3, 66.)):
        add(folder, REGIMES['fitted'], 'strength', seed, top1=top1, loss=1., ece=0.1)
        add(folder, REGIMES['fitted'], 'plain', seed, top1=60., loss=1., ece=0.1)
    add(folder, REGIMES['fitted'], 'mixup', 2, top1=64.5, loss=1., ece=0.1)
    scores = Regimes(frame_of(folder), ACCURACY[0])
    p = stats.ttest_1samp([-1., 5., 6.], 0.).pvalue
    assert scores.recommendation_vs_baselines()[2] == ['fitted', '2', '+5.00', 'Mixup', '+0.50']
    plain, ours = (of_method(scores.runs['fitted'], name) for name in ('plain', 'strength'))
    assert ACCURACY[0].difference_cell(ours, plain) == f'+3.33 ({p:.2g})'


def test_the_table_of_a_recipe_compares_on_shared_seeds(folder):
    frame = frame_of(folder)
    header, plain, mixup, dense = accuracy_table(frame[frame.recipe == REGIMES['short']], ['plain', 'cutmix'])
    assert header[4:] == ['seeds', *(f'plain minus this: {metric.name} (p)' for metric in ACCURACY)]
    assert plain[1:] == ['71.00 ± 1.41', '1.050 ± 0.071', '15.0 ± 7.1', '1, 2', '', '', '']
    assert mixup[1] == '69.50 ± 2.12' and mixup[5] == '+1.50'  # two seeds have no p-value
    assert dense[0] == 'Dense MultiMix'


def test_a_variant_is_beside_its_method_on_the_seeds_of_both(folder):
    for seed, top1 in ((2, 75.), (9, 99.)):
        add(folder, REGIMES['short'], 'dense-multimix@tuples=64', seed, top1=top1, loss=0.5, ece=0.1)
    assert variants_table(frame_of(folder))[1:] == [[
        'Dense MultiMix, tuples 64', REGIMES['short'], '2', '75.00', '74.00', '+1.00', '0.500', '0.600', '-0.100']]


def test_a_seed_that_diverged_is_counted_and_leaves_no_mean(folder):
    add(folder, REGIMES['short'], 'mixup', 2, top1=10., loss=None, ece=None)
    own = of_method(frame_of(folder), 'mixup')
    assert ACCURACY[1].cell(own) == '1 of 3 diverged' and ACCURACY[1].mean(own) is None
    assert Metric('boxes', 'boxes.*').cell(own) == ''  # which nobody measured


def test_the_best_mean_is_bold_and_a_significant_difference_has_a_star(tmp_path):
    values = dict(plain=(0.5, 0.51, 0.52), mixup=(0.7, 0.71, 0.73), cutmix=(0.5, 0.7, 0.6))
    for method, each in values.items():
        for seed, auroc in enumerate(each):
            scores = dict(msp=dict(auroc=auroc), energy=dict(auroc=0.5))
            add(tmp_path, 'mine', method, seed, dict(outliers=dict(sets=dict(noise=scores, digits=scores))), top1=1.)
    rows = rows_of(measure_table(frame_of(tmp_path), 'outliers'))
    assert rows['outliers'] == ['plain', 'Mixup', 'CutMix']
    assert rows['AUROC of softmax (%) ↑'] == ['51.0 ± 1.0', '**71.3 ± 1.5** *', '60.0 ± 10.0']
    assert rows['AUROC of energy (%) ↑'] == ['**50.0 ± 0.0**'] * 3
    assert 'FPR95 of softmax (%) ↓' not in rows  # which nobody measured


def test_results_that_do_not_belong_together_are_refused(folder):
    path = add(folder, REGIMES['short'], 'cutmix', 1, data='other', top1=70.)
    with pytest.raises(ValueError, match="cutmix-1.json has accuracy with data 'other', but .* with 'd'|.*-1.json has"):
        frame_of(folder)
    Path(path).unlink()
    copy = folder / REGIMES['short'] / 'copy.json'
    copy.write_text((folder / REGIMES['short'] / 'plain-1.json').read_text())
    with pytest.raises(ValueError, match='copy.json and .*plain-1.json are of the same run'):
        frame_of(folder)
    copy.write_text('{"top1": ')
    with pytest.raises(ValueError, match='copy.json is not a result'):
        frame_of(folder)
    copy.write_text('{"schema": 1}')
    with pytest.raises(ValueError, match='copy.json is not a result of this version, which has "schema": 2'):
        frame_of(folder)


def test_the_command_writes_tables_figures_and_blocks(folder, tmp_path):
    attacks = dict(top1=70., attacks=dict(fgsm={'2': 9.}), corruptions=dict(noise={'0.04': 60.}))
    space = dict(alignment=0.5, uniformity=-1.5, spread=0.5, separation=0.8)
    for seed in (1, 2):
        add(folder, REGIMES['short'], 'plain', seed, dict(
            robustness=attacks, embeddings=space, outliers=dict(sets=dict(noise=dict(msp=dict(auroc=0.5))))), top1=70.,
            loss=1., ece=0.1)
    page = tmp_path / 'page.md'
    page.write_text('before\n<!-- results: best-three -->\nold\n<!-- /results -->\n<!-- results: mine -->\nkept\n'
                    '<!-- /results -->\nafter\n')
    out = tmp_path / 'out'
    assert report.main([str(folder), '--output', str(out), '--pages', str(page), '--figures']) == 0
    table = to_markdown(Regimes(frame_of(folder), ACCURACY[0]).best_three())
    assert page.read_text() == (
        f'before\n<!-- results: best-three -->\n{table}\n<!-- /results -->\n<!-- results: mine -->\nkept\n'
        '<!-- /results -->\nafter\n')
    assert table in (out / 'regimes.md').read_text() and 'commits bead c0ffee' in (out / 'regimes.md').read_text()
    short = REGIMES['short']
    drawn = {path.name for path in out.glob('*.png') if path.stat().st_size > 4000}
    assert drawn == {'regimes.png', f'{short}.png', f'{REGIMES["fitted"]}.png'}
    means = pd.read_csv(out / 'means.csv').set_index(['recipe', 'method', 'metric'])
    assert tuple(means.loc[(short, 'mixup', 'accuracy.top1')]) == pytest.approx((3, 229. / 3., 11.930), abs=1e-3)
    assert len(pd.read_csv(out / 'runs.csv')) == 10


@pytest.mark.parametrize('flags, message', [
    (['nowhere'], 'no folder nowhere'), (['.'], 'no results of benchmarks.evaluate or benchmarks.timing in .'),
    (['--attention', 'nowhere.pth'], 'no checkpoint nowhere.pth')])
def test_mistakes_are_refused(flags, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match='2'):
        report.main(flags)
    assert message in capsys.readouterr().err


def test_a_run_without_a_loss_is_drawn(folder):
    add(folder, REGIMES['short'], '20250101-resnet50', 1, top1=50., loss=None, ece=None)
    frame = frame_of(folder)
    drawn = figures.accuracy(frame[frame.recipe == REGIMES['short']])
    top1, loss = ([len(line.get_xdata()) for line in axis.lines] for axis in drawn.axes)
    assert (top1, loss) == ([2, 2, 3, 2, 2, 2, 1, 2], [2, 2, 3, 2, 2, 2, 0])  # points and bar of each method


def test_attention_is_drawn_for_checkpoints(image_folder, tmp_path):
    weights = tmp_path / 'run' / 'weights.pth'
    weights.parent.mkdir()
    torch.save(timm.create_model('test_vit', num_classes=3).state_dict(), weights)
    assert report.main([
        '--attention', str(weights), '--data-dir', str(image_folder), '--model', 'test_vit', '--num-classes', '3',
        '--device', 'cpu', '--workers', '0', '--output', str(tmp_path)]) == 0
    assert (tmp_path / 'attention.png').stat().st_size > 10_000


def test_a_table_of_steps():
    row = dict(seconds=0.5, ratio=1.25, ratio_quartiles=[1.2, 1.3], peak_memory=3 * 2 ** 20)
    record = dict(result=dict(runs=[dict(model='m', batch_size=8, methods=dict(
        plain=dict(row, peak_memory=2 ** 20),
        multimix=dict(row, teacher_forwards=1.1, teacher_forwards_quartiles=[1., 1.2])))]))
    assert step_table(record)[2] == [
        'm', '8', 'MultiMix', '500.0 ms', '1.250 (1.200 to 1.300)', '1.10 (1.00 to 1.20)', '3 MiB (+200.0 %)']


def test_a_result_is_finite_and_written_whole(tmp_path):
    with pytest.raises(ValueError, match='not JSON compliant'):
        write_record(str(tmp_path / 'result.json'), dict(ratio=float('nan')))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('value, lines', [
    ({}, 1), ([], 1), (None, 1), (dict(a=1, b=[1., 2.]), 1), (list(range(1000)), 1), (dict(a=list(range(100))), 3),
    (dict(a='x' * 80, b=dict(c=['y' * 80, 'z"[]{}' * 20])), 9), ([dict(epoch=0., name='x' * 100)] * 2, 4)])
def test_json_reads_back_and_is_compact(value, lines):
    text = to_json(value)
    assert json.loads(text) == value and len(text.splitlines()) == lines
