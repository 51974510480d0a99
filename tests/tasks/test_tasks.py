"""What holds for every training task: plain steps, plain checkpoints, and timm's ways to run a task."""
import copy

import pytest
import torch
import torch.nn.functional as F

from tests.support.models import build, gradients, images, labels
from tests.support.tensors import EXACT, seeded
from tests.support.training_states import assert_identical
from timm_multimix import MixupETask, MultiMixTask

TEACHER = dict(teacher_decay=0.9, single_view=True)
KINDS = {
    'multimix': {},
    'dense-multimix': dict(mode='dense-multimix'),
    'distilled': TEACHER,
    'dense distilled': dict(TEACHER, mode='dense-multimix'),
    'mixupe': dict(eta=0.5),
    'plain mixup': dict(eta=0.),
    'exact mixupe': dict(eta=0.5, exact=True, mean_image=torch.full((3, 64, 64), 0.1)),
}
kinds = pytest.mark.parametrize('kind', KINDS)
X, TARGET = images('vit', 4), labels(4)  # 64 x 64 pixels, like those of other models here


def make(kind, model, **kwargs):
    if 'mixup' in kind:
        return MixupETask(model, verbose=False, **KINDS[kind], **kwargs)
    return MultiMixTask(model, verbose=False, **{**KINDS[kind], 'num_tuples': 8, **kwargs})


def step(task):
    task.train()
    result = seeded(task, X, TARGET)
    result['loss'].backward()
    return result


def descend(task, model):
    """Take one step of gradient descent, and update the averages."""
    step(task)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.1 * parameter.grad
            parameter.grad = None
    task.update_ema()


@pytest.mark.parametrize('kind, how', [
    *((kind, how) for kind in KINDS for how in ('prob 0', 'switched off', 'eval')),
    *((kind, how) for kind in KINDS if 'mixup' not in kind for how in ('strength 0', "strength 'auto' at 0"))])
def test_without_mixing_a_step_is_a_plain_one(how, kind):
    """The same loss, gradients and running statistics as the criterion on model(x), with the same label smoothing."""
    model = build('resnet')
    plain = copy.deepcopy(model).train(how != 'eval')
    kwargs = {'prob 0': dict(prob=0.), 'strength 0': dict(strength=0.), "strength 'auto' at 0": dict(strength='auto')}
    task = make(kind, model, label_smoothing=0.1, **kwargs.get(how, {})).train(how != 'eval')
    task.mixup_enabled = how != 'switched off'
    result, logits = task(X, TARGET), plain(X)
    expected = F.cross_entropy(logits, TARGET, label_smoothing=0.1)
    result['loss'].backward()
    expected.backward()
    assert torch.equal(result['output'], logits) and not result.get('input_mixed') and 'mixed_loss' not in result
    torch.testing.assert_close(result['loss'], expected)
    torch.testing.assert_close(gradients(model), gradients(plain))
    torch.testing.assert_close(dict(model.named_buffers()), dict(plain.named_buffers()), **EXACT)


@kinds
def test_checkpoints_hold_the_plain_model_and_restore_the_task(kind):
    model, plain = build('efficientnet'), build('efficientnet')
    task = make(kind, model)
    assert task.get_eval_model() is model
    parameters = [id(parameter) for parameter in model.parameters()]
    assert [id(parameter) for parameter in task.get_clip_parameters()] == parameters
    assert [id(parameter) for parameter in task.get_clip_parameters(exclude_head=True)] == parameters[:-2]
    descend(task, model)
    state = copy.deepcopy(task.get_checkpoint_state())
    assert list(state['state_dict']) == list(plain.state_dict())
    assert ('task_state' in state) == (kind in ('distilled', 'dense distilled', 'exact mixupe'))
    other = make(kind, plain)
    other.load_checkpoint_state(**state)
    assert_identical(plain.state_dict(), state['state_dict'])
    for each in ((task, model), (other, plain)):
        descend(*each)
    assert_identical(other.get_checkpoint_state(), task.get_checkpoint_state())
    for others in ('multimix', 'distilled', 'mixupe'):  # what only another task has is ignored
        make(others, plain).load_checkpoint_state(**state)


