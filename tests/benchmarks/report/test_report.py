"""`benchmarks.report` and its parts, on records made up here."""
import base64
import glob
import io
import json
import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from benchmarks.methods import METHODS
from benchmarks.report import __main__ as report
from benchmarks.report import figures
from benchmarks.report.map_figures import mixed_target
from benchmarks.suite.budget import budget
from benchmarks.suite.results import write_result
from benchmarks.suite.running import RESULTS
from benchmarks.suite.runs import read_runs

COMMITTED = sorted(glob.glob(os.path.join(RESULTS, 'report', '*.md')))
_PNG = io.BytesIO()
Image.new('RGB', (8, 8), 'green').save(_PNG, format='png')


def write(folder, kind, method, seed, **result):
    settings = dict(recipe='cifar10', method=method, seed=seed, checkpoint='a' * 12)
    if kind == 'accuracy':
        settings['flags'] = budget('cifar10', method, seed)
    write_result(str(folder / kind / 'cifar10' / f'{method}-{seed}.json'), kind, settings, result)


@pytest.fixture
def accuracies(tmp_path):
    for seed, (plain, ours) in enumerate([(70., 75.), (70.5, 75.5), (69.5, 74.5)]):
        write(tmp_path, 'accuracy', 'plain', seed, top1=plain, loss=1.)
        write(tmp_path, 'accuracy', 'multimix', seed, top1=ours, loss=1.)
    write(tmp_path, 'accuracy', 'multimix-distilled', 0, top1=76., loss=None, teacher_top1=77.)
    return tmp_path


def sections(folder):
    return {section.title: section for section in report.build('cifar10', str(folder))}


def test_with_accuracy_alone_the_report_names_what_is_missing(accuracies):
    found = sections(accuracies)
    rows = found['Where MultiMix wins and loses'].table
    assert ['top-1 (%) ↑', 'MultiMix', '+5.00, wins', 'plain', '+5.00, wins'] in rows
    alone = '+6.00, one seed: no verdict'
    assert ['top-1 (%) ↑', 'MultiMix, self-distilled', alone, 'plain', alone] in rows
    level = '+0.000, not significantly different'
    assert ['test loss ↓', 'MultiMix', level, 'plain', level] in rows
    assert not any(row[0].startswith('test loss') and row[1] == 'MultiMix, self-distilled' for row in rows)
    table = found['Accuracy: held-out images'].table
    assert table[1] == ['plain', '70.00 ± 0.50', '1.000 ± 0.000']
    assert table[3] == ['MultiMix, self-distilled', '76.00', '']
    assert found['Accuracy'].png.startswith(b'\x89PNG')
    unmeasured = (
        'Attacks', 'Corruptions', 'Outliers and calibration', 'Step time against accuracy', 'Object detection')
    for title in unmeasured:
        assert found[title].png is None and found[title].text[0].startswith('Not measured yet')
    missing = ' '.join(found['What is missing'].text)
    assert 'Not trained: label-smoothing, mixup,' in missing
    assert 'One seed, so neither spread nor verdict: multimix-distilled.' in missing
    assert 'No robustness of: multimix-0, multimix-1, multimix-2, multimix-distilled-0, plain-0' in missing


def test_a_figure_says_what_it_was_made_from(accuracies):
    found = sections(accuracies)
    seeds = 'n seeds: plain 3, MultiMix 3, MultiMix, self-distilled 1'
    for part in (seeds, 'cifar_resnet18, 40 epochs', 'CPU threads: '):
        assert part in found['Accuracy'].caption
    assert 'torch ' in found['Versions'].text[0] and 'commit ' in found['Versions'].text[0]


