"""The launcher takes its flags from the same table, and refuses them in the same words."""
import pytest

from timm_multimix.__main__ import main
from timm_multimix.training.cli.flags import FLAGS

MULTIMIX = ['--mixup-mode', 'multimix']


@pytest.fixture
def script(tmp_path):
    """A script that prints its command line, and builds the task that the launcher waits for."""
    path = tmp_path / 'train.py'
    path.write_text(
        'import sys\nimport timm.task\nimport torch\n'
        'print("argv", *sys.argv[1:])\n'
        'timm.task.ClassificationTask(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2)))\n')
    return str(path)


def test_the_script_gets_all_flags_but_those_of_mixing(script, capsys):
    assert main([script, 'DIR', *MULTIMIX, '--lr', '0.1', '--multimix-alpha', '0.5', '2', '--cutmix', '1', '--own', 'x',
                 '--multimix-gather']) == 0
    given = next(line for line in capsys.readouterr().out.splitlines() if line.startswith('argv'))
    assert given.split()[1:] == [
        'DIR', '--lr', '0.1', '--own', 'x', '--mixup', '0', '--cutmix', '0', '--mixup-off-epoch', '0', '--mixup-mode',
        'batch', '--smoothing', '0']


def test_help_lists_the_flags_that_the_launcher_takes(capsys):
    assert main(['--help']) == 0
    text = capsys.readouterr().out
    assert 'python -m timm_multimix PATH/train.py' in text
    for flag in FLAGS.values():
        taken = flag.name.startswith(('--multimix-', '--mixup', '--cutmix')) and not flag.name.startswith('--mixupe')
        assert (f'  {flag.name} ' in text or f'  {flag.name}\n' in text) == taken, flag.name
