"""Parse a command line in tests, or read the one line that refuses it."""
import pytest

from timm_multimix.training.cli.parser import parse_args


def parse(*flags):
    return parse_args(['--dataset', 'digits', *flags])[0]


def refusal(capsys, argv):
    """Return the message that refuses a command line, in one line and with exit code 2."""
    with pytest.raises(SystemExit) as exit_info:
        parse_args(argv)
    error = capsys.readouterr().err
    assert exit_info.value.code == 2, argv
    assert error.startswith('train_timm.py: error: ') and error.count('\n') == 1, error
    return error[len('train_timm.py: error: '):-1]


def assert_refused(capsys, rows):
    """Check that the flags of each row are refused with a message that contains the row's text."""
    for flags, message in rows:
        assert message in refusal(capsys, ['--dataset', 'digits', *flags]), flags
