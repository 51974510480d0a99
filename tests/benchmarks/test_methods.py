"""A method of the benchmarks is one entry, a variant a change of its flags, a recipe a command line."""
import argparse
import importlib
import random
import re
import sys

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch.nn.functional import one_hot

import train_timm
from benchmarks.manifold_mixup import ManifoldMixup
from benchmarks.methods import METHODS, current_name, find
from benchmarks.recipes import RECIPES, per_process, shortened
from tests.support.models import Positions
from tests.support.training_runs import rows_of
from timm_multimix import PAPER, MultiMixLoss, functional
from timm_multimix.training.cli.multimix import multimix_kwargs
from timm_multimix.training.cli.parser import parse_args

VARIANTS = sorted({name for recipe in RECIPES.values() for name in recipe.methods if '@' in name})


def parsed(recipe, method):
    return parse_args(f'DIR {RECIPES[recipe].flags} {find(method).flags}'.split())[0]


@pytest.mark.parametrize('method', [*METHODS, *VARIANTS])
def test_every_method_is_a_valid_command_line(method):
    args, name = parsed('cifar10-preactresnet18', method), method.split('@')[0]
    assert find(method).ours == ('multimix' in method or method == 'strength')
    assert ('multimix' in args.mixup_mode) == (find(method).ours or name == 'last-layer-pairs')
    assert bool(args.mixup) == (name in ('strength', 'manifold') or 'mixup' in name)
    assert [entry.label for entry in METHODS.values()].count(find(name).label) == 1


def test_the_literal_methods_have_the_papers_setting():
    for mode in ('multimix', 'dense-multimix'):
        args = parsed('digits', f'{mode}-paper')
        assert multimix_kwargs(args).items() >= {**PAPER, 'mode': mode}.items() - {('length', None)}
        assert args.multimix_length is None and not args.mixup
        both = parsed('digits', f'{mode}-paper+mixup')
        assert (both.mixup, both.multimix_input_prob) == (1., None)  # half of the batches by default
    changed = parsed('digits', 'multimix-paper@length=2,tuples=64')
    assert (changed.multimix_length, changed.multimix_tuples, changed.multimix_clean_weight) == (2, 64, 0.)


@pytest.mark.parametrize('name, changes', [
    ('dense-multimix@tuples=64', ' --multimix-tuples 64'),
    ('multimix@alpha=0.5:2,gather', ' --multimix-alpha 0.5 2 --multimix-gather'),
    ('mixupe@eta=0.1,lr=3', ' --mixupe-eta 0.1 --lr 3'),
    ('dense-multimix@activation=softmax,smoothing=0.1', ' --multimix-activation softmax --smoothing 0.1'),
])
def test_a_variant_changes_flags(name, changes):
    base, variant = find(name.split('@')[0]), find(name)
    assert variant.flags == base.flags + changes
    assert (variant.color, variant.ours) == (base.color, base.ours) and variant.label.startswith(f'{base.label}, ')


@pytest.mark.parametrize('old, new', [
    ('auto-clean-1', 'auto@clean-weight=1'), ('mixup+dense-multimix-input-0.3', 'mixup+dense-multimix@input-prob=0.3'),
    ('dense-multimix-tuples-1000', 'dense-multimix@tuples=1000'), ('plain-lr-0.0003', 'plain@lr=0.0003'),
    ('manifold-mixup', 'last-layer-pairs'), ('mixup-elem', 'mixup@mixup-mode=elem'), ('mixup-half', 'mixup-half')])
def test_names_in_older_results_are_understood(old, new):
    assert current_name(old) == new and find(old).flags == find(new).flags


@pytest.mark.parametrize('name, said', [
    ('mixap', "must be one of plain, .*, got 'mixap'"), ('plain@no=3', "got 'no=3'"), ('plain@', "got ''"),
    ('plain@lr=1 --device cuda', 'METHOD@FLAG=VALUE'), ('plain@lr=../x', 'METHOD@FLAG=VALUE')])
def test_other_names_are_refused(name, said):
    with pytest.raises(ValueError, match=said):
        find(name)


