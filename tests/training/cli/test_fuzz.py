"""Any flag with any value gives a run, or exit code 2 and a line that says what is wrong; never a traceback."""
import random

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import train_timm
from tests.support.strategies import many
from timm_multimix.training.cli.flags import FLAGS as TABLE
from timm_multimix.training.cli.parser import parse_args

FLAGS = {name: flag for name, flag in TABLE.items() if not flag.is_positional}
TEXTS = ['', 'x', 'None', 'a=b', '=', '/does/not/exist', '\0', 'é', '-', '0x10', '1e', 'nan', 'inf', '-inf']
NUMBERS = ['0', '1', '2', '3', '-1', '0.5', '1.5', '-0.5', '1e300', '1e-300', '99999999999999999999']
PARSED = [None, True, False, 0, 1, -1, 2.5, float('nan'), float('inf'), 10 ** 30, '', 'x', [], [1], [1, 'x'], [None],
          [[1]], {}, {'a': 1}, {1: {2: 3}}]
# flags that may use the network, import anything, write anywhere, or take minutes
NOT_RUN = {'config', 'pretrained', 'log_wandb', 'dataset', 'dataset_download', 'kd_model_name', 'device_modules',
           'torchcompile', 'local_rank', 'wandb_resume_id', 'output', 'experiment'}
MODES = [[], ['--mixup', '1'], ['--mixup-mode', 'multimix', '--multimix-tuples', '8'],
         ['--mixup-mode', 'dense-multimix', '--multimix-tuples', '8'], ['--mixup-mode', 'mixupe']]


def assert_parses_or_refuses(argv, capsys):
    try:
        parse_args(argv)
    except SystemExit as end:
        error = capsys.readouterr().err
        assert end.code == 2 and error.startswith('train_timm.py: error: ') and error.count('\n') == 1, error[-500:]
        return error[len('train_timm.py: error: '):]


@st.composite
def flag_and_values(draw):
    flag = FLAGS[draw(st.sampled_from(sorted(FLAGS)))]
    name = draw(st.sampled_from(flag.names))
    pool = [*TEXTS, *NUMBERS, *map(str, flag.choices or ())]
    return [name, *draw(st.lists(st.sampled_from(pool), max_size=3))]


fuzzed = settings(many, suppress_health_check=[HealthCheck.function_scoped_fixture])


@fuzzed
@given(st.lists(flag_and_values(), min_size=1, max_size=3))
def test_any_flags_parse_or_are_refused(capsys, given_flags):
    argv = ['--dataset', 'digits', *(text for flag in given_flags for text in flag)]
    assert_parses_or_refuses(argv, capsys)


@fuzzed
@given(st.dictionaries(st.sampled_from(sorted(FLAGS)), st.sampled_from(PARSED), min_size=1, max_size=2))
def test_any_yaml_values_parse_or_are_refused(capsys, tmp_path, values):
    path = tmp_path / 'config.yaml'
    path.write_text(yaml.safe_dump({'dataset': 'digits', **values}))
    assert_parses_or_refuses(['--config', str(path)], capsys)


@fuzzed
@given(st.binary(max_size=40) | st.text(max_size=40).map(lambda text: text.encode(errors='replace')))
def test_any_yaml_file_parses_or_is_refused(capsys, tmp_path, content):
    path = tmp_path / 'config.yaml'
    path.write_bytes(content)
    assert_parses_or_refuses(['--config', str(path), '--dataset', 'digits'], capsys)


def test_values_that_are_not_numbers_are_refused_by_name(capsys):
    numeric = [flag for flag in FLAGS.values() if flag.type in (int, float)]
    assert len(numeric) > 90
    for flag in numeric:
        count = flag.nargs if isinstance(flag.nargs, int) else 1
        for value in ('nan', 'inf', '99999999999999999999' if flag.type is int else 'x'):
            error = assert_parses_or_refuses(['--dataset', 'digits', flag.names[-1], *[value] * count], capsys)
            assert error and any(name in error for name in flag.names), flag


def random_flags(rng):
    """Choose one or two flags with values of their type, some of them out of range."""
    flags = []
    for dest in rng.sample(sorted(set(FLAGS) - NOT_RUN), rng.choice([1, 2])):
        flag = FLAGS[dest]
        flags.append(rng.choice(flag.names))
        if not flag.is_switch:
            count = flag.nargs if isinstance(flag.nargs, int) else rng.choice([1, 2]) if flag.nargs == '+' else 1
            numbers = ['0', '1', '2', '4', '7', '32', '0.5', '-1', '1e-300', '1e30']
            pool = list(flag.choices or (numbers if flag.type in (int, float) else TEXTS))
            flags += ['a=1'] if 'kwargs' in dest else [rng.choice(pool) for _ in range(count)]
    return flags


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(500))
def test_runs_with_any_flags(seed, flags, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    rng = random.Random(seed)
    more = [*rng.choice(MODES), *random_flags(rng)]
    try:
        code = train_timm.main([*flags, '--epochs', '1', *more])
    except SystemExit as end:
        code = end.code
    error = capsys.readouterr().err
    assert code in (0, 2) and 'Traceback' not in error, more
    if code == 2:
        assert error.splitlines()[-1].startswith('train_timm.py: error: '), more
