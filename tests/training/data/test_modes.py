"""Images of every mode are read or refused with their path; so is every augmentation of them."""
import numpy as np
import PIL
import pytest
from PIL import Image
from timm.data import create_dataset

import train_timm
from tests.support.training_runs import loaders_of
from timm_multimix.training.cli.parser import parse_args
from timm_multimix.training.data.images import BadSample, CheckedImages

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
COLOUR = np.stack([RAMP, RAMP.T, RAMP[::-1]], axis=-1)
ALPHA = RAMP[:, ::-1]
CMYK = np.concatenate([COLOUR, np.zeros_like(ALPHA[..., None])], axis=-1)
FRAMES = [Image.fromarray(COLOUR), Image.fromarray(255 - COLOUR)]


def rgb(mode='RGB'):
    return Image.fromarray(COLOUR).convert(mode)


def with_alpha(image):
    image.putalpha(Image.fromarray(ALPHA))
    return image


EXIF = Image.Exif()
EXIF[0x0112] = 6  # orientation: rotated by 90 degrees
# file name, how it is saved, and the 8-bit RGB it stands for (None: as Pillow converts the saved file to RGB)
READ = {
    '1': ('x.png', lambda path: rgb('1').save(path), None),
    'L': ('x.png', lambda path: Image.fromarray(RAMP).save(path), RAMP),
    'LA': ('x.png', lambda path: with_alpha(Image.fromarray(RAMP)).save(path), RAMP),
    'P': ('x.png', lambda path: rgb('P').save(path), None),
    'P transparency': ('x.png', lambda path: rgb('P').save(path, transparency=3), None),
    'P bytes': ('x.png', lambda path: rgb('P').save(path, transparency=bytes(range(256))), None),
    'PA': ('x.tif', lambda path: rgb('PA').save(path), None),
    'RGB': ('x.png', lambda path: rgb().save(path), COLOUR),
    'RGBA': ('x.png', lambda path: with_alpha(rgb()).save(path), COLOUR),
    'CMYK': ('x.tif', lambda path: Image.fromarray(CMYK, 'CMYK').save(path), 255 - COLOUR),
    'YCbCr': ('x.tif', lambda path: rgb('YCbCr').save(path), None),
    'I;16': ('x.png', lambda path: Image.fromarray(RAMP.astype(np.uint16) * 257).save(path), RAMP),
    'I;16 tiff': ('x.tif', lambda path: Image.fromarray(RAMP.astype(np.uint16) * 257).save(path), RAMP),
    'I;16B': ('x.tif', lambda path: Image.fromarray(RAMP.astype('>u2') * 257).save(path), RAMP),
    'I of 16 bits': ('x.pgm', lambda path: Image.fromarray(RAMP.astype(np.int32) * 257).save(path), RAMP),
    'I of 8 bits': ('x.tif', lambda path: Image.fromarray(RAMP.astype(np.int32)).save(path), RAMP),
    'F of 8 bits': ('x.tif', lambda path: Image.fromarray(RAMP.astype(np.float32) + 0.25 * (RAMP < 255)).save(path),
                    RAMP),
    'GIF': ('x.gif', lambda path: FRAMES[0].save(path, save_all=True, append_images=FRAMES[1:]), None),
    'WebP': ('x.webp', lambda path: FRAMES[0].save(path, save_all=True, append_images=FRAMES[1:], lossless=True),
             COLOUR),
    'EXIF': ('x.png', lambda path: rgb().save(path, exif=EXIF), COLOUR),
}
REFUSED = {
    'I': ('x.tif', RAMP.astype(np.int32) * 257, 'from 0 to 65535'),
    'I negative': ('x.tif', RAMP.astype(np.int32) - 1000, 'from -1000 to -745'),
    'F': ('x.tif', RAMP.astype(np.float32) * 1000., 'from 0 to 255000'),
    'F of 0 to 1': ('x.tif', RAMP.astype(np.float32) / 255., 'from 0 to 1,'),
    'F NaN': ('x.tif', np.full((16, 16), np.nan, dtype=np.float32), 'from nan to nan'),
}
MODES = {1: ['L'], 3: ['RGB', 'YCbCr'], 4: ['RGBA', 'CMYK']}


def read(path, mode):
    """Read the only image of a folder, as training does."""
    dataset = CheckedImages(create_dataset('', root=str(path.parents[1]), input_img_mode=mode, input_key=path.suffix))
    image, target = dataset[0]
    assert image.mode == mode and target == 0
    return image


@pytest.mark.parametrize('channels', MODES)
@pytest.mark.parametrize('kind', READ)
def test_images_of_every_mode_are_read_correctly(kind, channels, tmp_path):
    name, save, meant = READ[kind]
    path = tmp_path / 'cat' / name
    path.parent.mkdir()
    save(path)
    try:
        expected = Image.open(path).copy() if meant is None else Image.fromarray(meant)
    except OSError as error:
        if kind != 'YCbCr':
            raise
        pytest.skip(f'Pillow {PIL.__version__} does not read the YCbCr that it wrote: {error}')
    for mode in MODES[channels]:
        image = read(path, mode)
        pixels = np.asarray(image.convert('RGB'), dtype=int)
        assert pixels.std() > 20  # neither black nor white
        difference = pixels - np.asarray(expected.convert('RGB').convert(mode).convert('RGB'), dtype=int)
        assert np.abs(difference).max() <= (4 if 'YCbCr' in (kind, mode) else 0)  # YCbCr rounds


@pytest.mark.parametrize('mode', ['L', 'RGB', 'RGBA'])
@pytest.mark.parametrize('kind', REFUSED)
def test_pixels_of_no_known_range_are_refused(kind, mode, tmp_path):
    name, pixels, message = REFUSED[kind]
    path = tmp_path / 'cat' / name
    path.parent.mkdir()
    Image.fromarray(pixels).save(path)
    with pytest.raises(BadSample) as error:
        read(path, mode)
    assert str(error.value).startswith(f'{path} cannot be read: its 32-bit pixels') and message in str(error.value)


def test_a_mode_that_pillow_does_not_convert_is_refused(tmp_path):
    path = tmp_path / 'cat' / 'x.tif'
    path.parent.mkdir()
    Image.fromarray(COLOUR, 'LAB').save(path)
    with pytest.raises(BadSample, match=r'x.tif cannot be read: conversion from LAB to \w+ not supported'):
        read(path, 'L')


def test_alpha_is_kept_where_it_is_a_channel(tmp_path):
    (tmp_path / 'cat').mkdir()
    with_alpha(rgb()).save(tmp_path / 'cat' / 'x.png')
    assert np.array_equal(np.asarray(read(tmp_path / 'cat' / 'x.png', 'RGBA'))[..., 3], ALPHA)


@pytest.mark.parametrize('mode, more', [
    ('L', []), ('L', ['--img-size', '32', '--aa', 'rand-m9-mstd0.5-inc1']),
    ('RGBA', ['--no-prefetcher', '--mean', '0.5', '--std', '0.5']), ('RGBA', ['--img-size', '32'])])
def test_runs_on_any_number_of_channels(mode, more, flags):
    del flags[flags.index('--input-size'):flags.index('--input-size') + 4]
    more = [*more, '--input-img-mode', mode, '--in-chans', str(len(mode)), '--epochs', '1']
    assert train_timm.main([*flags, *more]) == 0


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
    (loader, _), *_ = loaders_of(argv)
    assert next(iter(loader))[0].shape == (8, channels, 32, 32)
