"""Self-distillation: the loss against its equation, the teacher against timm's ModelEmaV3, and the task with both."""
import copy
import re

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from timm.utils import ModelEmaV3

from tests.support import naive
from tests.support.models import build, gradients, images, labels
from tests.support.tensors import ANYWHERE, CLOSE, SHAPES, random_target, random_weights
from timm_multimix import MultiMixHead, MultiMixLoss, MultiMixTask
from timm_multimix.functional import mixed_cross_entropy
from timm_multimix.ops import chunked
from timm_multimix.settings import MODES
from timm_multimix.tasks import distillation
from timm_multimix.tasks.distillation import split_views

TARGETS = ('hard', 'soft', 'multi-hot')


def problem(shape, kind):
    """Make student and teacher as (embeddings, weight, bias), target and weights."""
    torch.manual_seed(0)
    batch_size, length, num_tuples, positions, num_classes, width = SHAPES[shape]
    dense = () if positions is None else (positions,)
    shapes = (batch_size, *dense, width), (num_classes, width), (num_classes,)
    student, teacher = ([torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes] for _ in range(2))
    weights = random_weights((*dense, num_tuples, batch_size), length)
    return student, teacher, random_target(kind, batch_size, num_classes), weights


@pytest.mark.parametrize('implementation', ANYWHERE)
@pytest.mark.parametrize('gamma, label_smoothing', [(0., 0.), (0.3, 0.), (0.3, 0.1), (1., 0.1)])
@pytest.mark.parametrize('kind', TARGETS)
@pytest.mark.parametrize('shape', SHAPES)
def test_loss_and_gradients_are_those_of_the_written_equation(shape, kind, gamma, label_smoothing, implementation):
    student, teacher, target, weights = problem(shape, kind)
    expected = naive.distillation_loss(student, teacher, target, weights, gamma, label_smoothing)
    loss = mixed_cross_entropy(
        F.linear(*student), target, weights, label_smoothing=label_smoothing, teacher_logits=F.linear(*teacher),
        gamma=gamma, implementation=implementation)
    torch.testing.assert_close(loss, expected, **CLOSE)
    torch.testing.assert_close(torch.autograd.grad(loss, student), torch.autograd.grad(expected, student), **CLOSE)


@pytest.mark.parametrize('elements', [1, 16, 40, 1000])
@pytest.mark.parametrize('kind', TARGETS)
def test_any_chunk_and_block_gives_the_same_loss(kind, elements, monkeypatch):
    """Chunks of tuples and positions, and blocks of weights, that do not divide n and r."""
    student, teacher, target, weights = problem('dense', kind)
    expected = naive.distillation_loss(student, teacher, target, weights, 0.3, 0.1)
    monkeypatch.setattr(chunked, '_CHUNK_ELEMENTS', {'cpu': elements})
    monkeypatch.setattr(chunked, '_MIN_CHUNK_ROWS', 1)
    loss = mixed_cross_entropy(
        F.linear(*student), target, iter(weights.split(3, dim=1)), label_smoothing=0.1,
        teacher_logits=F.linear(*teacher), gamma=0.3)
    torch.testing.assert_close(loss, expected, **CLOSE)
    torch.testing.assert_close(torch.autograd.grad(loss, student), torch.autograd.grad(expected, student), **CLOSE)


@pytest.mark.parametrize('implementation', ANYWHERE)
@pytest.mark.parametrize('kind', TARGETS)
def test_gamma_of_one_is_multimix_bit_for_bit(kind, implementation):
    student, teacher, target, weights = problem('dense', kind)
    logits = F.linear(*student)
    kwargs = dict(label_smoothing=0.1, implementation=implementation)
    losses = [
        mixed_cross_entropy(logits, target, weights, **kwargs),
        mixed_cross_entropy(logits, target, weights, teacher_logits=F.linear(*teacher), gamma=1., **kwargs),
    ]
    assert torch.equal(*losses)
    grads = [torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in losses]
    assert torch.equal(*grads)


@pytest.mark.parametrize('implementation', ANYWHERE)
def test_the_teachers_logits_receive_no_gradient(implementation):
    student, teacher, target, weights = problem('dense', 'hard')
    weights.requires_grad_(implementation == 'reference')
    mixed_cross_entropy(
        F.linear(*student), target, weights, teacher_logits=F.linear(*teacher), implementation=implementation,
    ).backward()
    assert all(x.grad is not None and x.grad.any() for x in student)
    assert all(x.grad is None for x in teacher)


