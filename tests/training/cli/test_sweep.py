"""Every flag of the table: given twice, alone, without a value, and with a value of another form."""
import pytest

from tests.training.cli.support import refusal
from timm_multimix.training.cli.flags import FLAGS

each_flag = pytest.mark.parametrize('flag', [f for f in FLAGS.values() if not f.is_positional], ids=lambda f: f.dest)


def of_its_form(flag, index=0):
    """Return a value that the flag's type accepts, as arguments."""
    if flag.is_switch:
        return []
    count = flag.nargs if isinstance(flag.nargs, int) else 1
    if flag.takes_names:
        return [f'a={index}']
    return [str(flag.choices[-index]) if flag.choices else str(index + 1)] * count


@pytest.mark.parametrize('flag', ids=lambda f: f.dest, argvalues=[
    flag for flag in FLAGS.values()
    if any(FLAGS[condition.names[0]].default not in condition.values for condition in flag.needs)])
def test_a_flag_without_what_it_needs_is_refused(flag, capsys):
    line = refusal(capsys, ['--dataset', 'digits', flag.name, *of_its_form(flag, index=1)])
    assert flag.name in line and (' needs ' in line or ' must ' in line)


@each_flag
def test_a_value_of_another_form_is_refused(flag, capsys):
    values = {
        'a number': (['x'], flag.type in (int, float) or flag.dest == 'multimix_strength'),
        'a choice': (['x'], flag.choices),
        'key=value': (['x'], flag.takes_names),
        'nothing': ([], not flag.is_switch and flag.nargs not in ('?', '*')),
        'a value after a switch': (['x', 'y'], flag.is_switch),  # a single one would be the folder
        'two values': (['1', '2', 'x', 'y'], flag.nargs is None and not flag.is_switch and flag.dest != 'config'),
    }
    for wrong, is_wrong in values.values():
        if is_wrong:
            assert '--help lists the flags' in refusal(capsys, [flag.name, *wrong])