def test_every_part_of_the_report_is_built(accuracies):
    write(accuracies, 'accuracy', 'dense-multimix', 0, top1=77., loss=1.)
    for method, seed in (('plain', 0), ('plain', 1), ('multimix', 0)):
        attacks = [
            dict(attack=attack, eps_255=radius, steps=10, top1=50. - 5 * radius)
            for attack in ('fgsm', 'pgd') for radius in (1, 2, 4, 8)]
        corruptions = [
            dict(corruption=name, level=level, strength=level / 10, top1=60. - level)
            for name in ('noise', 'blur', 'contrast', 'jpeg') for level in (1, 2, 3)]
        write(accuracies, 'robustness', method, seed, images=9, top1=70., attacks=attacks, corruptions=corruptions)
        scores = dict(auroc=0.8, aupr=0.7, fpr95=0.5)
        write(accuracies, 'ood', method, seed, ece=0.05, sets={'noise': dict(msp=scores, energy=scores)})
        write(accuracies, 'embedding_space', method, seed, alignment=0.4, uniformity=-1.5, spread=0.4, separation=0.8,
              ratio=0.5, picture=dict(projection='pca', x=[0., 1.], y=[1., 0.], label=[0, 1]))
    image = base64.b64encode(_PNG.getvalue()).decode()
    for method in ('plain', 'dense-multimix'):
        write(accuracies, 'attention', method, 0, classes=['<a>', 'b'], labels=[0, 1], images=[image] * 2,
              attention=[[[0.25] * 2] * 2] * 2, weights=[[[[0.5] * 2] * 2] * 2] * 3)
    step_times = dict(runs=[dict(model='m', batch_size=4, methods={
        'plain': dict(ratio=1., ratio_quartiles=[1., 1.]), 'multimix': dict(ratio=1.1, ratio_quartiles=[1.0, 1.2])})])
    write_result(str(accuracies / 'step_time' / 'cifar10.json'), 'step_time', {}, step_times)
    setting = dict(detector='fasterrcnn', model='m', epochs=8, batch_size=4, opt='sgd', lr=0.1)
    detections = dict(
        scratch=[(0, None, 20.)], plain=[(0, 'a' * 64, 30.), (1, 'a' * 64, 32.)], cutmix=[(0, 'b' * 64, 40.)])
    for method, runs in detections.items():
        for seed, digest, ap in runs:
            settings = dict(method=method, seed=seed, budget=setting)
            write_result(
                str(accuracies / 'detection' / 'shapes' / f'{method}-{seed}.json'), 'detection',
                dict(settings, checkpoint=digest and dict(sha256=digest)),
                dict(ap=ap, ap50=50., ap75=10., images=dict(train=4, evaluate=5)))
    found = sections(accuracies)
    pictures = [title for title, section in found.items() if section.png is not None]
    assert pictures == [
        'Accuracy', 'Step time against accuracy', 'Attacks', 'Corruptions', 'Outliers and calibration',
        'Embedding space in numbers', 'Embedding space in pictures', 'Attention', 'Tuples of Dense MultiMix',
        'Object detection in a figure (shapes)']
    assert all('Budget' in found[title].caption and 'n ' in found[title].caption for title in pictures)
    detected = found['Object detection (shapes)']
    assert detected.table[1:] == [  # cutmix started from other weights than this report's
        ['scratch', '20.0', '50.0', '10.0', '0'], ['plain', '31.0 ± 1.4', '50.0 ± 0.0', '10.0 ± 0.0', '0, 1']]
    assert '1 runs on other weights are left out' in detected.text[0]
    assert 'fasterrcnn on m, 8 epochs' in detected.caption
    assert ['MultiMix', '40.00', '30.00', '10.00', '40.00', '30.00', '10.00'] in found['Attacks: top-1 (%)'].table
    for title in ('Attacks', 'Attacks: top-1 (%)'):
        assert 'PGD takes 10 steps' in found[title].text[0]
    assert found['Attention'].caption.startswith('n = 1 seed each')
    assert '; spreads are standard deviations over them' in found['Accuracy'].caption
    time = found['Step time against accuracy'].text[0]
    assert 'Not timed: Dense MultiMix, MultiMix, self-distilled.' in time