def test_the_teachers_probabilities_are_constant_in_the_weights():
    """If the attention is differentiated, no gradient passes through the teacher's targets."""
    student, teacher, target, weights = problem('pooled', 'soft')
    weights.requires_grad_()
    loss = mixed_cross_entropy(F.linear(*student), target, weights, teacher_logits=F.linear(*teacher), gamma=0.)
    constant = (weights @ F.linear(*teacher)).softmax(dim=-1).detach()
    expected = -(constant * (weights @ F.linear(*student)).log_softmax(dim=-1)).sum(dim=-1).mean()
    torch.testing.assert_close(
        torch.autograd.grad(loss, weights), torch.autograd.grad(expected, weights), **CLOSE)


@pytest.mark.parametrize('dense', [False, True])
@pytest.mark.parametrize('soft', [False, True])
def test_only_the_mixed_term_is_distilled(soft, dense):
    """γ·H(ΛY, p) + (1 - γ)·H(p', p) + w·clean: label smoothing and the clean term concern the targets alone."""
    torch.manual_seed(0)
    shape = (4, 5, 3) if dense else (4, 3)
    logits, teacher_logits = torch.randn(2, *shape, dtype=torch.float64)
    clean_logits = torch.randn(4, 3, dtype=torch.float64) if dense else None
    attention = torch.rand(4, 5, dtype=torch.float64).softmax(dim=-1) if dense else None
    target = random_target('soft' if soft else 'hard', 4, 3)
    criterion = MultiMixLoss(num_tuples=9, clean_weight=0.4, label_smoothing=0.1, gamma=0.3)
    torch.manual_seed(1)
    weights = criterion.sample_weights(logits, attention)
    torch.manual_seed(1)
    terms = criterion.terms(logits, target, attention, clean_logits, teacher_logits)

    smooth = naive.soft_targets(target, 3, 0.1)
    teacher = naive.interpolate(weights, teacher_logits).softmax(dim=-1)
    mixed_target = 0.3 * naive.interpolate(weights, smooth) + 0.7 * teacher
    mixed = -(mixed_target * naive.interpolate(weights, logits).log_softmax(dim=-1)).sum(dim=-1).mean()
    clean = -(smooth * (clean_logits if dense else logits).log_softmax(dim=-1)).sum(dim=-1).mean()
    torch.testing.assert_close(terms['mixed_loss'], mixed, **CLOSE)
    torch.testing.assert_close(terms['clean_loss'], clean, **CLOSE)
    torch.testing.assert_close(terms['loss'], (mixed + 0.4 * clean) / 1.4, **CLOSE)


def make(model, mode='multimix', **kwargs):
    return MultiMixTask(model, mode=mode, verbose=False, **{'num_tuples': 10, 'teacher_decay': 0.9, **kwargs})


def views(key, batch_size=4):
    return images(key, 2 * batch_size), labels(batch_size)


def seeded(task, *args, seed=3):
    torch.manual_seed(seed)
    np.random.seed(seed)
    return task(*args)


def move(task, step=None, lr=0.1, key='efficientnet'):
    """Take one step of plain gradient descent, and update the averages."""
    task.train()
    seeded(task, *views(key))['loss'].backward()
    model = task.get_eval_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= lr * parameter.grad
            parameter.grad = None
    task.update_ema(step=step)


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('key', ['efficientnet', 'vit'])
def test_the_task_gives_the_loss_of_the_logits_of_student_and_teacher(key, mode):
    """The teacher's logits come from a plain copy in eval mode on the second view; in dense mode, from its own head."""
    model = build(key).train()
    task = make(model, mode, gamma=0.3, criterion_kwargs=dict(smoothing=0.1))
    teacher = task.teacher.model
    with torch.no_grad():  # make the teacher differ from the student
        for parameter in teacher.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    plain, other = copy.deepcopy(model), build(key)
    other.load_state_dict(teacher.state_dict())
    task.train()
    x, target = views(key)
    result = seeded(task, x, target)
    result['loss'].backward()

    criterion = MultiMixLoss(num_tuples=10, label_smoothing=0.1, gamma=0.3)
    if mode == 'multimix':
        inputs = dict(logits=plain(x[:4]), teacher_logits=other.eval()(x[4:]))
    else:
        outputs = MultiMixHead(plain, mode).outputs(plain.forward_features(x[:4]), target)
        dense = MultiMixHead(other, mode).dense(other.eval().forward_features(x[4:]))[0]
        inputs = {**outputs.loss_inputs(target), 'teacher_logits': dense}
    expected = seeded(lambda: criterion(**{**inputs, 'target': target}))
    expected.backward()
    torch.testing.assert_close(result['loss'], expected)
    torch.testing.assert_close(gradients(model), gradients(plain), rtol=1e-3, atol=1e-5)
    without = seeded(MultiMixTask(copy.deepcopy(plain), mode=mode, num_tuples=10, verbose=False), x[:4], target)['loss']
    assert abs(without - expected) > 1e-3, 'the teacher matters'


