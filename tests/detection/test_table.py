"""`benchmarks.detection.table`."""
import pytest

from benchmarks.detection import table
from benchmarks.results import write_result


@pytest.fixture
def results(tmp_path):
    for method, seed, ap in (('plain', 1, 32.), ('plain', 0, 30.), ('scratch', 0, 20.), ('other', 0, 25.)):
        write_result(str(tmp_path / 'shapes' / f'{method}-{seed}.json'), 'detection',
                     dict(method=method, seed=seed), dict(ap=ap, ap50=50., ap75=10.))
    return tmp_path


def test_table_and_figure(results, capsys):
    path = results / 'figure.png'
    assert table.main(['--setting', 'shapes', '--results', str(results), '--figure', str(path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        '| backbone | AP (%) | AP50 (%) | AP75 (%) | seeds |',
        '| --- | --- | --- | --- | --- |',
        '| scratch | 20.0 | 50.0 | 10.0 | 0 |',
        '| plain | 31.0 ± 1.4 | 50.0 ± 0.0 | 10.0 ± 0.0 | 0, 1 |',
        '| other | 25.0 | 50.0 | 10.0 | 0 |',
    ]
    assert path.read_bytes().startswith(b'\x89PNG')


def test_nothing_yet(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_info:
        table.main(['--setting', 'shapes', '--results', str(tmp_path)])
    assert exit_info.value.code == 2 and 'has no runs of shapes yet' in capsys.readouterr().err
