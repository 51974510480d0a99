"""The table and the figure of `benchmarks.detection.table`."""
import json
from dataclasses import asdict

import pytest

from benchmarks.detection import table
from benchmarks.detection.recipes import RECIPES
from benchmarks.suite.results import environment, write_result


@pytest.fixture
def results(tmp_path):
    for method, seed, ap in (('plain', 1, 44.), ('plain', 0, 41.), ('scratch', 1, 20.), ('other', 0, 50.)):
        write_result(
            str(tmp_path / 'shapes' / f'{method}-{seed}.json'), 'detection',
            dict(method=method, seed=seed, budget=json.loads(json.dumps(asdict(RECIPES['digits'])))),
            dict(ap=ap, ap50=2 * ap, ap75=ap - 5, images=dict(train=398, evaluate=400)))
    return tmp_path


def test_table_and_figure(results, capsys):
    path = results / 'figure.png'
    assert table.main(['--setting', 'shapes', '--results', str(results), '--figure', str(path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        '| backbone | AP (%) | AP50 (%) | AP75 (%) | seeds |',
        '| --- | --- | --- | --- | --- |',
        '| scratch | 20.0 | 40.0 | 15.0 | 1 |',
        '| plain | 42.5 ± 2.1 | 85.0 ± 4.2 | 37.5 ± 2.1 | 0, 1 |',
        '| other | 50.0 | 100.0 | 45.0 | 0 |',
    ]
    assert path.read_bytes().startswith(b'\x89PNG') and path.stat().st_size > 5000


def test_the_caption_names_seeds_budget_and_hardware(results):
    runs = table.read_runs('shapes', str(results))
    text = table.caption(runs)
    assert text.startswith('n seeds: scratch 1, plain 2, other 1')
    assert (
        '. Budget: fasterrcnn on cifar_resnet14, 8 epochs, batches of 8, adamw with lr 0.001, 398 images to train on, '
        '400 to evaluate on. ') in text
    here = environment()
    assert here['processor'] in text and text.count('8 epochs') == 1
    assert here['commit'] not in text  # versions and commits are in the result files
    runs['other'][0]['settings']['budget']['epochs'] = 9
    assert '8 epochs' in table.caption(runs) and '9 epochs' in table.caption(runs)


@pytest.mark.parametrize('methods', [1, 9])
def test_the_caption_is_inside_the_figure_and_below_the_axes(methods, results):
    runs = table.read_runs('shapes', str(results))
    runs = {f'method-{index}': runs['plain'] for index in range(methods)}
    plain = table.draw(runs, 'Title')
    plain.draw_without_rendering()
    assert plain._supxlabel is None  # the report prints the caption beside the picture
    for text in (table.caption(runs), 3 * table.caption(runs)):
        figure = table.draw(runs, 'Title', text)
        figure.draw_without_rendering()
        label = figure._supxlabel
        assert label.get_text().split() == text.split()
        box = label.get_window_extent()
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1
        assert box.width > 0.7 * figure.bbox.width  # not narrower than needed
        assert box.y1 < min(axis.get_tightbbox().y0 for axis in figure.axes)
        height, before = (one.axes[0].get_window_extent().height for one in (figure, plain))
        assert height > 0.95 * before  # the axes keep their height


def test_a_setting_without_runs_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_info:
        table.main(['--setting', 'shapes', '--results', str(tmp_path)])
    assert exit_info.value.code == 2 and 'has no runs of shapes yet' in capsys.readouterr().err
