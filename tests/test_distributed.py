"""Two gloo processes, compared with one process on the joined batch."""
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch

from tests.support import tasks_in_two
from timm_multimix.distributed import gather_batches

TEACHER = dict(teacher_decay=0.9, single_view=True, gamma=0.3)


@pytest.fixture(scope='module')
def processes(tmp_path_factory):
    """Two processes of one group, shared by all tests here, as each takes seconds to start."""
    folder, context = str(tmp_path_factory.mktemp('group')), multiprocessing.get_context('spawn')
    pools = [ProcessPoolExecutor(1, context, tasks_in_two.start, (rank, folder)) for rank in range(2)]
    yield pools
    for pool in pools:
        pool.shutdown()


@pytest.fixture
def both(processes, tmp_path):
    """A function that runs one of tasks_in_two in both processes and returns what each saved."""
    def both(function, *args):
        futures = [pool.submit(function, rank, str(tmp_path), *args) for rank, pool in enumerate(processes)]
        for future in futures:
            future.result()
        return [torch.load(tmp_path / f'{rank}.pt') for rank in range(2)]
    return both


def test_one_process_gathers_its_own_batch():
    rows = torch.randn(3, 2)
    assert gather_batches(rows) is rows


@pytest.mark.slow
def test_rows_and_gradients_are_gathered_from_both(both):
    (joined, first, labels), (again, second, _) = both(tasks_in_two.gather_rows)
    torch.testing.assert_close(joined, torch.tensor([[0., 1.], [2., 3.], [10., 11.], [12., 13.]]))
    assert torch.equal(joined, again) and labels.tolist() == [0, 5, 1, 6]
    # the first process weights each row once and the second twice, which makes three times in all
    torch.testing.assert_close(torch.cat([first, second]), 3. * torch.arange(8.).reshape(4, 2))


@pytest.mark.parametrize('mode, kwargs', [
    ('multimix', TEACHER),
    pytest.param('multimix', {}, marks=pytest.mark.slow),
    pytest.param('dense-multimix', TEACHER, marks=pytest.mark.slow),
    pytest.param('dense-multimix', {}, marks=pytest.mark.slow),
])
def test_gathering_equals_one_process_on_the_joined_batch(mode, kwargs, both):
    records = both(tasks_in_two.one_step, mode, True, kwargs)
    images, labels = tasks_in_two.batches()
    task = tasks_in_two.build(mode, **kwargs)
    torch.manual_seed(2)
    result = task(images.flatten(0, 1), labels.flatten())
    result['loss'].backward()
    expected = tasks_in_two.gradients_of(task)
    for rank, record in enumerate(records):
        torch.testing.assert_close(record['loss'], result['loss'].detach())
        torch.testing.assert_close(record['output'], result['output'].detach().unflatten(0, (2, -1))[rank])
        assert record['gradients'].keys() == expected.keys()
        for name, gradient in record['gradients'].items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_without_gathering_each_process_mixes_its_own_batch(both):
    first, second = both(tasks_in_two.one_step, 'multimix', False, {})
    assert first['loss'] != second['loss']
    for name, gradient in first['gradients'].items():  # DDP averages both
        assert torch.equal(gradient, second['gradients'][name])


@pytest.mark.slow
@pytest.mark.parametrize('mode', ['multimix', 'dense-multimix'])
def test_parameters_stay_identical(mode, both):
    (first_losses, *first), (second_losses, *second) = both(tasks_in_two.three_steps, mode)
    assert first_losses != second_losses
    for one, other in zip(first, second):
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert any(not torch.equal(first[0][name], first[1][name]) for name in first[0])


@pytest.mark.slow
def test_gathering_processes_agree_on_what_happens_to_a_batch(both):
    first, second = both(tasks_in_two.switched_steps)
    assert first == second and set(first) == {'mixed', 'cutmix', 'none'}


def test_both_processes_find_the_same_share(both):
    """Half of the images are fitted and half are not, so neither process alone would find it."""
    first, second = both(tasks_in_two.adaptive_strength)
    assert first == second
    assert 0.3 < first[-1]['fit'] < 0.9


def test_a_head_outside_of_ddp_is_refused(both):
    for message in both(tasks_in_two.head_alone):
        assert message.startswith('the head must run inside the forward of the module that DistributedDataParallel')


def test_both_processes_have_the_same_teacher(both):
    """The updates are not counted here, so no first update makes each teacher a copy of its student."""
    first, second = both(tasks_in_two.teacher_steps)
    for states in zip(first, second):
        for name, value in states[0].items():
            assert torch.equal(value, states[1][name]), name
    for name in ('fc.weight', 'conv1.1.running_mean'):
        assert not torch.equal(first[0][name], first[2][name]), name
