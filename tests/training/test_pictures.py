"""--save-images in the MultiMix modes: pictures of what is mixed."""
import sys

import pytest

import train_timm
from tests.support.training_runs import MODES
from tests.support.training_states import assert_identical, read


@pytest.mark.parametrize('name, picture', [('plain', 'train-batch-0.jpg'), ('distilled', 'mixed-batch-0.png')])
def test_pictures_are_saved_and_change_nothing(name, picture, flags, tmp_path):
    flags = [*flags, *MODES[name], '--epochs', '1']
    assert train_timm.main([*flags, '--experiment', 'a']) == 0
    assert train_timm.main([*flags, '--save-images', '--experiment', 'b']) == 0
    assert (tmp_path / 'b' / picture).stat().st_size > 0
    a, b = (dict(read(tmp_path / run / 'last.pth.tar')['state_dict']) for run in 'ab')
    assert_identical(a, b)


def test_without_matplotlib_nothing_starts(flags, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    assert train_timm.main([*flags, *MODES['dense'], '--save-images']) == 2
    message = 'error: --save-images needs matplotlib in a MultiMix mode: '
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / 'run').exists()
