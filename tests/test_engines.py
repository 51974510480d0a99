"""The order of calls of well-known training loops, with `MultiMix` in place of `timm.data.Mixup`."""
import copy

import pytest
import torch
import torch.nn as nn
from timm.loss import BinaryCrossEntropy, SoftTargetCrossEntropy
from torch.utils.data import DataLoader, default_collate

from tests.support.models import NUM_CLASSES, build, images, labels
from timm_multimix import MultiMix, UsageError
from timm_multimix.settings import MODES


def create(mode, **kwargs):
    model = build('resnet').train()
    mixup_fn = MultiMix(num_classes=NUM_CLASSES, mode=mode, num_tuples=12, label_smoothing=0., **kwargs)
    torch.manual_seed(3)
    return model, mixup_fn.attach(model), images('resnet', 4), labels(4)


def run_timm(model, mixup_fn, x, y):
    x, y = mixup_fn(x.to('cpu', torch.bfloat16), y.to('cpu'))
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.autocast('cpu', torch.bfloat16):
        return SoftTargetCrossEntropy()(model(x), y)


def run_deit(model, mixup_fn, x, y, bce_loss=False):
    x, y = mixup_fn(x, y)
    if bce_loss:
        y = y.gt(0.).type(y.dtype)
    with torch.autocast('cpu', torch.bfloat16):
        output = model(x)
        return BinaryCrossEntropy(smoothing=0.)(output, y) if bce_loss else SoftTargetCrossEntropy()(output, y)


def run_torchvision(model, mixup_fn, x, y):
    x, y = mixup_fn(x, y)  # the added line
    output = model(x)
    loss = nn.CrossEntropyLoss()(output, y)
    accuracy = (output.topk(5)[1][:, :1] == y.max(dim=1)[1][:, None]).float().mean()
    assert 0. <= accuracy <= 1.
    return loss


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('run', [run_timm, run_deit, run_torchvision])
def test_engines_get_the_loss_of_the_rows(run, mode):
    model, mixup_fn, x, target = create(mode)
    loss = run(model, mixup_fn, x, target)
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())

    model, mixup_fn, x, target = create(mode)
    _, y = mixup_fn(x, target)
    expected = -(model(x).log_softmax(dim=-1) * y).sum(dim=-1).mean()
    torch.testing.assert_close(loss, expected, rtol=0.02, atol=0.)


def test_deits_binary_loss_counts_both_examples_of_a_pair_in_full():
    model, mixup_fn, x, target = create('multimix', length=2)
    loss = run_deit(model, mixup_fn, x, target, bce_loss=True)
    model, mixup_fn, x, target = create('multimix', length=2)
    _, y = mixup_fn(x, target)
    y = torch.where(y > 0., 1., 0.)
    assert ((y.sum(dim=1) == 1.) | (y.sum(dim=1) == 2.)).all() and (y.sum(dim=1) == 2.).any()
    torch.testing.assert_close(loss, nn.BCEWithLogitsLoss()(model(x), y), rtol=0.02, atol=0.)


@pytest.mark.parametrize('num_workers', [0, 1])
@pytest.mark.parametrize('mode', MODES)
def test_in_a_collate_function_of_torchvision(mode, num_workers):
    """It works in the main process, where the pooled form has its targets at once; a worker has another model."""
    model, mixup_fn, x, target = create(mode)
    loader = DataLoader(
        list(zip(x, target)), 4, num_workers=num_workers, collate_fn=lambda batch: mixup_fn(*default_collate(batch)))
    if num_workers:
        with pytest.raises(UsageError, match='in the training loop, not in collate_fn'):
            next(iter(loader))
        return
    same_x, y = next(iter(loader))
    if mode == 'dense-multimix':
        with pytest.raises(UsageError, match=r'move images and labels to their device before mixup_fn\(x, y\)'):
            y.to('cpu')
        return
    mixed = copy.deepcopy(y.to('cpu'))
    loss = nn.CrossEntropyLoss()(model(same_x.to('cpu')), mixed)
    model, mixup_fn, x, target = create(mode)
    next(iter(DataLoader([0])))  # a loader draws a seed for its workers
    torch.testing.assert_close(loss, run_torchvision(model, mixup_fn, x, target))
