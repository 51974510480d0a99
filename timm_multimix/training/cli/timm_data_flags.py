"""The flags of timm's script for images: their sources, sizes and augmentation."""
from functools import partial

from .flag import ABOVE_0, FROM_0, FROM_1, LOW_AND_HIGH, SHARE, Allowed, Given, Group, each_number, flag, one_of, switch
from .multimix import OUR_MODES

_LOSS_SCALES = ('none', 'sqrt', 'linear')
_INTERPOLATIONS = ('nearest', 'bilinear', 'bicubic', 'lanczos', 'box', 'hamming')
SEVERAL_VIEWS = Given('mixup_mode', values=OUR_MODES, why='its batches hold several views of each image')
_MIXUPE = Given('mixup_mode', values=('mixupe',), why='which has no CutMix')
_NO_CUTMIX = Given('mixup_mode', values=('mixupe',), why='it has no CutMix')
_MODES = ('L', 'LA', 'RGB', 'RGBA', 'CMYK', 'YCbCr', 'LAB', 'HSV')
_UNAUGMENTED = tuple(mode for mode in _MODES if mode not in ('L', 'RGB'))
_PROBABILITIES = Allowed(
    'be >= 0 and not all 0', lambda values: min(values) >= 0. and 0. < sum(values) < float('inf'))

DATASET: Group = ('Dataset parameters', (
    flag('data', nargs='?', metavar='DIR', help='dataset root (or --data-dir)'),
    flag('--data-dir', metavar='DIR', help='dataset root'),
    flag('--dataset', metavar='NAME', default='', help="type and name, such as hfds/NAME; 'digits' needs no folder"),
    flag('--train-split', metavar='NAME', default='train', help='split to train on'),
    flag('--val-split', metavar='NAME', default='validation', help='split to validate on',
         allowed=Allowed('name a split to validate on', bool)),
    flag('--train-num-samples', type=int, metavar='N', allowed=FROM_1,
         help='samples in the train split, for iterable datasets'),
    flag('--val-num-samples', type=int, metavar='N', allowed=FROM_1,
         help='samples in the validation split, for iterable datasets'),
    switch('--dataset-download', help='let torch/ and tfds/ datasets download'),
    flag('--class-map', type=str, default='', metavar='FILE', help='file that maps classes to indices'),
    flag('--input-img-mode', type=str, metavar='MODE', help="mode of the images: 'RGB', 'L', ...",
         allowed=one_of(*_MODES)),
    flag('--input-key', type=str, metavar='KEY', help='dataset key of the images'),
    flag('--target-key', type=str, metavar='KEY', help='dataset key of the labels'),
    flag('--target-format', type=str, default='index', choices=('index', 'multihot'),
         needs=(Given('task', values=('multilabel',)),),
         help='labels of --task multilabel: lists of class indices, or vectors of 0 and 1'),
    switch('--dataset-trust-remote-code', help='let hfds/ datasets run code from the hub'),
))

LOADER: Group = ('Loader parameters', (
    flag('-b', '--batch-size', type=int, default=128, metavar='N', allowed=FROM_1, help='batch size, per process'),
    flag('-vb', '--validation-batch-size', type=int, metavar='N', allowed=FROM_1, help='validation batch size'),
    flag('-j', '--workers', type=int, default=4, metavar='N', allowed=FROM_0, help='loader processes'),
    flag('--worker-seeding', type=str, default='all', allowed=one_of('all', 'part'),
         help="all: augmentation depends on seed, epoch and image, not on --workers; part: timm's, by worker"),
    switch('--save-images', help='save the images of logged batches in the output folder, and in the MultiMix modes '
                                 'pictures of what is mixed (needs matplotlib)'),
    switch('--pin-mem', help='pin memory in the loader'),
    switch('--no-prefetcher', help="do not use timm's prefetcher"),
    switch('--use-multi-epochs-loader', help='keep the workers of the loader between epochs'),
))

