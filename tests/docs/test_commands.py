"""The shell commands of README.md, on small images and a small model; those of pip and make are not run.

All commands and flags of the pages, the examples and the help are parsed.
"""
import json
import re
import shlex
import sys

import pytest

from tests.docs.pages import PAGES, ROOT, blocks, prose_with_spans, run, text
from timm_multimix import __main__ as launcher
from timm_multimix.settings import MODES
from timm_multimix.training.cli.parser import check, create_parser

SMALL = '--num-classes 3 --input-size 3 32 32 --batch-size 8 --epochs 1'.split()
OURS = '--warmup-epochs 0 --workers 0 --device cpu --experiment run'.split()
COMMANDS = [
    line for block in blocks('README.md', '') for line in re.sub(r'\\\n *', '', block).splitlines() if line.strip()]
SCRIPTS = [command for command in COMMANDS if command.startswith(('python ', 'torchrun '))]

DOCUMENTED = [page for page in PAGES if page.startswith(('README', 'docs/'))]
TEXTS = {
    **{page: '\n'.join(blocks(page, '')) for page in DOCUMENTED},
    **{f'examples/{path.name}': path.read_text() for path in (ROOT / 'examples').glob('*.*')},
    'train_timm.py --help': create_parser().description,
    'python -m timm_multimix --help': launcher.__doc__,
}
COMMAND = re.compile(r'^.*(?:(?:python|torchrun)\b.* train_timm\.py|-m timm_multimix \S+) (--.*)$', re.MULTILINE)


def copied_flags():
    """Return the flags of everything that a reader may copy, with the place where they stand."""
    found = [
        (page, flags)
        for page in DOCUMENTED for flags in re.findall('`(--mixup-mode [^`]*)`', prose_with_spans(page))]
    for place, content in TEXTS.items():
        found += [(place, flags) for flags in COMMAND.findall(re.sub(r'\\\n *', '', content))]
    found = [(place, re.sub(r'"\$\(.*\)"', '10', flags)) for place, flags in found]  # a shell command
    return [(place, [word for word in shlex.split(flags) if word not in ('...', '$@')]) for place, flags in found]


def run_documented(command, image_folder, tmp_path, *more):
    small = {'IMAGES': str(image_folder), 'IMAGENET': str(image_folder), 'resnet50': 'test_resnet'}
    small['PATH/train.py'] = str(ROOT / 'tests/support/stock_train.py')
    words = [small.get(word, word) for word in shlex.split(command)]
    if words[0] == 'torchrun':
        words[0:2] = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
    else:
        words[0] = sys.executable
    run([*(ROOT / word if word == 'train_timm.py' else word for word in words), *SMALL, *more], tmp_path)


def test_every_command_is_known():
    others = [re.sub(r'\s+#.*', '', command) for command in COMMANDS if command not in SCRIPTS]
    installs = [other for other in others if other.startswith('pip install ')]
    assert sorted(others) == sorted(['make demo', 'make test', *installs])
    assert len(installs) == 2
    assert re.search('^demo:', (ROOT / 'Makefile').read_text(), re.MULTILINE)
    assert len(SCRIPTS) == 3


@pytest.mark.slow
@pytest.mark.parametrize('command', [command for command in SCRIPTS if 'timm_multimix' not in command])
def test_the_training_commands_run(command, image_folder, tmp_path):
    run_documented(command, image_folder, tmp_path, *OURS, '--output', str(tmp_path))
    assert (tmp_path / 'run' / 'model_best.pth.tar').exists()


@pytest.mark.slow
def test_the_launcher_command_runs(image_folder, tmp_path):
    command, = (command for command in SCRIPTS if 'timm_multimix' in command)
    run_documented(command, image_folder, tmp_path, '--record', str(tmp_path / 'record.json'))
    assert json.loads((tmp_path / 'record.json').read_text())['task'] == 'PluggedTask'


@pytest.mark.parametrize('place, flags', copied_flags())
def test_commands_have_no_label_smoothing_where_embeddings_are_mixed(place, flags, caplog):
    """Except those whose strength leaves batches unmixed."""
    args = create_parser().parse_args(flags)
    check(args)
    assert not caplog.records
    if args.mixup_mode in MODES and args.multimix_strength != 'auto':
        assert args.smoothing == 0.


def test_commands_are_found():
    places = [place for place, _ in copied_flags()]
    assert places.count('README.md') >= len(SCRIPTS)
    assert places.count('examples/finetune.sh') == 1
    assert {'docs/training.md', 'train_timm.py --help', 'python -m timm_multimix --help'} <= set(places)


@pytest.mark.parametrize('page', DOCUMENTED)
def test_flags_that_a_page_names_exist(page):
    known = {option for action in create_parser()._actions for option in action.option_strings}
    known |= {'--signal', '--no-use-ema'}  # flags of SLURM and of timm_multimix.export
    named = set(re.findall(r'`(--[a-z][a-z0-9_-]*[a-z0-9])[` ]', text(page)))
    assert named <= known, sorted(named - known)
