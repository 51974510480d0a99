"""A run that resumes with other flags does what its args.yaml says."""
import pytest

import train_timm
from tests.support.command_line import only_line
from tests.support.training_runs import rows_of
from tests.support.training_states import read
from timm_multimix.training.loop import train_one_epoch

CHANGES = [  # flags of the first start, flags of the second
    (['--lr', '0.1'], ['--lr', '0.001', '--sched', 'step', '--decay-epochs', '1', '--decay-rate', '0.5']),
    (['--lr', '0.1', '--sched', 'plateau'], ['--lr', '0.001', '--sched', 'plateau']),
    ([], ['--batch-size', '4', '--lr-base', '0.2', '--sched', 'none']),
    (['--weight-decay', '0.1', '--layer-decay', '0.5'],
     ['--weight-decay', '0.01', '--momentum', '0.5', '--layer-decay', '0.9']),
    (['--opt', 'adamw'], ['--opt', 'adamw', '--opt-betas', '0.5', '0.6', '--opt-eps', '1e-3']),
    (['--opt', 'lookahead_adan', '--opt-kwargs', 'no_prox=True'], ['--opt', 'lookahead_adan', '--lr', '0.3']),
    (['--model-ema', '--model-ema-decay', '0.5'], ['--model-ema', '--model-ema-decay', '0.9', '--model-ema-warmup']),
]


@pytest.fixture
def epochs(monkeypatch):
    """For each epoch, the settings in the optimizer's groups and of the average, and the size of the state."""
    def watched(epoch, training, *args, **kwargs):
        groups = [{name: value for name, value in group.items() if name != 'params'}
                  for group in training.optimizer.param_groups]
        ema = training.task.get_trainable_module(ema=True)
        average = ema and (ema.decay, ema.use_warmup)
        seen.append((groups, average, len(training.optimizer.state_dict()['state'])))
        return train_one_epoch(epoch, training, *args, **kwargs)

    seen = []
    monkeypatch.setattr(train_timm, 'train_one_epoch', watched)
    return seen


@pytest.fixture
def flags(flags):
    return [flag for flag in flags if flag not in ('--lr', '0.01')]


@pytest.mark.parametrize('before, after', [
    pytest.param(*case, marks=[pytest.mark.slow] * (index > 1), id=' '.join(case[1]))
    for index, case in enumerate(CHANGES)])
def test_a_run_that_resumes_with_other_flags_does_what_its_args_yaml_says(before, after, flags, tmp_path, epochs):
    """Its second epoch has the settings of a run with these flags from the start; the optimizer's state is kept."""
    assert train_timm.main([*flags, *before, '--stop-epoch', '1']) == 0
    assert train_timm.main([*flags, *after, '--resume', 'auto']) == 0
    config = str(tmp_path / 'run' / 'args.yaml')
    assert train_timm.main(['--config', config, '--resume', '', '--experiment', 'new']) == 0
    first, resumed, _, new = epochs
    assert resumed == new and resumed != first


def test_a_warning_names_the_old_and_the_new_value(flags, caplog):
    assert train_timm.main([*flags, '--lr', '0.1', '--stop-epoch', '1']) == 0
    assert train_timm.main([*flags, '--lr', '0.1', '--resume', 'auto', '--workers', '1']) == 0
    assert 'other settings' not in caplog.text
    assert train_timm.main([*flags, '--lr', '0.2', '--smoothing', '0', '--epochs', '3', '--resume', 'auto']) == 0
    changes = '--epochs 3 (was 2), --lr 0.2 (was 0.1), --smoothing 0.0 (was 0.1)'
    assert f'The checkpoint was written with other settings; from now on: {changes}.' in caplog.text


def test_the_flags_of_args_yaml_are_no_other_settings_but_another_value_of_a_default_is(flags, tmp_path, caplog):
    assert train_timm.main([*flags, '--mixup-mode', 'multimix', '--stop-epoch', '1']) == 0
    flags = ['--config', str(tmp_path / 'run' / 'args.yaml'), '--resume', 'auto']
    assert train_timm.main([*flags, '--stop-epoch', '1']) == 0
    assert 'other settings' not in caplog.text
    assert train_timm.main([*flags, '--multimix-clean-weight', '2']) == 0
    assert 'from now on: --multimix-clean-weight 2.0 (was 3.0).' in caplog.text


@pytest.mark.parametrize('before, after, message', [
    (['--opt', 'momentum', '--momentum', '0'], ['--opt', 'momentum'], 'momentum of its optimizer is 0.0, so '),
    (['--opt', 'adamw'], ['--opt', 'adamw', '--opt-kwargs', 'amsgrad=True'], 'amsgrad of its optimizer is False, '),
    (['--weight-decay', '1e-3'], ['--weight-decay', '0'], 'its optimizer has groups of '),
])
def test_state_that_does_not_fit_the_flags_is_refused_with_advice(before, after, message, flags, capsys):
    assert train_timm.main([*flags, *before, '--stop-epoch', '1']) == 0
    assert train_timm.main([*flags, *after, '--resume', 'auto']) == 2
    line = only_line(capsys)
    assert message in line and '--no-resume-opt starts with a new optimizer' in line
    assert train_timm.main([*flags, *after, '--resume', 'auto', '--no-resume-opt']) == 0


def test_with_another_metric_the_best_is_found_anew(flags, tmp_path, caplog):
    """A loss is never higher than an accuracy in percent, so nothing would be the best any more."""
    flags += ['--epochs', '3', '--lr', '0.1', '--resume', 'auto', '--sched', 'plateau', '--patience-epochs', '0']
    assert train_timm.main([*flags, '--eval-metric', 'loss', '--stop-epoch', '1']) == 0
    assert train_timm.main([*flags, '--eval-metric', 'top1']) == 0
    assert 'were ranked by loss' in caplog.text
    top1 = [float(row['eval_top1']) for row in rows_of(tmp_path / 'run')][1:]
    saver = read(tmp_path / 'run' / 'model_best.pth.tar')
    assert saver['metric'] == max(top1) and saver['epoch'] == 1 + top1.index(max(top1))
    assert read(tmp_path / 'run' / 'last.pth.tar')['saver']['schedule']['best'] in top1
