"""timm's less common flags do what they say, each in a run."""
import logging
import os
import platform
import sys
from unittest import mock

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.data import ImageDataset
from timm.layers.split_batchnorm import SplitBatchNorm2d
from timm.task import ClassificationEvaluator

import train_timm
from tests.support.training_runs import MODES, rows_of
from tests.support.training_states import assert_identical, read
from timm_multimix import UsageError
from timm_multimix.rows import mix
from timm_multimix.training import runtime
from timm_multimix.training.cli.parser import parse_args
from timm_multimix.training.data import datasets


@pytest.fixture
def multi_label_folder(monkeypatch):
    """The image folder with lists of labels: its class, and class 0 as well for every other image."""
    formats = {'index': lambda labels: labels, 'multihot': lambda labels: [int(index in labels) for index in range(3)]}

    def create(kind):
        def create_dataset(name, root, split, **kwargs):
            dataset = ImageDataset(os.path.join(root, split))
            dataset.reader.samples = [
                (path, formats[kind](sorted({label, 0}) if index % 2 else [label]))
                for index, (path, label) in enumerate(dataset.reader.samples)]
            return dataset

        monkeypatch.setattr(datasets, 'create_dataset', create_dataset)

    return create


def test_augmentation_splits_with_jensen_shannon_loss(flags, steps, tmp_path):
    flags += ['--aug-splits', '3', '--jsd-loss', '--split-bn', '--aa', 'augmix-m3-w2-d1', '--resplit']
    assert train_timm.main([*flags, '--reprob', '0.5']) == 0
    assert type(steps[0].task.criterion).__name__ == 'JsdCrossEntropy'
    assert steps[0].input.shape[0] == 3 * 8 and torch.equal(steps[0].target[:8], steps[0].target[16:])
    assert any(isinstance(module, SplitBatchNorm2d) for module in steps[0].task.modules())
    clean, second = steps[0].input[:8], steps[0].input[8:16]
    assert not torch.equal(clean, second)


@pytest.mark.parametrize('flag, criterion', [
    ('poly', 'PolyCrossEntropy'), ('poly --mixup-mode multimix', 'PolyCrossEntropy'),
    ('zlpr --task multilabel', 'ZlprLoss'), ('twoway --task multilabel', 'TwoWayLoss'),
    ('asl --task multilabel --mixup-mode multimix', 'AsymmetricLossMultiLabel')])
def test_other_losses_train(flag, criterion, flags, steps, multi_label_folder):
    if 'multilabel' in flag:
        multi_label_folder('index')
    assert train_timm.main([*flags, '--epochs', '1', '--loss', *flag.split()]) == 0
    assert criterion in {type(module).__name__ for module in steps[0].task.modules()}
    assert torch.isfinite(steps[-1].result['loss'])


@pytest.mark.parametrize('mode', ['multimix', 'dense-multimix'])
def test_thresholded_and_smoothed_binary_cross_entropy(mode, flags, steps):
    flags += ['--bce-loss', '--bce-target-thresh', '0.3', '--smoothing', '0.2', '--multimix-clean-weight', '0']
    assert train_timm.main([*flags, '--mixup-mode', mode, '--epochs', '1']) == 0
    task = steps[0].task
    assert task.criterion.target_threshold == 0.3
    logits, target = mix(
        task.loss, torch.tensor([[2., -1., 0.], [0., 1., -2.]]), torch.tensor([0, 2]), lam=torch.tensor([[0.6, 0.4]]))
    torch.testing.assert_close(target, torch.tensor([[0.6, 0., 0.4]]) * 0.8 + 0.2 / 3.)
    # 0.55 and 0.39 are above the threshold, 0.07 is not
    expected = F.binary_cross_entropy_with_logits(logits, torch.tensor([[1., 0., 1.]]))
    torch.testing.assert_close(task.criterion(logits, target), expected)


