"""Self-distillation: the teacher against timm's ModelEmaV3, and the task against the loss with its logits."""
import copy

import pytest
import torch
from timm.utils import ModelEmaV3

from tests.support.models import build, gradients, images, labels
from tests.support.tensors import EXACT, seeded
from timm_multimix import MultiMixHead, MultiMixLoss, MultiMixTask
from timm_multimix.settings import MODES
from timm_multimix.tasks import distillation

modes = pytest.mark.parametrize('mode', MODES)


def make(model, mode='multimix', **kwargs):
    return MultiMixTask(model, mode=mode, verbose=False, **{'num_tuples': 10, 'teacher_decay': 0.9, **kwargs})


def views(key, batch_size=4):
    return images(key, 2 * batch_size), labels(batch_size)


def change(model):
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point() and 'running_var' not in name:
                value += 0.1 * torch.randn_like(value)


def states(task):
    return {name: value.clone() for name, value in task.teacher.model.state_dict().items()}


@modes
@pytest.mark.parametrize('key', ['efficientnet', 'vit'])
def test_the_task_gives_the_loss_of_the_logits_of_student_and_teacher(key, mode):
    """The teacher's logits come from a plain copy in eval mode on the second view; in dense mode, from its own head."""
    model = build(key).train()
    task = make(model, mode, gamma=0.3, criterion_kwargs=dict(smoothing=0.1))
    change(task.teacher.model)
    plain, other, before = copy.deepcopy(model), build(key), states(task)
    other.load_state_dict(before)
    x, target = views(key)
    result = seeded(task.train(), x, target)
    result['loss'].backward()

    criterion = MultiMixLoss(num_tuples=10, label_smoothing=0.1, gamma=0.3)
    if mode == 'multimix':
        inputs = dict(logits=plain(x[:4]), teacher_logits=other.eval()(x[4:]))
    else:
        outputs = MultiMixHead(plain, mode).outputs(plain.forward_features(x[:4]), target)
        dense = MultiMixHead(other, mode).dense(other.eval().forward_features(x[4:]))[0]
        inputs = {**outputs.loss_inputs(target), 'teacher_logits': dense}
    expected = seeded(criterion, **{**inputs, 'target': target})
    expected.backward()
    torch.testing.assert_close(result['loss'], expected)
    torch.testing.assert_close(gradients(model), gradients(plain), rtol=1e-3, atol=1e-5)
    without = seeded(MultiMixTask(copy.deepcopy(plain), mode=mode, num_tuples=10, verbose=False), x[:4], target)['loss']
    assert abs(without - expected) > 1e-3, 'the teacher matters'
    # a step trains the student and leaves the teacher alone
    assert all(p.grad is None and not p.requires_grad for p in task.teacher.parameters())
    assert not any(module.training for module in task.teacher.modules())
    torch.testing.assert_close(states(task), before, **EXACT)


@modes
@pytest.mark.parametrize('warmup', [False, True])
@pytest.mark.parametrize('with_ema', [False, True])
def test_the_teacher_moves_as_timms_average(with_ema, warmup, mode):
    """It moves once per update, with or without an ordinary EMA; without one, it is evaluated and saved instead."""
    model = build('efficientnet')
    task = make(model, mode, teacher_decay=0.8, teacher_warmup=warmup)
    assert task.has_ema() and not make(build('vit'), mode, teacher_decay=None).has_ema()
    expected, ordinary = ModelEmaV3(model, decay=0.8, use_warmup=warmup), ModelEmaV3(model, decay=0.3)
    if with_ema:
        task.setup_ema(decay=0.3)
    for step in (1, 2, 3, None):
        change(model)
        task.update_ema(step=step)
        expected.update(model, step=step)
        ordinary.update(model, step=step)
    assert not torch.equal(expected.module.conv_stem.weight, model.conv_stem.weight)
    torch.testing.assert_close(states(task), expected.module.state_dict(), **EXACT)
    averaged, x = (ordinary if with_ema else expected).module, images('efficientnet')
    torch.testing.assert_close(task.get_checkpoint_state(ema=True)['state_dict_ema'], averaged.state_dict(), **EXACT)
    assert torch.equal(task.get_eval_model(ema=True).eval()(x), averaged.eval()(x))


