"""`benchmarks.report.timing_tables` on what the two benchmarks write."""
import pytest

from benchmarks import loss_time, step_time
from benchmarks.report import timing_tables
from tests.support.benchmarks import SMALL


def test_tables_and_figures(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loss_time, 'BASE', dict(cpu=SMALL))
    monkeypatch.setattr(loss_time, 'SWEEPS', dict(tuples=(8, 32)))
    for rate in ('peak_flops', 'peak_bandwidth'):
        monkeypatch.setattr(loss_time, rate, lambda device: 1e9)
    assert loss_time.main([
        '--device', 'cpu', '--repeats', '2', '--no-memory', '--sweeps', 'tuples',
        '--output', str(tmp_path / 'loss_time_cpu.json')]) == 0
    assert step_time.main([
        '--device', 'cpu', '--models', 'test_resnet', '--batch-size', '4', '--image-size', '32', '--num-classes', '5',
        '--tuples', '8', '--rounds', '2', '--methods', 'plain', 'multimix',
        'multimix-distilled', 'dense-multimix',
        '--output', str(tmp_path / 'step_time_cpu.json')]) == 0
    capsys.readouterr()
    assert timing_tables.main(['--results', str(tmp_path), '--figures', str(tmp_path / 'figures')]) == 0
    lines = capsys.readouterr().out.splitlines()
    small, base = (line for line in lines if line.startswith('| 4 | 5 |'))
    assert small.startswith('| 4 | 5 | 8 | 3 | ') and base.startswith('| 4 | 5 | 32 | 3 | ')
    assert base.count(' ms') == 4 and base.endswith(') |') and base.count(' to ') == 1
    assert any(line.startswith('| test_resnet | 4 | Dense MultiMix | ') for line in lines)
    distilled, = (line for line in lines if line.startswith('| test_resnet | 4 | MultiMix, self-distilled | '))
    assert distilled.count(' to ') == 2
    for name in ('loss_time_cpu.png', 'step_time_cpu.png'):
        assert (tmp_path / 'figures' / name).stat().st_size > 5000


def test_a_folder_without_results_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_info:
        timing_tables.main(['--results', str(tmp_path)])
    assert exit_info.value.code == 2 and 'has no loss_time' in capsys.readouterr().err