@kinds
def test_the_ema_averages_the_plain_model(kind):
    model = build('efficientnet')
    task = make(kind, model)
    task.setup_ema(decay=0.5)
    start = copy.deepcopy(model.state_dict())
    descend(task, model)
    averaged = task.get_checkpoint_state(ema=True)
    assert list(averaged) == ['state_dict_ema'] and list(averaged['state_dict_ema']) == list(start)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(averaged['state_dict_ema'][name], (start[name] + parameter.detach()) / 2.)
    plain = build('efficientnet')
    plain.load_state_dict(averaged['state_dict_ema'])
    assert torch.equal(task.get_eval_model(ema=True).eval()(X), plain.eval()(X))


@pytest.mark.parametrize('kind, key', [
    ('dense distilled', 'vit'), *(
        pytest.param(*case, marks=pytest.mark.slow) for case in (
            ('mixupe', 'vit'), ('multimix', 'vit'), ('dense-multimix', 'vit'), ('distilled', 'vit'),
            ('plain mixup', 'vit'), ('dense distilled', 'resnet'), ('dense-multimix', 'mobilenetv4')))])
def test_a_compiled_step_is_one_graph_and_the_same(kind, key):
    model, expected = build(key), step(make(kind, build(key)))
    task = make(kind, model)
    assert task.compile(backend='eager', fullgraph=True) is task.get_eval_model()
    result = step(task)
    torch.testing.assert_close(result, expected)
    assert all(grad is not None for grad in gradients(model).values())
    assert list(task.get_checkpoint_state()['state_dict']) == list(build(key).state_dict())
    if 'distilled' in kind:
        assert list(task.get_task_state()['teacher']['state_dict']) == list(build(key).state_dict())
        with torch.no_grad():
            task.get_eval_model().get_classifier().weight.zero_()
        task.update_ema(step=1)
        assert not task.teacher.model.get_classifier().weight.any(), 'the first update copies the student'
    task.eval()
    with torch.no_grad():
        assert torch.equal(task.get_eval_model()(X), model(X))
    torch._dynamo.reset()


@kinds
def test_steps_under_ddp_are_the_same(kind, process_group):
    """The second step would fail if the first left a parameter without a gradient, here also without a clean term."""
    kwargs = {} if 'mixup' in kind else dict(clean_weight=0.)
    plain, model = build('cait'), build('cait')
    expected = step(make(kind, plain, **kwargs))
    task = make(kind, model, **kwargs).prepare_distributed()
    for _ in range(2):
        model.zero_grad()
        result = step(task)
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(gradients(model), gradients(plain))
    assert list(task.get_checkpoint_state()['state_dict']) == list(plain.state_dict())


@pytest.mark.parametrize('kind, key, kwargs', [
    *((kind, 'vit', {}) for kind in KINDS), ('dense-multimix', 'mobilenetv4', {}),
    *((kind, 'resnet', dict(criterion_kwargs=dict(loss_type='bce'))) for kind in ('multimix', 'dense-multimix'))])
def test_under_autocast_the_loss_is_in_float32(kind, key, kwargs):
    exact, model, dtypes = step(make(kind, build(key), **kwargs))['loss'], build(key), []
    task = make(kind, model, **kwargs)  # tries the model
    model.register_forward_hook(lambda module, args, output: dtypes.append(output.dtype))
    task.train()
    with torch.autocast('cpu', torch.bfloat16):
        result = seeded(task, X, TARGET)
    result['loss'].backward()
    # the derivative of the exact terms would lose its digits
    assert result['output'].dtype == (torch.float32 if kind == 'exact mixupe' else torch.bfloat16)
    assert 'mixup' not in kind or dtypes == [torch.bfloat16, result['output'].dtype][:len(dtypes)]
    assert result['loss'].dtype == torch.float32
    torch.testing.assert_close(result['loss'], exact, rtol=0.05, atol=0.05)
    assert all(grad is not None and torch.isfinite(grad).all() for grad in gradients(model).values())
