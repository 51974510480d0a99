"""An epoch of training, compared with a separate loop."""
import pytest
import timm
import torch
from timm.data import Mixup, create_dataset, create_loader
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.task import ClassificationTask
from timm.utils import random_seed

import train_timm
from timm_multimix.training import loop
from timm_multimix.training.bad_steps import BadSteps
from timm_multimix.training.checkpoints.recovery import Recovery
from timm_multimix.training.cli.parser import parse_args
from timm_multimix.training.runtime import create_runtime
from timm_multimix.training.schedule import Schedule


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


def test_accumulation_equals_one_step_on_the_joined_batch(image_folder):
    images, labels = torch.randn(10, 3, 32, 32), torch.randint(3, (10,))
    states = []
    for sizes in ((4, 4, 1, 1), (8, 2)):  # the second update has a shorter group
        args, _ = parse_args([
            str(image_folder), '--device', 'cpu', '--batch-size', '4', '--sched', 'none',
            '--grad-accum-steps', str(len(sizes) // 2)])
        runtime = create_runtime(args)
        torch.manual_seed(0)
        model = timm.create_model('test_vit', num_classes=3, img_size=32)
        optimizer = create_optimizer_v2(model, 'sgd', lr=0.1)
        task = ClassificationTask(model, device=runtime.device, verbose=False)
        batches = list(zip(images.split(sizes), labels.split(sizes)))
        training = loop.Training(
            args, runtime, task, optimizer, Schedule(args, optimizer, 2), BadSteps(model, optimizer, 0))
        loop.train_one_epoch(0, training, batches, Recovery(runtime))
        states.append(model.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-4, atol=1e-6)