IMAGES: Group = ('Image parameters', (
    flag('--img-size', type=int, metavar='N', allowed=FROM_1, help="image size (default: the model's)"),
    flag('--in-chans', type=int, metavar='N', allowed=FROM_1, help='input channels'),
    flag('--input-size', nargs=3, type=int, metavar='N', allowed=FROM_1,
         help='input size as channels height width'),
    flag('--crop-pct', type=float, metavar='N', allowed=ABOVE_0, help='share of the image kept in validation'),
    flag('--mean', type=float, nargs='+', metavar='MEAN', help='pixel mean'),
    flag('--std', type=float, nargs='+', metavar='STD', help='pixel standard deviation'),
    flag('--interpolation', type=str, default='', metavar='NAME', allowed=one_of('', *_INTERPOLATIONS),
         help='resize interpolation'),
))

_augment = partial(flag, unused_with=Given('no_aug'))
AUGMENTATION: Group = ('Augmentation parameters', (
    switch('--no-aug', help='no augmentation'),
    _augment('--train-crop-mode', type=str, allowed=one_of('rrc', 'rkrc', 'rkrr'), help='train crop: rrc, rkrc, rkrr'),
    _augment('--scale', type=float, nargs='+', default=[0.08, 1.0], metavar='PCT', allowed=LOW_AND_HIGH,
             help='area of the random crop'),
    _augment('--ratio', type=float, nargs='+', default=[3. / 4., 4. / 3.], metavar='RATIO', allowed=LOW_AND_HIGH,
             help='aspect ratio of the random crop'),
    _augment('--hflip', type=float, default=0.5, allowed=SHARE, help='probability of a horizontal flip'),
    _augment('--vflip', type=float, default=0., allowed=SHARE, help='probability of a vertical flip'),
    _augment('--color-jitter', type=float, default=0.4, metavar='PCT', allowed=FROM_0, help='color jitter'),
    _augment('--color-jitter-prob', type=float, metavar='PCT', allowed=SHARE, help='probability of color jitter'),
    _augment('--grayscale-prob', type=float, metavar='PCT', allowed=SHARE, help='probability of grayscale',
             excludes=(Given('input_img_mode', values=('LA', 'RGBA', 'CMYK'), why='it gives 1 or 3 channels'),)),
    _augment('--gaussian-blur-prob', type=float, metavar='PCT', allowed=SHARE, help='probability of blur'),
    _augment('--aa', type=str, metavar='NAME', help='AutoAugment policy',
             excludes=(Given('input_img_mode', values=_UNAUGMENTED, why='it accepts only modes L and RGB'),)),
    flag('--train-interpolation', type=str, default='random', allowed=one_of('', 'random', *_INTERPOLATIONS),
         help='resize interpolation in training'),
    flag('--aug-repeats', type=float, default=0, allowed=FROM_0, help='repeated augmentation, distributed only'),
    flag('--aug-splits', type=int, default=0, metavar='N', help='views of each image, 0 or > 1',
         allowed=each_number('be 0 or at least 2', lambda x: x == 0 or x >= 2),
         excludes=(
             SEVERAL_VIEWS,
             Given('mixup', 'cutmix', 'cutmix_minmax', why='views of one image would be mixed'),
             Given('no_prefetcher', why='it does not join the views'))),
    _augment('--reprob', type=float, default=0., metavar='PCT', allowed=SHARE, help='probability of random erasing'),
    flag('--remode', type=str, default='pixel', allowed=one_of('const', 'pixel', 'rand'), used_with=Given('reprob'),
         help='mode of random erasing'),
    flag('--recount', type=int, default=1, allowed=FROM_1, used_with=Given('reprob'), help='boxes of random erasing'),
    switch('--resplit', used_with=Given('reprob'), help='no random erasing in the first of --aug-splits'),
    flag('--mixup', type=float, default=0.0, allowed=FROM_0, help='mixup alpha; active if > 0 (with mixupe 0 means 1)'),
    flag('--cutmix', type=float, default=0.0, allowed=FROM_0, excludes=(_NO_CUTMIX,),
         help='cutmix alpha; active if > 0'),
    flag('--cutmix-minmax', type=float, nargs='+', excludes=(_NO_CUTMIX,),
         help='smallest and largest side of the cutmix box, as shares of the image',
         allowed=Allowed('be two numbers, 0 <= min < max <= 1',
                         lambda pair: len(pair) == 2 and 0. <= pair[0] < pair[1] <= 1.)),
    flag('--mixup-prob', type=float, default=1.0, allowed=SHARE, help='probability that a batch is mixed'),
    flag('--mixup-switch-prob', type=float, default=0.5, allowed=SHARE, unused_with=_MIXUPE,
         help='probability of cutmix if mixup is active too'),
    flag('--mixup-off-epoch', type=int, default=0, metavar='N', allowed=FROM_0, help='no mixing from this epoch on'),
))