@pytest.mark.parametrize('kind, mixing', [
    ('index', []), ('multihot', ['--mixup', '1']), ('index', ['--mixup-mode', 'multimix']),
    ('multihot', ['--mixup-mode', 'dense-multimix', '--cutmix', '1'])])
def test_multi_label_targets(kind, mixing, flags, steps, multi_label_folder, tmp_path):
    multi_label_folder(kind)
    flags += ['--task', 'multilabel', '--target-format', kind, '--smoothing', '0.2']
    assert train_timm.main([*flags, *mixing]) == 0
    rows = rows_of(tmp_path / 'run')
    assert {'eval_map', 'eval_micro_f1'} <= set(rows[0]) and 'train_top1' not in rows[0]
    assert steps[0].target.shape == (8, 3) and steps[0].target.dtype == torch.float32
    if '--mixup' not in mixing:
        assert set(steps[0].target.unique().tolist()) <= {0., 1.} and (steps[0].target.sum(dim=1) == 2.).any()
    criterion = next(module for module in steps[0].task.modules() if type(module).__name__ == 'BinaryCrossEntropy')
    assert criterion.sum_classes is False
    assert torch.isfinite(steps[-1].result['loss'])


@pytest.mark.parametrize('kind', ['logit', 'feature', 'token'])
def test_knowledge_distillation(kind, flags, steps, monkeypatch, tmp_path):
    def without_download(model_name, pretrained, **kwargs):
        assert pretrained
        return timm.create_model(model_name, **kwargs)

    monkeypatch.setattr('timm.task.distillation.create_model', without_download)
    teacher = 'test_efficientnet' if kind == 'feature' else 'test_resnet'  # with features of another width
    flags += ['--kd-model-name', teacher, '--kd-distill-type', kind, '--distill-loss-weight', '2']
    if kind == 'token':
        flags += ['--model', 'deit_tiny_distilled_patch16_224', '--img-size', '32', '--model-kwargs', 'depth=1']
    assert train_timm.main(flags) == 0
    rows = rows_of(tmp_path / 'run')
    parts = [float(rows[-1][f'train_{name}']) for name in ('loss', 'task_loss', 'distill_loss')]
    assert parts[0] == pytest.approx(parts[1] + 2. * parts[2], rel=1e-4) and parts[2] > 0.
    if kind == 'feature':  # the projection learns too
        trained = {id(p) for p in steps[0].task.get_trainable_module().parameters()}
        state = read(tmp_path / 'run' / 'last.pth.tar')
        assert len(trained) == sum(len(group['params']) for group in state['optimizer']['param_groups'])


@pytest.mark.parametrize('mode', ['batch', 'dense-multimix'])
def test_image_sizes_and_batches_follow_their_schedule(mode, flags, steps):
    flags += ['--mixup-mode', mode, '--train-img-sizes', '32', '64', '--train-batch-sizes', '8', '4']
    flags += ['--train-size-schedule', 'progressive', '--train-size-random-mix', '0']
    flags += ['--train-size-schedule-spread', '0', '--train-steps-per-epoch', '3']
    flags += ['--variable-batch-loss-scale', 'sqrt']
    assert train_timm.main(flags) == 0
    assert [(step.input.shape[0], step.input.shape[-1]) for step in steps] == 3 * [(8, 32)] + 3 * [(4, 64)]
    assert [step.scale for step in steps] == pytest.approx(3 * [1.] + 3 * [0.5 ** 0.5])


NAFLEX = ['depth=1', 'embed_dim=32', 'num_heads=2']
GEMMA = [*NAFLEX, 'head_dim=16', 'intermediate_size=64', 'position_embedding_size=64']


@pytest.mark.parametrize('model, kwargs, more', [
    ('gemma4_vit_167m', GEMMA, ''),
    *(('naflexvit_base_patch16_gap', [*NAFLEX, *kwargs], more) for kwargs, more in (
        ([], ''), ([], '--in-chans 1'), ([], '--mixup 1 --cutmix 1 --no-prefetcher'),
        (['enable_patch_interpolator=True'], '--naflex-patch-sizes 8 16')))])
