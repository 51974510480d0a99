"""Our flags become arguments of the tasks."""
import pytest
import yaml

from tests.training.cli.support import parse
from timm_multimix.settings import PAPER
from timm_multimix.training.cli.multimix import mixupe_kwargs, multimix_kwargs
from timm_multimix.training.cli.parser import parse_args

MULTIMIX = ('--mixup-mode', 'multimix')
UNSET = dict(mode='multimix', multi_label=False, mixup_alpha=0., cutmix_alpha=0., prob=1., switch_prob=0.5)


def test_multimix_flags_become_arguments():
    assert multimix_kwargs(parse(*MULTIMIX)) == UNSET
    args = parse(*MULTIMIX, '--mixup', '0.7', '--cutmix-minmax', '0.2', '0.5', '--multimix-strength', 'auto')
    assert multimix_kwargs(args) == dict(UNSET, mixup_alpha=0.7, cutmix_minmax=[0.2, 0.5], strength='auto')
    args = parse('--mixup-mode', 'dense-multimix', '--multimix-alpha', '0.5', '2', '--multimix-tuples', '7',
                 '--multimix-attention', 'cam', '--multimix-clean-weight', '0', '--mixup-prob', '0.9')
    assert multimix_kwargs(args) == dict(
        UNSET, mode='dense-multimix', alpha=(0.5, 2.), num_tuples=7, attention='cam', clean_weight=0., prob=0.9)
    args = parse(*MULTIMIX, '--multimix-teacher-decay', '0.99', '--multimix-teacher-warmup', '--multimix-gamma', '0',
                 '--multimix-single-view')
    assert multimix_kwargs(args) == dict(UNSET, teacher_decay=0.99, teacher_warmup=True, gamma=0., single_view=True)
    paper = multimix_kwargs(parse(*MULTIMIX, '--multimix-paper', '--multimix-tuples', '5'))
    assert paper == dict(UNSET, **dict(PAPER, num_tuples=5))
    assert multimix_kwargs(parse(*MULTIMIX, '--multimix-alpha', '0.7'))['alpha'] == 0.7
    assert multimix_kwargs(parse(*MULTIMIX, '--task', 'multilabel'))['multi_label'] is True


@pytest.mark.parametrize('flags, smoothing', [
    ('', 0.1),
    ('--mixup 1', 0.1),
    ('--mixup-mode mixupe', 0.1),
    ('--mixup-mode multimix', 0.),
    ('--mixup-mode dense-multimix --mixup 1 --multimix-strength 0.5', 0.),
    ('--mixup-mode dense-multimix --multimix-strength auto', 0.1),
    ('--mixup-mode dense-multimix --multimix-strength auto --multimix-paper', 0.),
])
def test_label_smoothing_is_off_by_default_where_embeddings_are_mixed(flags, smoothing, caplog):
    """A value that is given is taken; beside MultiMix there is a warning."""
    flags = flags.split()
    args, text = parse_args(['--dataset', 'digits', *flags])
    assert args.smoothing == yaml.safe_load(text)['smoothing'] == smoothing
    assert not caplog.records
    assert parse(*flags, '--smoothing', '0.2').smoothing == 0.2
    assert ('--smoothing 0.2 with' in caplog.text) == (smoothing == 0.)


def test_mixupe_flags_become_arguments():
    assert mixupe_kwargs(parse('--mixup-mode', 'mixupe')) == {}
    args = parse('--mixup-mode', 'mixupe', '--mixup', '0.4', '--mixupe-eta', '0', '--mixupe-threshold', '-1',
                 '--mixupe-exact')
    assert mixupe_kwargs(args) == dict(mixup_alpha=0.4, eta=0., threshold=-1., exact=True)
    assert mixupe_kwargs(parse('--mixup-mode', 'mixupe', '--mixupe-residual-grad')) == dict(residual_grad=True)
