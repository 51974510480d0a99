"""Two gloo processes, compared with one process on the joined batch."""
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch

from tests.support import tasks_in_two
from tests.support.tensors import EXACT

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


@pytest.mark.parametrize('mode', ['multimix', pytest.param('dense-multimix', marks=pytest.mark.slow)])
def test_gathering_equals_one_process_on_the_joined_batch(mode, both):
    records = both(tasks_in_two.one_step, mode, TEACHER)
    images, labels = tasks_in_two.batches()
    task = tasks_in_two.build(mode, **TEACHER)
    torch.manual_seed(2)
    result = task(images.flatten(0, 1), labels.flatten())
    result['loss'].backward()
    expected = tasks_in_two.gradients_of(task)
    for rank, record in enumerate(records):
        torch.testing.assert_close(record['loss'], result['loss'].detach())
        torch.testing.assert_close(record['output'], result['output'].detach().unflatten(0, (2, -1))[rank])
        torch.testing.assert_close(record['gradients'], expected, rtol=1e-4, atol=1e-6)


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


@pytest.mark.parametrize('mode, teacher', [('multimix', True), *(
    pytest.param(mode, False, marks=pytest.mark.slow) for mode in ('multimix', 'dense-multimix'))])
def test_both_processes_have_the_same_weights_and_averages(mode, teacher, both):
    (first_losses, first, weights), (second_losses, second, others) = both(tasks_in_two.three_steps, mode, teacher)
    assert first_losses != second_losses
    torch.testing.assert_close(weights, others, **EXACT)
    torch.testing.assert_close(first, second, **EXACT)
    for name in ('fc.weight', 'conv1.1.running_mean') if teacher else ('fc.weight',):
        assert not torch.equal(first[0][name], first[2][name]), name
