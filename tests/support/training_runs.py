"""Training flags for every way to mix, and helpers that read a run's summary and measure a model's accuracy."""
import csv

import timm
import torch
from timm.data import create_dataset, create_loader

from timm_multimix.training.cli.parser import parse_args
from timm_multimix.training.data.loaders import create_loaders
from timm_multimix.training.runtime import create_runtime

MODES = {
    'plain': [],
    'mixup': ['--mixup', '1'],
    'cutmix': ['--cutmix', '1', '--mixup-mode', 'elem'],
    'multimix': ['--mixup-mode', 'multimix', '--multimix-tuples', '16'],
    'dense': ['--mixup-mode', 'dense-multimix', '--multimix-tuples', '16'],
    'dense and cutmix': ['--mixup-mode', 'dense-multimix', '--multimix-tuples', '16', '--cutmix', '1'],
    'distilled': ['--mixup-mode', 'dense-multimix', '--multimix-tuples', '16', '--multimix-teacher-decay', '0.9'],
    'one view': [
        '--mixup-mode', 'multimix', '--multimix-tuples', '16', '--multimix-teacher-decay', '0.9',
        '--multimix-single-view', '--multimix-teacher-warmup'],
    'mixupe': ['--mixup-mode', 'mixupe'],
    'exact mixupe': ['--mixup-mode', 'mixupe', '--mixupe-exact'],
    'bce': ['--mixup-mode', 'multimix', '--multimix-tuples', '16', '--bce-loss'],
}


def rows_of(folder):
    with open(folder / 'summary.csv', newline='') as file:
        return list(csv.DictReader(file))


def loaders_of(argv, **runtime):
    """Return the loaders of a command line, for images of 32 x 32 pixels, its arguments and the data config."""
    args, _ = parse_args(argv)
    channels = args.in_chans or 3
    config = dict(
        input_size=(channels, 32, 32), mean=(0.5,) * channels, std=(0.5,) * channels, interpolation='bicubic',
        crop_pct=1., num_classes=args.num_classes)
    return create_loaders(args, config, create_runtime(args)._replace(**runtime)), args, config


def accuracy(model, image_folder):
    config = timm.data.resolve_model_data_config(model)
    loader = create_loader(
        create_dataset('', root=str(image_folder), split='validation'),
        input_size=(3, 32, 32), batch_size=8, use_prefetcher=False, num_workers=0, device=torch.device('cpu'),
        interpolation=config['interpolation'], mean=config['mean'], std=config['std'], crop_pct=config['crop_pct'])
    model.eval()
    with torch.no_grad():
        correct = sum((model(images).argmax(1) == target).sum().item() for images, target in loader)
    return 100. * correct / len(loader.dataset)
