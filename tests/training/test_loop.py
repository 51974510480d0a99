"""An epoch of training, compared with a separate loop; batches with NaN leave no trace in the trained state."""
import copy
import logging

import pytest
import timm
import torch
from timm.data import Mixup, create_dataset, create_loader
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.task import ClassificationTask
from timm.utils import NativeScaler, random_seed

import train_timm
from tests.support.tensors import seeded
from tests.support.training_runs import MODES, rows_of
from tests.support.training_states import assert_identical
from timm_multimix import MultiMixTask
from timm_multimix.training import loop
from timm_multimix.training.bad_steps import BadSteps
from timm_multimix.training.checkpoints.recovery import Recovery
from timm_multimix.training.cli.parser import parse_args
from timm_multimix.training.errors import RunFailed
from timm_multimix.training.runtime import create_runtime
from timm_multimix.training.schedule import Schedule

FLAGS = ['folder', '--device', 'cpu', '--batch-size', '4', '--log-interval', '1', '--sched', 'none']


def batches(count, bad=()):
    generator = torch.Generator().manual_seed(0)
    result = []
    for index in range(count):
        images = torch.randn(4, 3, 32, 32, generator=generator)
        if index in bad:
            images[1, 0, 3, 3] = float('nan')
        result.append((images, torch.randint(3, (4,), generator=generator)))
    return result


def train(data, *more, model=None, check_on_host=True, teacher=False, scaler=False, opt='adamw', **opt_kwargs):
    args, _ = parse_args([*FLAGS, *more])
    runtime = create_runtime(args)
    if scaler:  # meant for float16, though here it scales float32
        runtime = runtime._replace(loss_scaler=NativeScaler(device='cpu'))
    torch.manual_seed(0)
    model = model or timm.create_model('test_resnet', num_classes=3)
    optimizer = create_optimizer_v2(model, opt, lr=0.01, **opt_kwargs)
    if teacher:
        task = MultiMixTask(model, teacher_decay=0.9, single_view=True, num_tuples=8, verbose=False)
    else:
        task = ClassificationTask(model, verbose=False)
        task.setup_ema(decay=0.9)
    bad_steps = BadSteps(task.get_trainable_module(), optimizer, args.max_bad_steps)
    bad_steps.check_on_host = check_on_host
    training = loop.Training(args, runtime, task, optimizer, Schedule(args, optimizer, len(data)), bad_steps)
    metrics = loop.train_one_epoch(0, training, data, Recovery(runtime))
    return copy.deepcopy(
        dict(model=model.state_dict(), ema=task.get_trainable_module(ema=True).state_dict(),
             optimizer=optimizer.state_dict()['state'])), metrics


@pytest.mark.parametrize('bad', [(0,), (2,), (1, 2), (3,)], ids=str)
def test_bad_batches_leave_no_trace(bad, caplog):
    """Weights, running statistics, optimizer state and moving average are the same bit for bit, and the loss too."""
    data = batches(4, bad)
    (state, metrics) = train(data)
    (expected, expected_metrics) = train([batch for index, batch in enumerate(data) if index not in bad])
    assert_identical(state['model'], expected['model'])
    assert_identical(state['optimizer'], expected['optimizer'])
    if bad != (0,):  # the average begins as a copy in update 1, which is left out here
        assert_identical(state['ema'], expected['ema'])
    assert metrics['loss'] == pytest.approx(expected_metrics['loss'], abs=1e-12)
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == len(bad) and f'{len(bad)} in all' in warnings[-1]


@pytest.mark.parametrize('clip', [[], ['--clip-grad', '1'], ['--clip-grad', '1', '--clip-mode', 'value']], ids=str)
@pytest.mark.parametrize('options', [
    dict(scaler=True), dict(scaler=True, check_on_host=False),
    dict(check_on_host=False, opt='momentum', momentum=0., weight_decay=0.)], ids=' '.join)
def test_bad_updates_are_skipped_and_counted_with_a_loss_scaler_and_on_a_gpu(options, clip, caplog):
    """On a GPU, where the host does not check, a bad update has a zero gradient, at which plain SGD does not move."""
    data = batches(4, (1, 2))
    state, metrics = train(data, *clip, **options)
    expected, expected_metrics = train([data[0], data[3]], *clip, **{**options, 'check_on_host': True})
    assert_identical(state['model'], expected['model'])
    assert_identical(state['optimizer'], expected['optimizer'])
    assert all(torch.isfinite(value).all() for value in state['ema'].values())
    assert metrics['loss'] == pytest.approx(expected_metrics['loss'], abs=1e-12)
    assert any('2 in all' in record.message for record in caplog.records)


@pytest.mark.parametrize('check_on_host', [True, False])
def test_bad_batches_leave_no_trace_in_the_teacher(check_on_host):
    """If the host does not see the bad batch, the teacher takes one more step towards the model, which did not move."""
    data, options = batches(4, (3,)), dict(teacher=True, check_on_host=check_on_host, opt='momentum', momentum=0.)
    state, expected = (train(part, **options)[0] for part in (data, data[:3]))  # the last: tuples take random numbers
    assert_identical(state['model'], expected['model'])
    for name, value in expected['ema'].items():
        if not check_on_host and value.is_floating_point():
            value = value.lerp(state['model'][name.removeprefix('module.')], 0.1)
        torch.testing.assert_close(state['ema'][name], value)