def test_the_command_writes_html_and_markdown(accuracies, capsys):
    folder = accuracies / 'pages'
    assert report.main(['--recipe', 'cifar10', '--results', str(accuracies), '--report', str(folder)]) == 0
    page, text = (folder / 'cifar10.html').read_text(), (folder / 'cifar10.md').read_text()
    assert page.count('<img alt=') == 1 and 'src="data:image/png;base64,' in page
    assert 'http' not in page.replace('http-equiv', '')  # the page loads nothing
    assert '| plain | 70.00 ± 0.50 | 1.000 ± 0.000 |' in text.splitlines() and 'p &lt; 0.05' in page


def test_a_recipe_without_runs_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_info:
        report.main(['--recipe', 'cifar10', '--results', str(tmp_path)])
    assert exit_info.value.code == 2 and 'has no runs of cifar10 yet' in capsys.readouterr().err


def test_results_measured_with_other_settings_are_refused(accuracies):
    for method, steps in (('plain', 10), ('multimix', 50)):
        settings = dict(recipe='cifar10', method=method, seed=0, checkpoint='a' * 12, steps=steps)
        path = accuracies / 'robustness' / 'cifar10' / f'{method}-0.json'
        write_result(str(path), 'robustness', settings, dict(top1=1.))
    message = 'robustness with the same steps, got 10 for plain-0 and 50 for multimix-0'
    with pytest.raises(ValueError, match=message):
        report.build('cifar10', str(accuracies))


def test_results_on_other_images_are_refused(accuracies):
    folder = accuracies / 'accuracy' / 'cifar10'
    change(folder / 'plain-1.json', data='1' * 12)  # the others are older and do not record it
    report.build('cifar10', str(accuracies))
    write(accuracies, 'ood', 'multimix', 0, ece=0.05)
    change(accuracies / 'ood' / 'cifar10' / 'multimix-0.json', data='2' * 12)
    with pytest.raises(ValueError, match="ood with the same data, got '1+' for plain-1 and '2+' for multimix-0"):
        report.build('cifar10', str(accuracies))


@pytest.mark.parametrize('method, seed', [('plain', 3), ('cutmix', 0)])
def test_parts_of_a_run_without_accuracy_are_refused(method, seed, accuracies):
    """They would enter the means and figures, but not the counts in the captions."""
    write(accuracies, 'ood', method, seed, ece=0.05)
    with pytest.raises(ValueError, match=f'must have accuracy of {method}-{seed}, of which it has ood'):
        report.build('cifar10', str(accuracies))


def change(path, **settings):
    record = json.loads(path.read_text())
    record['settings'].update(settings)
    path.write_text(json.dumps(record))


@pytest.mark.parametrize('kind, settings, message', [
    ('accuracy', dict(flags='--epochs 9'), "plain-0 with flags '--model cifar_resnet18 .*, got '--epochs 9'"),
    ('accuracy', dict(checkpoint='b' * 12), 'ood of the checkpoint of accuracy, b+, got a+ for plain-0'),
    ('ood', dict(checkpoint='b' * 12), 'ood of the checkpoint of accuracy, a+, got b+ for plain-0'),
    ('accuracy', dict(seed=7), 'plain-0.json must be a result of that name, got one of cifar10/plain-7.json'),
    ('ood', dict(recipe='digits'), 'plain-0.json must be a result of that name, got one of digits/plain-0.json'),
])
def test_results_that_do_not_belong_together_are_refused(kind, settings, message, accuracies):
    write(accuracies, 'ood', 'plain', 0, ece=0.05)
    change(accuracies / kind / 'cifar10' / 'plain-0.json', **settings)
    with pytest.raises(ValueError, match=message):
        report.build('cifar10', str(accuracies))