def test_a_shorter_recipe_keeps_the_shares_of_its_schedule():
    recipe = RECIPES['cifar100-mixupe']
    assert shortened(recipe, 800) == recipe
    short = shortened(recipe, 80).flags
    assert '--epochs 80 ' in short and '--warmup-epochs 1 ' in short and '--decay-milestones 30 60 ' in short
    assert '--decay-epochs 37.5 ' in shortened(RECIPES['imagenet-resnet50'], 150).flags
    assert '--warmup-epochs 0 ' in shortened(recipe, 1).flags and '--val-interval 1 ' in shortened(recipe, 1).flags
    with pytest.raises(ValueError, match='--epochs must be >= 1, got 0'):
        shortened(recipe, 0)


def test_processes_share_the_batch():
    assert '--batch-size 128 ' in per_process(RECIPES['imagenet-resnet50'], 8).flags
    with pytest.raises(ValueError, match=r'--nproc must divide .* \(100\), got 3'):
        per_process(RECIPES['cifar100-mixupe'], 3)


@pytest.mark.parametrize('name, size', [
    ('cifar100-preactresnet18', 32), ('cifar100-mixupe', 32), ('tiny-imagenet-preactresnet18', 64), ('tiny20', 64)])
def test_padded_images_are_cropped_at_their_size(name, size):
    pad, args = RECIPES[name].pad, parsed(name, 'plain')
    image = Image.new('RGB', (size + 2 * pad, size + 2 * pad))
    crops = [RandomResizedCropAndInterpolation.get_params(image, args.scale, args.ratio) for _ in range(400)]
    assert {crop[2:] for crop in crops} == {(size, size)}
    assert [{crop[side] for crop in crops} for side in (0, 1)] == [set(range(2 * pad + 1))] * 2


@pytest.mark.slow
@pytest.mark.parametrize('name', RECIPES)
def test_two_steps_of_every_recipe(name, tmp_path):
    recipe = shortened(RECIPES[name], 1)
    method = find([*recipe.methods, 'dense-multimix'][-1])
    rng = torch.Generator().manual_seed(0)
    for split, size in (('train', 32 + 2 * recipe.pad), ('test', 32)):
        for index in range(8):
            path = tmp_path / 'data' / split / str(index) / '0.png'
            path.parent.mkdir(parents=True)
            Image.fromarray(torch.randint(256, (size, size, 3), dtype=torch.uint8, generator=rng).numpy()).save(path)
    flags = re.sub(r'--pretrained-path \S+', '', f'{recipe.flags} {method.flags}').replace('size 224', 'size 64')
    assert train_timm.main([
        '--data-dir', str(tmp_path / 'data'), '--val-split', 'test', *flags.split(), '--batch-size', '4',
        '--workers', '0', '--device', 'cpu', '--output', str(tmp_path), '--experiment', 'run']) == 0
    row, = rows_of(tmp_path / 'run')
    assert float(row['train_loss']) > 0. and 0. <= float(row['eval_top1']) <= 100.
    assert torch.load(tmp_path / 'run' / 'last.pth.tar', weights_only=False)['epoch'] == 0


class Stages(torch.nn.Sequential):
    """Three stages and a head."""
    feature_info = [dict(module=name) for name in ('stem.conv', 'stages.0', 'stages.1', 'stages.2')]
    num_classes = 6

    def __init__(self):
        super().__init__()
        self.stages = torch.nn.Sequential(*(torch.nn.Sequential(torch.nn.Linear(5, 5), torch.nn.ReLU()) for _ in '123'))
        self.head = torch.nn.Linear(5, 6)


def manifold(model, **changes):
    args = dict(model='NAME', mixup=1., mixup_prob=1., smoothing=0., cutmix=0., cutmix_minmax=None)
    return ManifoldMixup(model, argparse.Namespace(**{**args, **changes}))