def test_one_bad_batch_spoils_the_update_that_it_is_part_of():
    data = batches(6, (3,))
    state, _ = train(data, '--grad-accum-steps', '2')
    expected, _ = train(data[:2] + data[4:], '--grad-accum-steps', '2')
    assert_identical(state, expected)


def test_an_infinite_gradient_of_a_finite_loss_counts_too():
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.)
    bad_steps = BadSteps(model, optimizer, 0)
    before = copy.deepcopy(model.state_dict())
    for value in (float('inf'), -float('inf'), float('nan')):
        model.weight.grad, model.bias.grad = torch.ones(2, 2), torch.tensor([0., value])
        bad_steps.begin()
        assert not bad_steps.check_gradients() and not bad_steps.end()
        bad_steps.check_on_host = False
        assert bad_steps.check_gradients() and bad_steps.end()
        assert not model.weight.grad.any() and not model.bias.grad.any()
        optimizer.step()
        bad_steps.check_on_host = True
    assert_identical(model.state_dict(), before)


@pytest.mark.parametrize('check_on_host, after', [(True, 3), (False, 4)])
def test_too_many_bad_updates_in_a_row_end_the_run(check_on_host, after):
    """On the CPU at once; if the host does not check each step, when it logs the next line."""
    class Loader(list):
        def __iter__(self):
            for index, batch in enumerate(super().__iter__()):
                seen.append(index)
                yield batch

    seen, data = [], Loader(batches(12, (0, 1, 4, 5, 6, 7, 8, 9, 10, 11)))
    with pytest.raises(RunFailed, match='3 updates in a row' if check_on_host else '4 updates in a row'):
        interval = '1' if check_on_host else '7'
        train(data, '--max-bad-steps', '3', '--log-interval', interval, check_on_host=check_on_host)
    assert seen[-1] == 4 + after - 1
    train(data, '--max-bad-steps', '0')
    train(batches(9, (0, 1, 3, 4, 6, 7)), '--max-bad-steps', '3')  # never three in a row


def test_a_run_that_diverges_keeps_its_checkpoint(flags, tmp_path, capsys, steps):
    steps.before = lambda input: input.mul_(float('nan') if len(steps) >= 6 else 1.)  # in the third epoch
    assert train_timm.main([*flags, *MODES['multimix'], '--epochs', '4', '--max-bad-steps', '2']) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith('train_timm.py: error: 2 updates in a row had gradients that are not finite')
    assert len(rows_of(tmp_path / 'run')) == 2
    model = timm.create_model(
        'test_resnet', num_classes=3, checkpoint_path=str(tmp_path / 'run' / 'last.pth.tar'))
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


@pytest.mark.parametrize('mixing', [dict(), dict(mixup=0.8), dict(mixup=0.8, cutmix=1.)], ids=str)
def test_the_first_losses_are_those_of_timms_parts(mixing, flags, image_folder, steps):
    """The same seed and the same parts in the same order give the same numbers."""
    more = [text for name, value in mixing.items() for text in (f'--{name}', str(value))]
    flags = [*flags, *more, '--mixup-mode', 'batch', '--seed', '7', '--epochs', '1', '--worker-seeding', 'part']
    assert train_timm.main(flags) == 0

    random_seed(7, 0)
    model = timm.create_model('test_resnet', num_classes=3)
    loader = create_loader(
        create_dataset('', root=str(image_folder), split='train', is_training=True), (3, 32, 32), 8, is_training=True,
        mean=model.pretrained_cfg['mean'], std=model.pretrained_cfg['std'], scale=(0.08, 1.), ratio=(3 / 4, 4 / 3),
        interpolation='random', num_workers=0, device=torch.device('cpu'))
    optimizer = create_optimizer_v2(model, 'sgd', lr=0.01, weight_decay=2e-5, momentum=0.9)
    criterion, mixup_fn = LabelSmoothingCrossEntropy(0.1), None
    if mixing:
        criterion = SoftTargetCrossEntropy()
        mixup_fn = Mixup(
            mixup_alpha=mixing.get('mixup', 0.), cutmix_alpha=mixing.get('cutmix', 0.), num_classes=3,
            label_smoothing=0.1)
    model.train()
    expected = []
    for images, target in loader:
        if mixup_fn is not None:
            images, target = mixup_fn(images, target)
        loss = criterion(model(images), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    assert len(steps) == 3
    assert [step.result['loss'].item() for step in steps] == pytest.approx(expected, rel=1e-5)


def test_accumulation_equals_one_step_on_the_joined_batch():
    images, labels = torch.randn(10, 3, 32, 32), torch.randint(3, (10,))
    states = []
    for sizes in ((4, 4, 1, 1), (8, 2)):  # the second update has a shorter group
        model = seeded(timm.create_model, 'test_vit', num_classes=3, img_size=32)
        data = list(zip(images.split(sizes), labels.split(sizes)))
        state, _ = train(data, '--grad-accum-steps', str(len(sizes) // 2), model=model, opt='sgd')
        states.append(state['model'])
    torch.testing.assert_close(*states, rtol=1e-4, atol=1e-6)
