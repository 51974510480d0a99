"""Our flags agree with upstream's, according to a list taken from timm's own script (August 2026)."""
import json
import os

from timm_multimix.training.cli.parser import create_parser

with open(os.path.join(os.path.dirname(__file__), 'upstream_flags.json'), encoding='utf-8') as file:
    UPSTREAM = json.load(file)
NEWER = ('--stop-epoch', '--save-epochs', '--loss', '--task', '--target-format')  # of timm 1.0.31


def test_flags_agree_with_upstreams():
    actions = {name: action for action in create_parser()._actions for name in action.option_strings}
    for flag in UPSTREAM:
        for name in flag['flags']:
            action = actions[name]
            assert action.dest == flag['dest'], name
            if name != '--smoothing':  # depends on the mode
                assert action.default == flag['default'], name
            assert getattr(action.type, '__name__', action.type) == flag['type'], name
            assert action.nargs == flag['nargs'], name
            if flag['choices'] is not None:  # upstream takes any name in some places
                assert list(action.choices) == flag['choices'], name


def test_every_other_flag_is_ours_or_newer():
    upstream = {name for flag in UPSTREAM for name in flag['flags']}
    ours = {name for action in create_parser()._actions for name in action.option_strings} - upstream
    others = {name for name in ours if not name.startswith(('--multimix-', '--mixupe-'))}
    assert others == {'-h', '--help', '--log-tensorboard', '--max-bad-steps', *NEWER}


def test_the_dataset_can_be_given_without_a_flag():
    assert create_parser().parse_args(['folder']).data == 'folder'
    assert create_parser().parse_args([]).data is None