def test_naflex(model, kwargs, more, flags, steps):
    del flags[flags.index('--input-size'):flags.index('--input-size') + 4]
    flags[flags.index('test_resnet')] = model
    flags += ['--model-kwargs', *kwargs, '--naflex-loader', '--naflex-train-seq-lens', '4', '9', *more.split()]
    assert train_timm.main([*flags, '--naflex-max-seq-len', '9', '--epochs', '1']) == 0
    assert steps and set(steps[0].input) >= {'patches', 'patch_coord', 'patch_valid'}
    assert {step.scale for step in steps} == {step.input['patches'].shape[0] / 8 for step in steps}
    assert (steps[0].target.ndim == 2) == ('--mixup' in more)
    channels = 1 if '--in-chans' in more else 3
    assert '--naflex-patch-sizes' in more or steps[0].input['patches'].shape[-1] == 16 * 16 * channels


def test_torchscript(flags, steps):
    assert train_timm.main([*flags, '--torchscript', '--drop-connect', '0.1', '--epochs', '1']) == 0
    assert any(isinstance(module, torch.jit.ScriptModule) for module in steps[0].task.modules())


def test_stop_epoch_and_milestones_and_a_complete_run_stays_as_it_is(flags, tmp_path, caplog):
    flags += ['--epochs', '6', '--stop-epoch', '3', '--save-epochs', '1', '3', '--checkpoint-hist', '1']
    flags += ['--val-interval', '6']
    flags += ['--resume', 'auto', '--sched', 'cosine', '--lr', '0.1']
    assert train_timm.main(flags) == 0
    folder = tmp_path / 'run'
    validated = [(row['epoch'], bool(row['eval_top1'])) for row in rows_of(folder)]
    assert validated == [('0', True), ('1', False), ('2', True)]
    assert float(rows_of(folder)[-1]['lr']) > 0.05  # the schedule is that of six epochs
    names = {name for name in os.listdir(folder) if name.startswith('milestone')}
    assert names == {'milestone-1.pth.tar', 'milestone-3.pth.tar'}
    assert read(folder / 'milestone-1.pth.tar')['epoch'] == 0
    before = (folder / 'last.pth.tar').read_bytes(), (folder / 'summary.csv').read_text()
    with caplog.at_level(logging.INFO, 'train'):
        assert train_timm.main(flags) == 0
    assert 'Nothing to do: 3 of 3 epochs are done.' in caplog.text
    assert before == ((folder / 'last.pth.tar').read_bytes(), (folder / 'summary.csv').read_text())


