"""`python -m timm_multimix`: other people's training scripts, unedited."""
import json
import logging
import shutil
import sys

import numpy as np
import pytest
import timm
import timm.task
import torch
from PIL import Image
from timm.optim import create_optimizer_v2
from timm.utils import CheckpointSaver

from timm_multimix.__main__ import main
from timm_multimix.training.cli.flags import FLAGS


@pytest.fixture
def run(launched, tmp_path):
    def run(*flags, code=0):
        assert main([*launched, *flags]) == code
        log = tmp_path / 'log.json'
        return json.loads(log.read_text()) if log.exists() else None
    return run


@pytest.mark.parametrize('mode', ['multimix', 'dense-multimix'])
def test_the_script_trains_with_multimix(mode, run):
    before = sys.argv[:], timm.task.ClassificationTask
    record = run('--mixup-mode', mode, '--multimix-alpha', '1.5', '--multimix-tuples', '16')
    assert record['task'] == 'PluggedTask'
    assert all(step['keys'] == ['clean_loss', 'loss', 'mixed_loss', 'output'] for step in record['steps'])
    assert {step['target_dims'] for step in record['steps']} == {1}  # its loader did not mix
    assert record['keys'] == sorted(timm.create_model('test_resnet', num_classes=3).state_dict())
    assert (sys.argv, timm.task.ClassificationTask) == before


def test_the_images_of_half_of_the_batches_are_mixed_until_mixing_ends(run):
    torch.manual_seed(0)
    flags = ['--mixup-mode', 'multimix', '--mixup', '1', '--mixup-off-epoch', '4', '--epochs', '6']
    images, embeddings, nothing = (True, True, False), (True, False, True), (False, True, False)
    for more, kinds in (([], {images, embeddings, nothing}), (['--start-epoch', '4'], {nothing})):
        steps = run(*flags, *more)['steps']
        assert {step['target_dims'] for step in steps} == {1}
        assert {(step['epoch'] < 4, *(name in step['keys'] for name in ('input_mixed', 'mixed_loss')))
                for step in steps} == kinds


def test_mixing_flags_become_arguments_of_the_task_and_the_strength_is_logged(run, caplog):
    with caplog.at_level(logging.INFO):
        run('--mixup-mode', 'dense-multimix', '--multimix-alpha', '0.5', '2', '--mixup', '0.8', '--cutmix', '1',
            '--mixup-switch-prob', '0.25', '--multimix-input-prob', '0.4', '--multimix-strength', 'auto',
            '--epochs', '4', '--mixup-off-epoch', '3')
    for part in ('x 1 position', 'alpha 0.5 to 2', 'mixup_alpha 0.8', 'cutmix_alpha 1', 'switch_prob 0.25', '40 % of',
                 'strength auto', 'Before epoch 2: strength 0.000'):
        assert part in caplog.text, part
    assert 'Before epoch 3: strength' not in caplog.text  # nothing is mixed any more


@pytest.mark.parametrize('more', [[], pytest.param(['--compile-task'], marks=pytest.mark.slow)])
def test_a_teacher_works_on_a_single_view(more, run):
    flags = ['--mixup-mode', 'multimix', '--multimix-teacher-decay', '0.9', '--multimix-single-view', *more]
    assert all('mixed_loss' in step['keys'] and step['loss'] > 0. for step in run(*flags)['steps'])


def test_a_config_serves_script_and_launcher(run, tmp_path):
    config = tmp_path / 'config.yaml'
    config.write_text('mixup_mode: dense-multimix\nmixup: 0.7\nmultimix_tuples: 8\n')
    record = run('--config', str(config))
    assert record['task'] == 'PluggedTask' and {step['target_dims'] for step in record['steps']} == {1}


@pytest.mark.parametrize('flags, message', [
    ([], "--mixup-mode must be one of multimix, dense-multimix here, got 'batch'"),
    (['--mixup-mode', 'multimix', '--multimix-teacher-decay', '0.9'], 'needs --multimix-single-view here'),
])
def test_mistakes_are_reported_before_the_script_starts(flags, message, run, capsys):
    assert run(*flags, code=2) is None
    assert message in capsys.readouterr().err


@pytest.mark.parametrize('source, message', [
    (None, 'cannot read the script'),
    ('print("hello")', 'must train a timm.task.ClassificationTask, as timm\'s train.py does from version 1.0.23 on'),
    ('from timm.task import ClassificationTask', 'ended without building a ClassificationTask'),
    ('from timm.task import ClassificationTask, LogitDistillationTask as Task\nTask()', 'knowledge distillation'),
])
def test_a_script_that_cannot_be_plugged_into_is_refused(source, message, tmp_path, capsys):
    script = tmp_path / 'train.py'
    if source is not None:
        script.write_text(source)
    assert main([str(script), '--mixup-mode', 'multimix']) == main([]) == 2
    assert message in capsys.readouterr().err


OLDER = '''
import torch.nn as nn
from timm.models import create_model
from timm.task.classification import ClassificationTask
# neither mixing nor label smoothing is left, and so it takes this one, whatever --bce-loss says
task = ClassificationTask(model=create_model('test_resnet', num_classes=3), criterion=nn.CrossEntropyLoss())
print(task)
'''