def test_a_checkpoint_without_a_teacher_starts_it_as_the_student():
    plain = make(build('efficientnet'), teacher_decay=None)
    change(plain.get_eval_model())
    task = make(build('efficientnet'))
    task.load_checkpoint_state(plain.get_checkpoint_state()['state_dict'])
    torch.testing.assert_close(states(task), plain.get_eval_model().state_dict(), **EXACT)


def test_stochastic_rounding_continues_after_loading():
    """bfloat16 averages are rounded at random, with their own generator."""
    def teacher_after(task, steps):
        for _ in range(steps):
            with torch.no_grad():
                for parameter in task.get_eval_model().parameters():
                    parameter += 0.1
            task.update_ema()
        return states(task)

    task, other = make(build('vit').bfloat16()), make(build('vit').bfloat16())
    teacher_after(task, 2)
    other.load_checkpoint_state(**copy.deepcopy(task.get_checkpoint_state()))
    torch.testing.assert_close(teacher_after(other, 2), teacher_after(task, 2), **EXACT)
    # a CUDA generator's state has another size, and is ignored; without bfloat16 nothing is rounded at random
    state = task.get_checkpoint_state()
    state['task_state']['teacher']['rounding'] = torch.zeros(16, dtype=torch.uint8)
    other.load_checkpoint_state(**state)
    assert 'rounding' not in make(build('vit')).get_checkpoint_state()['task_state']['teacher']


def test_batch_norm_statistics_of_a_distributed_student_reach_the_teacher(process_group):
    model = build('efficientnet').train()
    task = make(model).prepare_distributed()
    seeded(task, *views('efficientnet'))['loss'].backward()
    assert not torch.equal(task.teacher.model.bn1.running_mean, model.bn1.running_mean)
    task.update_ema(step=1)
    assert torch.equal(task.teacher.model.bn1.running_mean, model.bn1.running_mean)


@modes
def test_the_attention_gradient_works_with_a_teacher(mode):
    """The reference loss gives it, with a teacher as without."""
    model = build('resnet').train()
    kwargs = dict(attention_grad=True) if mode == 'dense-multimix' else dict(implementation='reference')
    loss = seeded(make(model, mode, **kwargs), *views('resnet'))['loss']
    torch.testing.assert_close(loss, seeded(make(build('resnet').train(), mode), *views('resnet'))['loss'])
    loss.backward()
    assert all(grad is not None for grad in gradients(model).values())


@modes
@pytest.mark.parametrize('gamma, kwargs', [
    (1., {}), (0.5, dict(prob=0.)), (0.5, dict(cutmix_alpha=1., input_prob=1.))], ids=str)
def test_where_the_teacher_has_no_part_a_step_is_that_of_the_students_view_alone(gamma, kwargs, mode):
    model, plain, (x, target) = build('vit').train(), build('vit').train(), views('vit')
    result = seeded(make(model, mode, gamma=gamma, **kwargs), x, target)
    expected = seeded(make(plain, mode, teacher_decay=None, **kwargs), x[:4], target)
    torch.testing.assert_close(result, expected, **EXACT)
    result['loss'].backward()
    expected['loss'].backward()
    torch.testing.assert_close(gradients(model), gradients(plain), **EXACT)


@pytest.mark.parametrize('updates, warns', [(False, 1), (True, 0)])
def test_a_loop_that_never_updates_the_teacher_is_warned(updates, warns, monkeypatch, caplog):
    monkeypatch.setattr(distillation, '_WARN_AFTER', 3)
    task = make(build('resnet'), single_view=True)
    for _ in range(7):
        task(images('resnet', 4), labels(4))
        if updates:
            task.update_ema()
    assert caplog.text.count('task.update_ema(step)') == warns


def test_views_may_be_joined_paired_or_single():
    x, target = views('resnet')
    both = seeded(make(build('resnet')), x, target)['loss']
    assert torch.equal(seeded(make(build('resnet')), (x[:4], x[4:]), target)['loss'], both)
    single = seeded(make(build('resnet'), single_view=True), x[:4], target)['loss']
    assert torch.equal(single, seeded(make(build('resnet')), (x[:4], x[:4]), target)['loss'])
    assert not torch.equal(single, both)