@pytest.mark.parametrize('mode', MODES)
def test_no_gradient_reaches_the_teacher_and_a_step_does_not_change_it(mode):
    task = make(build('efficientnet').train(), mode).train()
    before = copy.deepcopy(task.teacher.model.state_dict())
    seeded(task, *views('efficientnet'))['loss'].backward()
    assert all(p.grad is None and not p.requires_grad for p in task.teacher.parameters())
    assert all(p.grad is not None for p in task.get_eval_model().parameters())
    assert not any(module.training for module in task.teacher.modules())
    for name, value in task.teacher.model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize('mode', MODES)
def test_gamma_of_one_is_the_task_without_a_teacher(mode):
    model = build('vit').train()
    plain = copy.deepcopy(model)
    x, target = views('vit')
    result = seeded(make(model, mode, gamma=1.), x, target)
    expected = seeded(make(plain, mode, teacher_decay=None), x[:4], target)
    assert result.keys() == expected.keys()
    for name in expected:
        assert torch.equal(result[name], expected[name]), name
    result['loss'].backward()
    expected['loss'].backward()
    for name, grad in gradients(plain).items():
        assert torch.equal(gradients(model)[name], grad), name


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('warmup', [False, True])
@pytest.mark.parametrize('with_ema', [False, True])
def test_the_teacher_moves_as_timms_average(with_ema, warmup, mode):
    """It moves once per update, with or without an ordinary EMA."""
    model = build('efficientnet').train()
    task = make(model, mode, teacher_decay=0.8, teacher_warmup=warmup)
    expected, ordinary = ModelEmaV3(model, decay=0.8, use_warmup=warmup), ModelEmaV3(model, decay=0.3)
    if with_ema:
        task.setup_ema(decay=0.3)
    for step in (1, 2, 3, None):
        move(task, step)
        expected.update(model, step=step)
        ordinary.update(model, step=step)
    averaged = expected.module.state_dict()
    assert task.teacher.model.state_dict().keys() == averaged.keys()
    for name, value in task.teacher.model.state_dict().items():
        assert torch.equal(value, averaged[name]), name
    assert not torch.equal(averaged['conv_stem.weight'], model.conv_stem.weight)
    ema = task.get_checkpoint_state(ema=True)['state_dict_ema']
    for name, value in (ordinary if with_ema else expected).module.state_dict().items():
        assert torch.equal(ema[name], value), name


@pytest.mark.parametrize('mode', MODES)
def test_without_an_ordinary_ema_the_teacher_is_evaluated(mode):
    task = make(build('efficientnet').train(), mode)
    move(task)
    x = images('efficientnet')
    assert task.has_ema()
    assert torch.equal(task.get_eval_model(ema=True).eval()(x), task.teacher.model(x))
    task.setup_ema(decay=0.5)
    task.get_trainable_module(ema=True).module.get_submodule(
        'model' if mode == 'dense-multimix' else '').get_classifier().weight.data.zero_()
    assert not torch.equal(task.get_eval_model(ema=True).eval()(x), task.teacher.model(x))
    assert not make(build('vit'), mode, teacher_decay=None).has_ema()


