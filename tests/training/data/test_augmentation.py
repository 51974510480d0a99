"""Augmentation of images of every mode works, or is refused before the run starts."""
import pytest
from PIL import Image

from timm_multimix.training.cli.parser import parse_args
from timm_multimix.training.data.loaders import create_loaders
from timm_multimix.training.runtime import create_runtime

AUGMENTATIONS = {
    'aa': [['--aa', name] for name in (
        'rand-m9-mstd0.5-inc1', 'original', 'originalr', 'v0', 'v0r', '3a', 'augmix-m5-w4-d2')],
    'grayscale-prob': [['--grayscale-prob', '1']],
    'others': [['--color-jitter-prob', '1'], ['--gaussian-blur-prob', '1'], ['--train-crop-mode', 'rkrc'],
               ['--train-crop-mode', 'rkrr'], ['--hflip', '1', '--vflip', '1']],
}
ALL = [(kind, more) for kind, group in AUGMENTATIONS.items() for more in group]
UNFIT = {'LA': ('aa', 'grayscale-prob'), 'RGBA': ('aa', 'grayscale-prob'), 'CMYK': ('aa', 'grayscale-prob'),
         'YCbCr': ('aa',), 'HSV': ('aa',), 'L': (), 'RGB': ()}


@pytest.mark.parametrize('kind, more', ALL, ids=[' '.join(more) for _, more in ALL])
@pytest.mark.parametrize('mode', UNFIT)
def test_every_augmentation_of_every_mode_works_or_is_refused_at_start(mode, kind, more, image_folder, capsys):
    channels = len(Image.new(mode, (1, 1)).getbands())
    argv = ['--data-dir', str(image_folder), '--input-img-mode', mode, '--in-chans', str(channels), *more,
            '--num-classes', '3', '--img-size', '32', '--batch-size', '8', '--workers', '0', '--device', 'cpu']
    if kind in UNFIT[mode]:
        with pytest.raises(SystemExit):
            parse_args(argv)
        assert f'error: --{kind} does not go with --input-img-mode {mode}: ' in capsys.readouterr().err
        return
    args, _ = parse_args(argv)
    config = dict(input_size=(channels, 32, 32), mean=(0.5,) * channels, std=(0.5,) * channels, interpolation='bicubic',
                  crop_pct=1., num_classes=3)
    loader, _ = create_loaders(args, config, create_runtime(args))
    assert all(images.shape == (8, channels, 32, 32) for images, _ in loader)