@pytest.mark.parametrize('layer', [0, 1, 2])
@torch.no_grad()
def test_manifold_mixup_mixes_one_layer_by_one_permutation(layer, monkeypatch):
    model, target = Stages(), torch.tensor([3, 1, 5, 5])
    images = torch.randn(4, 5)
    mixup = manifold(model, smoothing=0.1, mixup=2.)
    monkeypatch.setattr(random, 'choice', lambda layers: layers[layer])

    def mix(batch):
        return lam * batch + (1. - lam) * batch[order]

    np.random.seed(1), torch.manual_seed(1)
    inputs, soft = mixup(images, target)
    output = model(inputs)
    np.random.seed(1), torch.manual_seed(1)
    lam, order = np.random.beta(2., 2.), torch.randperm(4)
    assert torch.allclose(soft, mix(0.9 * one_hot(target, 6) + 0.1 / 6))
    expected = images
    for index in range(4):
        expected = mix(expected) if index == layer else expected
        expected = (*model.stages, model.head)[index](expected)
    assert torch.allclose(output, expected)
    assert torch.equal(model(images), model.head(model.stages(images)))  # the next forward is not mixed


def test_manifold_mixup_draws_its_layers_and_can_be_off():
    model, images, target = Stages(), torch.randn(4, 5), torch.arange(4)
    drawn = set()
    mixup = manifold(model)
    for stage in model.stages:
        stage.register_forward_hook(lambda module, inputs, output: drawn.add(module) if len(module._forward_hooks) > 1
                                    else None)
    for _ in range(40):
        drawn.add('images' if not torch.equal(model_input := mixup(images, target)[0], images) else None)
        model(model_input)
    assert drawn == {'images', None, *model.stages[:2]}
    mixup.mixup_enabled = False
    for off in (mixup, manifold(model, mixup_prob=0.)):
        assert [torch.equal(*pair) for pair in zip(off(images, target), (images, one_hot(target, 6).float()))] == [1, 1]
    with pytest.raises(ValueError, match='needs a --model with stages'):
        manifold(Positions(3))
    with pytest.raises(ValueError, match='without --cutmix'):
        manifold(model, cutmix=1.)


@pytest.mark.parametrize('name', ['test_resnet', 'cifar_preactresnet18', 'test_convnext', 'test_vit'])
def test_manifold_mixup_finds_the_stages_of_timms_models(name):
    model = timm.create_model(name)
    names = {module: path for path, module in model.named_modules()}
    assert [names[layer] for layer in manifold(model).layers[1:]] in (
        ['layer1', 'layer2'], ['stages.0', 'stages.1'], ['blocks.0', 'blocks.1'])


def test_the_script_uses_it_where_its_flags_ask_for_it(image_folder, tmp_path):
    losses = []
    flags = (
        '--num-classes 3 --model test_resnet --epochs 1 --input-size 3 32 32 --warmup-epochs 0 --batch-size 8 '
        f'--workers 0 --device cpu --lr 0.01 --data-dir {image_folder} --output {tmp_path}')
    for name in ('manifold', 'mixup', 'mixup', 'manifold'):
        run = f'--experiment run{len(losses)}'
        assert train_timm.main(f'{flags} {find(name).flags} {run}'.split()) == 0
        losses.append(rows_of(tmp_path / f'run{len(losses)}')[0]['train_loss'])
    assert losses[0] == losses[3] != losses[1] == losses[2]


def test_shared_weights(monkeypatch):
    """Importing the module changes the process, here until the end of the test."""
    monkeypatch.setattr(functional, 'sample_dirichlet', functional.sample_dirichlet)
    monkeypatch.delitem(sys.modules, 'benchmarks.shared_weights', raising=False)
    importlib.import_module('benchmarks.shared_weights')
    for length in (None, 3):
        loss = MultiMixLoss(num_tuples=500, length=length, alpha=(0.5, 2.))
        first, second = (loss.sample_weights(torch.zeros(600, 3)) for _ in range(2))  # more than one block of tuples
        assert first.shape == (500, 600) and (first.sort().values == first[0].sort().values).all()
        assert (first[0] != first[1]).any() and not torch.equal(first[0].sort().values, second[0].sort().values)
        assert length is None or ((first > 0).sum(dim=1) == length).all()
        dense = loss.sample_weights(torch.zeros(8, 5, 3))
        assert dense.shape == (5, 500, 8) and (dense == dense[0]).all() and (dense[0, 0] != dense[0, 1]).any()
        logits = torch.randn(8, 5, 3, requires_grad=True)
        loss(logits, torch.arange(8) % 3, torch.rand(8, 5)).backward()
        assert logits.grad.abs().sum() > 0
    assert '--device-modules benchmarks.shared_weights' in find(
        'multimix@device-modules=benchmarks.shared_weights').flags