@pytest.mark.parametrize('mode', MODES)
def test_checkpoints_are_plain_and_restore_the_teacher(mode):
    task = make(build('efficientnet').train(), mode)
    for step in (1, 2, 3):
        move(task, step)
    state = copy.deepcopy(task.get_checkpoint_state())
    assert list(state['state_dict']) == list(build('efficientnet').state_dict())
    assert list(state['task_state']['teacher']['state_dict']) == list(state['state_dict'])
    assert 'task_state_ema' not in task.get_checkpoint_state(ema=True), 'the teacher is not kept twice'

    other = make(build('efficientnet').train(), mode)
    other.load_checkpoint_state(**state)
    for name, value in task.teacher.model.state_dict().items():
        assert torch.equal(other.teacher.model.state_dict()[name], value), name
    for each in (task, other):
        move(each, 4)
    for name, value in task.teacher.model.state_dict().items():
        assert torch.equal(other.teacher.model.state_dict()[name], value), name


def test_a_checkpoint_without_a_teacher_starts_it_as_the_student():
    plain = make(build('efficientnet'), teacher_decay=None)
    with torch.no_grad():
        plain.get_eval_model().get_classifier().weight.fill_(0.5)
    task = make(build('efficientnet'))
    task.load_checkpoint_state(plain.get_checkpoint_state()['state_dict'])
    for name, value in plain.get_eval_model().state_dict().items():
        assert torch.equal(task.teacher.model.state_dict()[name], value), name
    plain.load_checkpoint_state(**task.get_checkpoint_state())  # and a task without a teacher ignores it


def test_stochastic_rounding_continues_after_loading():
    """bfloat16 averages are rounded at random, with their own generator."""
    def teacher_after(task, steps):
        for _ in range(steps):
            with torch.no_grad():
                for parameter in task.get_eval_model().parameters():
                    parameter += 0.1
            task.update_ema()
        return {name: value.clone() for name, value in task.teacher.model.state_dict().items()}

    task = make(build('vit').bfloat16())
    teacher_after(task, 2)
    state = copy.deepcopy(task.get_checkpoint_state())
    expected = teacher_after(task, 2)
    other = make(build('vit').bfloat16())
    other.load_checkpoint_state(**state)
    for name, value in teacher_after(other, 2).items():
        assert torch.equal(value, expected[name]), name


def test_rounding_state_of_another_kind_of_device_is_ignored():
    """A CUDA generator's state has another size; and without bfloat16 nothing is rounded at random."""
    state = make(build('vit').bfloat16()).get_checkpoint_state()
    state['task_state']['teacher']['rounding'] = torch.zeros(16, dtype=torch.uint8)
    make(build('vit').bfloat16()).load_checkpoint_state(**state)
    assert 'rounding' not in make(build('vit')).get_checkpoint_state()['task_state']['teacher']


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('key', ['resnet', 'vit'])
def test_compile(key, mode):
    x, target = views(key)
    expected = seeded(make(build(key).train(), mode), x, target)
    task = make(build(key).train(), mode)
    task.compile(backend='eager', fullgraph=True)
    result = seeded(task.train(), x, target)
    result['loss'].backward()
    for name in expected:
        torch.testing.assert_close(result[name], expected[name])
    assert list(task.get_checkpoint_state()['task_state']['teacher']['state_dict']) == list(build(key).state_dict())
    with torch.no_grad():
        task.get_eval_model().get_classifier().weight.zero_()
    task.update_ema(step=1)
    assert not task.teacher.model.get_classifier().weight.any(), 'the first update copies the student'
    torch._dynamo.reset()


@pytest.mark.parametrize('mode', MODES)
def test_distributed(mode):
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    try:
        x, target = views('efficientnet')
        expected = seeded(make(build('efficientnet').train(), mode), x, target)['loss']
        model = build('efficientnet').train()
        task = make(model, mode).prepare_distributed().train()
        keys = list(task.get_checkpoint_state()['task_state']['teacher']['state_dict'])
        assert keys == list(build('efficientnet').state_dict())
        loss = seeded(task, x, target)['loss']
        torch.testing.assert_close(loss, expected)
        loss.backward()
        assert not torch.equal(task.teacher.model.bn1.running_mean, model.bn1.running_mean)
        task.update_ema(step=1)
        assert torch.equal(task.teacher.model.bn1.running_mean, model.bn1.running_mean)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize('mode', MODES)
def test_the_attention_gradient_works_with_a_teacher(mode):
    """The reference loss gives it, with a teacher as without."""
    model = build('resnet').train()
    kwargs = dict(attention_grad=True) if mode == 'dense-multimix' else dict(implementation='reference')
    x, target = views('resnet')
    loss = seeded(make(model, mode, **kwargs), x, target)['loss']
    torch.testing.assert_close(loss, seeded(make(build('resnet').train(), mode), x, target)['loss'])
    loss.backward()
    assert all(grad is not None for grad in gradients(model).values())