@pytest.mark.parametrize('flags, criterion', [
    ([], 'PluggedTask('), (['--bce-loss', '--bce-target-thresh', '0.2'], 'criterion=BinaryCrossEntropy()')])
def test_an_older_script_trains_the_loss_of_its_flags(flags, criterion, tmp_path, capsys):
    script = tmp_path / 'train.py'
    script.write_text(OLDER)
    assert main([str(script), '--mixup-mode', 'multimix', *flags]) == 0
    assert criterion in capsys.readouterr().out


def test_what_an_older_script_cannot_do_is_refused_or_told(tmp_path, capsys, caplog):
    script = tmp_path / 'train.py'
    script.write_text(OLDER)
    run = [str(script), '--mixup-mode', 'multimix']
    assert main([*run, '--multimix-teacher-decay', '0.9', '--multimix-single-view']) == 2
    assert 'does not, so the teacher would never move' in capsys.readouterr().err
    assert main([*run, '--multimix-strength', 'auto']) == 0
    assert 'when it resumes, --multimix-strength auto starts from 0' in caplog.text


def test_a_script_finds_the_modules_beside_it_and_its_errors_keep_their_traceback(tmp_path, monkeypatch):
    (tmp_path / 'beside_it.py').write_text('found = True')
    script = tmp_path / 'train.py'
    script.write_text(
        '# ClassificationTask\nimport beside_it, os\nassert os.path.isabs(__file__)\nraise KeyError("here")')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyError, match='here'):
        main(['train.py', '--mixup-mode', 'multimix'])


def test_images_are_read_as_in_train_timm(run, data, capsys):
    """16-bit images are scaled, not white; hidden folders make no class; an unreadable image ends the run."""
    rng = np.random.default_rng(0)
    for path in data.rglob('*.png'):
        Image.fromarray(rng.integers(3_000, 39_000, (32, 32), dtype=np.uint16)).save(path)
    shutil.copytree(data / 'train' / 'cat', data / 'train' / '.ipynb_checkpoints')
    flags = ['--mixup-mode', 'multimix', '--data-dir', str(data), '--aa', 'rand-m9-mstd0.5', '--epochs', '1']
    assert all(step['spread'] > 0.1 for step in run(*flags)['steps'])
    (data / 'train' / 'cat' / '3.png').write_text('no image')
    run(*flags, '--workers', '1', code=2)
    error = capsys.readouterr().err
    assert f'timm_multimix: error: {data / "train" / "cat" / "3.png"}' in error and ' cannot be read: ' in error


def test_a_flag_of_the_script_may_have_a_value_before_the_folder(launched, tmp_path):
    with open(launched[0], encoding='utf-8') as file:
        source = file.read()
    source = source.replace('parser = argparse.ArgumentParser()', 'parser = argparse.ArgumentParser()\n'
                            "parser.add_argument('--own')\nparser.add_argument('data', nargs='?')", 1)
    (tmp_path / 'own.py').write_text(source.replace('root=args.data_dir', 'root=args.data_dir or args.data'))
    folder, *flags = launched[2:]
    assert main([str(tmp_path / 'own.py'), '--own', 'x', folder, *flags, '--mixup-mode', 'multimix']) == 0


def test_a_run_that_resumes_with_another_lr_uses_it(run, tmp_path):
    model = timm.create_model('test_resnet', num_classes=3)
    optimizer = create_optimizer_v2(model, 'sgd', lr=0.5, weight_decay=2e-5, momentum=0.9)
    CheckpointSaver(model, optimizer, checkpoint_dir=str(tmp_path)).save_checkpoint(0)
    flags = ['--mixup-mode', 'multimix', '--resume', str(tmp_path / 'last.pth.tar'), '--epochs', '1']
    assert {step['lr'] for step in run(*flags, '--lr', '0.02')['steps']} == {0.02}


def test_the_output_folder_of_the_script_gets_the_names_of_the_classes(run, tmp_path):
    run('--mixup-mode', 'multimix', '--output', str(tmp_path), '--epochs', '1')
    assert (tmp_path / 'run' / 'classes.txt').read_text() == 'cat\ndog\nowl\n'


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
    assert main([script, 'DIR', *MULTIMIX, '--eval', '--log', 'x']) == 0, 'they only begin like flags of timm'
    assert main([script, 'DIR', *MULTIMIX, '--cutmix-m', '0.2', '0.8']) == 2
    assert '--cutmix-minmax must be written in full, got --cutmix-m' in capsys.readouterr().err


def test_help_lists_the_flags_that_the_launcher_takes(capsys):
    assert main(['--help']) == 0
    text = capsys.readouterr().out
    assert 'python -m timm_multimix PATH/train.py' in text
    for flag in FLAGS.values():
        taken = flag.name.startswith(('--multimix-', '--mixup', '--cutmix')) and not flag.name.startswith('--mixupe')
        assert (f'  {flag.name} ' in text or f'  {flag.name}\n' in text) == taken, flag.name
