"""An older timm: the tasks and scripts are refused, the rest works."""
import importlib
import sys

import pytest
import timm

import timm_multimix


@pytest.mark.parametrize('package', ['timm_multimix.tasks', 'timm_multimix.training'])
def test_tasks_and_scripts_say_which_timm_they_need(package, monkeypatch):
    monkeypatch.setattr(timm, '__version__', '1.0.30')
    for name in [name for name in sys.modules if name.startswith(('timm_multimix.tasks', package))]:
        monkeypatch.delitem(sys.modules, name)
    for name in ('tasks', 'training'):
        monkeypatch.delattr(timm_multimix, name, raising=False)
    with pytest.raises(ImportError, match='need timm 1.0.31 or newer, got timm 1.0.30; MultiMixLoss'):
        importlib.import_module(package)


def test_the_package_lists_its_tasks_and_refuses_other_names():
    assert {*timm_multimix.__all__} <= {*dir(timm_multimix)}
    assert timm_multimix.MultiMixTask.__module__ == 'timm_multimix.tasks.multimix'
    with pytest.raises(AttributeError, match="module 'timm_multimix' has no attribute 'MultiMixer'"):
        timm_multimix.MultiMixer  # noqa: B018