def test_a_copied_result_does_not_count_as_another_seed(accuracies):
    folder = accuracies / 'accuracy' / 'cifar10'
    shutil.copy(folder / 'plain-1.json', folder / 'plain-1-copy.json')
    with pytest.raises(ValueError, match='plain-1-copy.json must be a result of that name'):
        report.build('cifar10', str(accuracies))


def test_the_report_names_the_code_that_trained(accuracies):
    write(accuracies, 'accuracy', 'plain', 0, top1=70., loss=1., commits=['first', 'second'])
    assert re.search('commit first and second and [0-9a-f]', sections(accuracies)['Versions'].text[0])


def test_a_file_that_is_not_a_result_is_named(accuracies, capsys):
    for text in ('{"top1": ', '{"top1": 70.0}'):
        (accuracies / 'accuracy' / 'cifar10' / 'plain-0.json').write_text(text)
        with pytest.raises(SystemExit, match='2'):
            report.main(['--recipe', 'cifar10', '--results', str(accuracies)])
        assert 'plain-0.json is not a result' in capsys.readouterr().err


def test_the_report_says_that_two_seeds_tell_little(accuracies):
    (accuracies / 'accuracy' / 'cifar10' / 'plain-2.json').unlink()
    missing = sections(accuracies)['What is missing'].text
    assert 'Two seeds, which tell little: plain.' in missing and 'No attention maps.' in missing


def test_variants_have_different_styles():
    names = ['multimix-alpha-1', 'multimix-alpha-4', 'dense-multimix-alpha-1', 'plain-lr-0.4', *METHODS]
    styles = {name: figures.style(name) for name in names}
    assert len({str(style) for style in styles.values()}) == len(names)
    assert styles['plain-lr-0.4']['color'] == styles['plain']['color'] != styles['multimix']['color']
    assert styles['dense-multimix-alpha-1']['color'] == styles['dense-multimix']['color']


def test_the_accuracy_figure_leaves_out_a_missing_loss(accuracies):
    figure = figures.accuracy(read_runs('cifar10', str(accuracies / 'accuracy')))
    top1, loss = ([len(line.get_xdata()) for line in axis.lines] for axis in figure.axes)
    assert top1 == [3, 2, 3, 2, 1, 2]  # points and bar of plain, multimix, multimix-distilled
    assert loss == [3, 2, 3, 2, 0]


def test_variants_are_left_out_unless_named(accuracies):
    write(accuracies, 'accuracy', 'multimix-paper', 0, top1=10., loss=2.3)
    assert 'MultiMix, paper' not in str(sections(accuracies)['Accuracy: held-out images'].table)
    named = report.build('cifar10', str(accuracies), ['plain', 'multimix-paper'])
    rows = next(section.table for section in named if section.title == 'Accuracy: held-out images')
    assert [row[0] for row in rows[1:]] == ['plain', 'MultiMix, paper']


def test_shares_of_a_mixed_target():
    weights = np.array([[[0.2, 1.0]], [[0.3, 0.0]], [[0.5, 0.0]]])
    np.testing.assert_allclose(mixed_target(weights, [1, 1, 2], 3), [[[0., 0.]], [[0.5, 1.]], [[0.5, 0.]]])


@pytest.mark.parametrize('path', COMMITTED, ids=os.path.basename)
def test_committed_reports_match_committed_results(path):
    recipe = os.path.splitext(os.path.basename(path))[0]
    heading, sections = report.title(recipe), report.build(recipe, os.path.dirname(os.path.dirname(path)))
    with open(path, encoding='utf-8') as file:
        assert file.read() == report.to_markdown(heading, sections)
    with open(f'{os.path.splitext(path)[0]}.html', encoding='utf-8') as file:  # figures depend on the fonts
        assert without_figures(file.read()) == without_figures(report.to_html(heading, sections))


def without_figures(page):
    return re.sub('base64,[^"]+', '', page)


def test_there_is_a_committed_report():
    assert COMMITTED