def test_test_time_augmentation_averages_neighbours(flags, monkeypatch):
    """As if the loader gave every image twice in a row."""
    seen = []
    update = ClassificationEvaluator.update

    def spy(self, output, target):
        seen.append((output, target))
        return update(self, output, target)

    monkeypatch.setattr(ClassificationEvaluator, 'update', spy)
    for more in ([], ['--tta', '2']):
        assert train_timm.main([*flags, '--epochs', '1', '--lr', '0', *more]) == 0
    (output, target), (averaged, halved) = seen[0], seen[len(seen) // 2]
    torch.testing.assert_close(averaged, (output[::2] + output[1::2]) / 2.)
    assert torch.equal(halved, target[::2])


def test_weights_and_biases_and_tensorboard(flags, monkeypatch, tmp_path, caplog):
    wandb, tensorboard = mock.MagicMock(), mock.MagicMock()
    monkeypatch.setitem(sys.modules, 'wandb', wandb)
    monkeypatch.setitem(sys.modules, 'torch.utils.tensorboard', tensorboard)
    flags += ['--log-wandb', '--wandb-project', 'birds', '--wandb-tags', 'a', 'b', '--mixup-mode', 'multimix']
    flags += ['--log-tensorboard']
    assert train_timm.main(flags) == 0
    scalars = {(name, step): value for (name, value, step), _ in
               tensorboard.SummaryWriter.return_value.add_scalar.call_args_list}
    assert scalars['eval/top1', 1] == float(rows_of(tmp_path / 'run')[1]['eval_top1']) and ('lr', 0) in scalars
    init, logged = wandb.init.call_args.kwargs, [call.args[0] for call in wandb.log.call_args_list]
    assert (init['project'], init['name'], init['tags']) == ('birds', 'run', ['a', 'b']) and 'id' not in init
    assert init['config']['model'] == 'test_resnet'
    assert [values['epoch'] for values in logged] == [0, 1] and 'train_mixed_loss' in logged[0]
    assert logged[0]['eval_top1'] == float(rows_of(tmp_path / 'run')[0]['eval_top1'])
    wandb.finish.assert_called_once()
    wandb.init.return_value.summary = dict(epoch=1)
    first = str(tmp_path / 'run' / 'checkpoint-0.pth.tar')
    assert train_timm.main([*flags, '--resume', first, '--lr', '0.02', '--wandb-resume-id', 'x']) == 0
    update = wandb.init.return_value.config.update
    assert update.call_args.args[0]['lr'] == 0.02 and update.call_args.kwargs == dict(allow_val_change=True)
    assert 'epochs 1 to 1 are there already, and Weights & Biases will show them twice' in caplog.text
    # otherwise the epochs that are trained again would appear twice
    assert tensorboard.SummaryWriter.call_args_list == [
        mock.call(str(tmp_path / 'run'), purge_step=epoch) for epoch in (0, 1)]


@pytest.mark.parametrize('flag, module, package', [
    ('--log-wandb', 'wandb', 'wandb'), ('--log-tensorboard', 'torch.utils.tensorboard', 'tensorboard')])
def test_a_missing_logging_package_is_named(flag, module, package, flags, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, module, None)
    assert train_timm.main([*flags, flag]) == 2
    assert f'error: {flag} needs {package} (pip install {package}): ' in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / 'run').exists()


def test_device_modules(flags, monkeypatch):
    monkeypatch.delitem(sys.modules, 'colorsys', raising=False)
    runtime.create_runtime(parse_args([*flags, '--device-modules', 'colorsys'])[0])
    assert 'colorsys' in sys.modules


@pytest.mark.parametrize('workers, backend, rank, may_hang, warned', [
    (1, 'gloo', 0, True, True), (1, 'gloo', 1, True, False), (0, 'gloo', 0, True, False), (1, 'nccl', 0, True, False),
    (1, 'gloo', 0, False, False), (1, None, 0, True, False),
])
def test_a_python_that_may_hang_is_warned_of_once(
        workers, backend, rank, may_hang, warned, flags, monkeypatch, caplog):
    monkeypatch.setattr(runtime, 'FORKS_MAY_HANG', may_hang)
    monkeypatch.setattr(torch.distributed, 'is_initialized', lambda: backend is not None)
    monkeypatch.setattr(torch.distributed, 'get_backend', lambda: backend)
    monkeypatch.setattr(torch.distributed, 'get_rank', lambda: rank)
    runtime.create_runtime(parse_args([*flags, '--workers', str(workers)])[0])
    assert (f'Python {platform.python_version()} may hang' in caplog.text) == warned


def test_progress_is_a_bar_on_a_terminal_and_nothing_in_a_pipe(monkeypatch, capsys):
    from timm_multimix.training.progress import progress
    assert list(progress([1, 2], 'Epoch 0', True)) == [1, 2]
    assert capsys.readouterr().err == ''
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True, raising=False)
    assert list(progress([1, 2], 'Epoch 0', True)) == [1, 2]
    assert 'Epoch 0' in capsys.readouterr().err
    assert list(progress([1, 2], 'Epoch 0', False)) == [1, 2]
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize('model, mode', [('test_resnet', 'batch'), ('test_vit', 'dense-multimix')])
def test_img_size_works_with_any_model(model, mode, flags, steps):
    del flags[flags.index('--input-size'):flags.index('--input-size') + 4]
    assert train_timm.main([*flags, '--img-size', '64', '--model', model, '--mixup-mode', mode, '--epochs', '1']) == 0
    assert steps[0].input.shape[-2:] == (64, 64)