_SIZES = Given('train_img_sizes')
SIZES: Group = ('Image size schedule parameters', (
    flag('--train-img-sizes', type=int, nargs='+', metavar='N', allowed=FROM_1,
         help='image sizes, one drawn for each batch',
         excludes=tuple(map(Given, ('naflex_loader', 'use_multi_epochs_loader', 'aug_splits', 'aug_repeats')))),
    flag('--train-batch-sizes', type=int, nargs='+', metavar='N', allowed=FROM_1, used_with=_SIZES,
         help='batch size for each image size (default: --batch-size)'),
    flag('--train-size-probs', type=float, nargs='+', metavar='P', allowed=_PROBABILITIES, used_with=_SIZES,
         help='probability of each image size (default: equal)'),
    flag('--train-size-schedule', type=str, default='constant', choices=('constant', 'progressive'), used_with=_SIZES,
         help='progressive: from the first size to the last over the epochs'),
    flag('--train-size-schedule-spread', type=float, default=0.65, allowed=FROM_0, used_with=_SIZES,
         help='spread of a progressive schedule, in sizes'),
    flag('--train-size-random-mix', type=float, default=0.1, allowed=SHARE, used_with=_SIZES,
         help='share of batches of a random size in a progressive schedule'),
    flag('--train-batches-per-epoch', '--train-steps-per-epoch', type=int, metavar='N', allowed=FROM_1,
         used_with=_SIZES, help='batches per epoch'),
    flag('--variable-batch-loss-scale', type=str, default='none', choices=_LOSS_SCALES, used_with=_SIZES,
         help='scale the loss by the batch size over --batch-size'),
))

_NAFLEX = Given('naflex_loader')
NAFLEX: Group = ('NaFlex parameters', (
    switch('--naflex-loader', help='images in their own aspect ratio, for naflexvit models',
           excludes=(
               Given('mixup_mode', values=OUR_MODES, why='its batches are not images of one size'),
               *map(Given, ('aug_splits', 'aug_repeats', 'cutmix_minmax', 'split_bn', 'torchscript', 'channels_last',
                            'save_images')))),
    flag('--naflex-train-seq-lens', type=int, nargs='+', default=[128, 256, 576, 784, 1024], metavar='N',
         allowed=FROM_1, used_with=_NAFLEX, help='sequence lengths in training'),
    flag('--naflex-max-seq-len', type=int, default=576, metavar='N', allowed=FROM_1, used_with=_NAFLEX,
         help='sequence length in validation'),
    flag('--naflex-patch-sizes', type=int, nargs='+', metavar='N', allowed=FROM_1, used_with=_NAFLEX,
         help="patch sizes in training (default: the model's)"),
    flag('--naflex-patch-size-probs', type=float, nargs='+', metavar='P', allowed=FROM_0, used_with=_NAFLEX,
         help='probability of each patch size'),
    flag('--naflex-loss-scale', type=str, default='linear', choices=_LOSS_SCALES, used_with=_NAFLEX,
         help='scale the loss by the batch size over --batch-size'),
    switch('--naflex-patchify-channels-first', used_with=_NAFLEX,
           help='patches with the channels first, as gemma4_vit needs them'),
))

DATA_GROUPS = (DATASET, LOADER, IMAGES, AUGMENTATION, SIZES, NAFLEX)
