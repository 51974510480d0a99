"""Fixtures for runs that take a second."""
import os
import signal
import types

import pytest

import train_timm
from timm_multimix.training import loop


@pytest.fixture
def epochs_run(monkeypatch):
    """A list of the epochs that were trained; its `interrupt` is the epoch before which the next run stops."""
    class Epochs(list):
        interrupt = None

    epochs, train_one_epoch = Epochs(), train_timm.train_one_epoch

    def watched(epoch, *args, **kwargs):
        if epoch == epochs.interrupt:
            epochs.interrupt = None
            raise KeyboardInterrupt
        epochs.append(epoch)
        return train_one_epoch(epoch, *args, **kwargs)

    monkeypatch.setattr(train_timm, 'train_one_epoch', watched)
    return epochs


@pytest.fixture
def steps(monkeypatch):
    """The batches trained, over all runs. SIGTERM is sent in batch `terminate_at`; `before(input)` is called first."""
    class Steps(list):
        terminate_at = None

        def before(self, input):
            """To be replaced."""

    steps, train_step = Steps(), loop.train_step

    def watched(training, input, target, scale, need_update):
        rate = training.optimizer.param_groups[0]['lr']
        if steps.terminate_at == len(steps):
            os.kill(os.getpid(), signal.SIGTERM)
        steps.before(input)
        result = train_step(training, input, target, scale, need_update)
        steps.append(types.SimpleNamespace(
            task=training.task, input=input, target=target, scale=scale, rate=rate, result=result))
        return result

    monkeypatch.setattr(loop, 'train_step', watched)
    return steps


@pytest.fixture
def flags(image_folder, tmp_path):
    """Flags of a short run into `tmp_path`, as a list to add to."""
    return [
        '--data-dir', str(image_folder), '--num-classes', '3', '--model', 'test_resnet',
        '--input-size', '3', '32', '32', '--epochs', '2', '--warmup-epochs', '0', '--batch-size', '8',
        '--workers', '0', '--lr', '0.01',
        '--output', str(tmp_path), '--experiment', 'run', '--device', 'cpu', '--log-interval', '1',
    ]