def test_a_pretrained_cfg_overlay_changes_the_data_config(flags, tmp_path, monkeypatch):
    seen = []

    def create_loaders(args, data_config, runtime):
        seen.append(data_config)
        raise UsageError('far enough')

    monkeypatch.setattr(train_timm, 'create_loaders', create_loaders)
    config = tmp_path / 'config.yaml'
    config.write_text('pretrained_cfg_overlay: {mean: [0.1, 0.2, 0.3]}\n')
    assert train_timm.main([*flags, '--config', str(config)]) == 2
    assert tuple(seen[0]['mean']) == (0.1, 0.2, 0.3)


@pytest.mark.parametrize('model, more', [
    ('test_vit', []), ('test_resnet', ['--mixup-mode', 'multimix']), ('test_vit', ['--mixup-mode', 'dense-multimix']),
    ('test_resnet', ['--mixup-mode', 'mixupe']),
    ('test_resnet', ['--mixup-mode', 'multimix', '--multimix-teacher-decay', '0.9', '--opt', 'lookahead_adahessian']),
], ids=lambda value: ' '.join(value[1:2]) if isinstance(value, list) else value)
def test_second_order_optimizers(model, more, flags, steps):
    flags[flags.index('test_resnet')] = model
    assert train_timm.main([*flags, '--img-size', '32', '--opt', 'adahessian', '--epochs', '1', *more]) == 0
    hessian = steps[-1].task.get_eval_model().get_classifier().weight.hess
    assert hessian.isfinite().all() and hessian.any()
    assert torch.isfinite(steps[-1].result['loss'])


def test_the_initial_head_is_scaled_with_its_bias(flags, tmp_path):
    flags += ['--head-init-scale', '0', '--lr', '0', '--weight-decay', '0', '--epochs', '1']
    assert train_timm.main(flags) == 0
    state = read(tmp_path / 'run' / 'last.pth.tar')['state_dict']
    assert not state['fc.weight'].any() and not state['fc.bias'].any()


def test_a_new_run_does_not_write_into_the_folder_of_another(flags, tmp_path, caplog):
    for name in ('run', 'run-1'):
        assert train_timm.main([*flags, '--epochs', '1']) == 0
        assert len(rows_of(tmp_path / name)) == 1
    assert f'{tmp_path / "run"} belongs to another run; this run is in {tmp_path / "run-1"}.' in caplog.text


def test_late_epochs_are_seeded(flags, tmp_path):
    assert train_timm.main([*flags, '--start-epoch', '4295', '--epochs', '4296']) == 0
    assert [row['epoch'] for row in rows_of(tmp_path / 'run')] == ['4295']


@pytest.mark.parametrize('name, picture', [
    ('plain', 'train-batch-0.jpg'), pytest.param('distilled', 'mixed-batch-0.png', marks=pytest.mark.slow)])
def test_pictures_are_saved_and_change_nothing(name, picture, flags, tmp_path):
    flags = [*flags, *MODES[name], '--epochs', '1']
    assert train_timm.main([*flags, '--experiment', 'a']) == 0
    assert train_timm.main([*flags, '--save-images', '--experiment', 'b']) == 0
    assert (tmp_path / 'b' / picture).stat().st_size > 0
    a, b = (dict(read(tmp_path / run / 'last.pth.tar')['state_dict']) for run in 'ab')
    assert_identical(a, b)


def test_without_matplotlib_nothing_starts(flags, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    assert train_timm.main([*flags, *MODES['dense'], '--save-images']) == 2
    message = 'error: --save-images needs matplotlib in a MultiMix mode: '
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / 'run').exists()
