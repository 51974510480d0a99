"""Functions that test_distributed.py runs in each of two spawned processes, which import this module."""
import copy
import os
from datetime import timedelta

import timm
import torch
import torch.distributed as dist
from timm.utils import unwrap_model

from timm_multimix import MultiMixHead, MultiMixTask

BATCH, CLASSES, SIZE = 3, 5, 32


def batches(seed=0):
    """The batches of both processes, `[2, b, 3, h, w]`, and their labels `[2, b]`."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(2, BATCH, 3, SIZE, SIZE, generator=generator)
    return images, torch.randint(CLASSES, (2, BATCH), generator=generator)


def build(mode, **kwargs):
    """Build a task on a model without batch norms, which would see other batches in two processes than in one."""
    torch.manual_seed(1)
    model = timm.create_model('test_vit', num_classes=CLASSES, img_size=SIZE)
    return MultiMixTask(model, mode=mode, num_tuples=20, attention='gap', verbose=False, **kwargs)


def gradients_of(task):
    model = unwrap_model(task.get_eval_model())
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def start(rank, folder):
    torch.set_num_threads(1)
    # if one process fails, the other waits for it no longer than this
    dist.init_process_group(
        'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2, timeout=timedelta(minutes=2))


def one_step(rank, folder, mode, kwargs):
    images, labels = batches()
    task = build(mode, gather=True, **kwargs)
    task.prepare_distributed(device_ids=None)
    torch.manual_seed(2)  # the same tuples in both processes as in one
    result = task(images[rank], labels[rank])
    result['loss'].backward()
    record = dict(loss=result['loss'].detach(), output=result['output'].detach(), gradients=gradients_of(task))
    torch.save(record, os.path.join(folder, f'{rank}.pt'))


def switched_steps(rank, folder):
    """Gather while each batch's kind of mixing is drawn: if the draws differed, one process would wait in vain."""
    torch.manual_seed(rank)
    task = build('multimix', gather=True, prob=0.7, cutmix_alpha=1.)
    task.prepare_distributed(device_ids=None)
    kinds = []
    for step in range(12):
        images, labels = batches(step)
        result = task(images[rank], labels[rank])
        result['loss'].backward()
        kinds.append('mixed' if 'mixed_loss' in result else 'cutmix' if result['input_mixed'] else 'none')
    torch.save(kinds, os.path.join(folder, f'{rank}.pt'))


def adaptive_strength(rank, folder):
    """Follow one fit in both processes, though only one of them fits its images."""
    torch.manual_seed(rank)
    task = build('multimix', mixup_alpha=1., strength='auto')
    task.prepare_distributed(device_ids=None)
    shares = []
    for step in range(40):
        images, labels = batches(step)
        if rank:
            with torch.no_grad():
                labels = [task.get_eval_model()(image).argmax(dim=1) for image in images]
        task(images[rank], labels[rank])
        shares.append(task.input_mixing.metrics())
    torch.save(shares, os.path.join(folder, f'{rank}.pt'))


def head_alone(rank, folder):
    """Run a head outside the module that DDP wraps."""
    model = timm.create_model('test_resnet', num_classes=CLASSES)
    head, (images, labels) = MultiMixHead(model, 'dense-multimix'), batches(0)
    message = ''
    try:
        head(model.forward_features(images[rank]), labels[rank])
    except ValueError as error:
        message = str(error)
    with torch.no_grad():  # allowed, as no gradient can be lost
        head(model.forward_features(images[rank]), labels[rank])
    torch.save(message, os.path.join(folder, f'{rank}.pt'))


def three_steps(rank, folder, mode, teacher):
    """Train on each process's own data and draws, so own statistics of batch norms; the weights start different.

    Without a count of steps, no first update makes each average a copy of its model.
    """
    torch.manual_seed(rank)
    kwargs = dict(teacher_decay=0.9, single_view=True) if teacher else {}
    model = timm.create_model('test_resnet', num_classes=CLASSES)
    task = MultiMixTask(model, mode=mode, num_tuples=20, verbose=False, **kwargs)
    task.prepare_distributed(device_ids=None)
    if not teacher:
        task.setup_ema(decay=0.9)
    optimizer = torch.optim.SGD(task.get_eval_model().parameters(), lr=0.1, momentum=0.9)
    losses, states = [], []
    for step in range(3):
        images, labels = batches(step)
        loss = task(images[rank], labels[rank])['loss']
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        task.update_ema()
        losses.append(loss.item())
        states.append(copy.deepcopy(unwrap_model(task.get_eval_model(ema=True)).state_dict()))
    weights = {name: value.detach().clone() for name, value in model.named_parameters()}
    if not teacher:  # an ordinary average has the statistics of its own process
        states = [{name: state[name] for name in weights} for state in states]
    torch.save((losses, states, weights), os.path.join(folder, f'{rank}.pt'))