@pytest.mark.parametrize('kwargs', [dict(prob=0.), dict(cutmix_alpha=1., switch_prob=1.)], ids=['plain', 'cutmix'])
def test_batches_that_are_not_mixed_use_the_students_view(kwargs):
    x, target = views('resnet')
    result = seeded(make(build('resnet').train(), **kwargs), x, target)
    expected = seeded(make(build('resnet').train(), teacher_decay=None, **kwargs), x[:4], target)
    assert result.keys() == expected.keys()
    assert torch.equal(result['loss'], expected['loss']) and torch.equal(result['output'], expected['output'])


@pytest.mark.parametrize('updates, warns', [(False, 1), (True, 0)])
def test_a_loop_that_never_updates_the_teacher_is_warned(updates, warns, monkeypatch, caplog):
    monkeypatch.setattr(distillation, '_WARN_AFTER', 3)
    task = MultiMixTask(build('resnet'), num_tuples=2, teacher_decay=0.9, single_view=True, verbose=False)
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


@pytest.mark.parametrize('call, parts', [
    (lambda: split_views(torch.zeros(4, 3), 4), ('two views of 4', r'\[8, ...\]', 'single_view=True', r'\[4, 3\]')),
    (lambda: split_views((torch.zeros(4, 3),) * 3, 4), ('two views of 4', r'\[\[4, 3\], \[4, 3\], \[4, 3\]\]')),
    (lambda: split_views((torch.zeros(4, 3), torch.zeros(5, 3)), 4), ('two views of 4', r'\[5, 3\]')),
    (lambda: split_views((1, torch.zeros(4, 3)), 4), ('pair of tensors', 'int')),
    (lambda: split_views(torch.zeros(8, 3), 4, single_view=True), ('4 images', r'\[8, 3\]')),
    (lambda: make(build('vit'), teacher_decay=1.5), ('teacher_decay', '<= 1', '1.5')),
    (lambda: make(build('vit'), teacher_decay=-0.1), ('teacher_decay', '>= 0', '-0.1')),
    (lambda: make(build('vit'), teacher_decay='0.9'), ('teacher_decay', 'number', "'0.9'")),
    (lambda: make(build('vit'), gamma=2.), ('gamma', '<= 1', '2')),
    (lambda: make(build('vit'), gamma=-1), ('gamma', '>= 0', '-1')),
    (lambda: make(build('vit'), teacher_decay=None, gamma=0.), ('gamma needs teacher_decay', 'gamma=0.0')),
    (lambda: make(build('vit'), teacher_decay=None, single_view=True), ('single_view needs teacher_decay',)),
    (lambda: make(build('vit'), teacher_decay=None, teacher_warmup=True), ('teacher_warmup needs teacher_decay',)),
    (lambda: make(build('vit'), criterion_kwargs=dict(loss_type='bce')), ('teacher_decay', 'cross-entropy', '0.9')),
    (lambda: MultiMixLoss(5, gamma=1.1), ('gamma', '<= 1', '1.1')),
    (lambda: MultiMixLoss(5)(torch.zeros(4, 3), labels(4) % 3, teacher_logits=torch.zeros(4, 5)),
        ('teacher_logits', r'\[4, 3\]', r'\[4, 5\]')),
    (lambda: MultiMixLoss(5)(torch.zeros(4, 3), labels(4) % 3, teacher_logits=torch.zeros(4, 2, 3)),
        ('teacher_logits', r'\[4, 3\]', r'\[4, 2, 3\]')),
    (lambda: MultiMixLoss(5)(torch.zeros(4, 3), labels(4) % 3, teacher_logits=torch.zeros(4, 3) / 0.),
        ('teacher_logits', 'finite', '12')),
    (lambda: MultiMixLoss(5, criterion=F.mse_loss)(torch.zeros(4, 3), labels(4) % 3, teacher_logits=torch.zeros(4, 3)),
        ('teacher_logits', 'cross-entropy')),
], ids=lambda x: re.sub(r'\W', '', str(x[0])) if isinstance(x, tuple) else '')
def test_bad_arguments_are_refused_by_name(call, parts):
    with pytest.raises(ValueError) as error:
        call()
    assert all(re.search(part, str(error.value)) for part in parts), error.value
