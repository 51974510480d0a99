"""The flags of timm's script for images: their sources, sizes and augmentation."""
from .flag import (
    ABOVE_0,
    LOW_AND_HIGH,
    Allowed,
    Given,
    Group,
    amount,
    count,
    count_0,
    each_number,
    flag,
    number,
    one_of,
    share,
    switch,
    text,
)
from .multimix import OUR_MODES

_LOSS_SCALES = ('none', 'sqrt', 'linear')
_INTERPOLATIONS = ('nearest', 'bilinear', 'bicubic', 'lanczos', 'box', 'hamming')
SEVERAL_VIEWS = Given('mixup_mode', values=OUR_MODES, why='its batches hold several views of each image')
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
    count('--train-num-samples', help='samples in the train split, for iterable datasets'),
    count('--val-num-samples', help='samples in the validation split, for iterable datasets'),
    switch('--dataset-download', help='let torch/ and tfds/ datasets download'),
    text('--class-map', default='', metavar='FILE', help='file that maps classes to indices'),
    text('--input-img-mode', metavar='MODE', help="mode of the images: 'RGB', 'L', ...", allowed=one_of(*_MODES)),
    text('--input-key', metavar='KEY', help='dataset key of the images'),
    text('--target-key', metavar='KEY', help='dataset key of the labels'),
    text('--target-format', default='index', choices=('index', 'multihot'),
         needs=(Given('task', values=('multilabel',)),),
         help='labels of --task multilabel: lists of class indices, or vectors of 0 and 1'),
    switch('--dataset-trust-remote-code', help='let hfds/ datasets run code from the hub'),
))

LOADER: Group = ('Loader parameters', (
    count('-b', '--batch-size', default=128, help='batch size, per process'),
    count('-vb', '--validation-batch-size', help='validation batch size'),
    count_0('-j', '--workers', default=4, help='loader processes'),
    text('--worker-seeding', default='all', allowed=one_of('all', 'part'),
         help="all: augmentation depends on seed, epoch and image, not on --workers; part: timm's, by worker"),
    switch('--save-images', help='save the images of logged batches in the output folder, and in the MultiMix modes '
                                 'pictures of what is mixed (needs matplotlib)'),
    switch('--pin-mem', help='pin memory in the loader'),
    switch('--no-prefetcher', help="do not use timm's prefetcher"),
    switch('--use-multi-epochs-loader', help='keep the workers of the loader between epochs'),
))

IMAGES: Group = ('Image parameters', (
    count('--img-size', help="image size (default: the model's)"),
    count('--in-chans', help='input channels'),
    count('--input-size', nargs=3, help='input size as channels height width'),
    number('--crop-pct', metavar='N', allowed=ABOVE_0, help='share of the image kept in validation'),
    number('--mean', nargs='+', metavar='MEAN', help='pixel mean'),
    number('--std', nargs='+', metavar='STD', help='pixel standard deviation'),
    text('--interpolation', default='', allowed=one_of('', *_INTERPOLATIONS), help='resize interpolation'),
))

AUGMENTATION: Group = ('Augmentation parameters', (
    switch('--no-aug', help='no augmentation'),
    text('--train-crop-mode', allowed=one_of('rrc', 'rkrc', 'rkrr'), help='train crop: rrc, rkrc, rkrr'),
    number('--scale', nargs='+', default=[0.08, 1.0], allowed=LOW_AND_HIGH, help='area of the random crop'),
    number('--ratio', nargs='+', default=[3. / 4., 4. / 3.], allowed=LOW_AND_HIGH, help='aspect of the random crop'),
    share('--hflip', default=0.5, help='probability of a horizontal flip'),
    share('--vflip', default=0., help='probability of a vertical flip'),
    amount('--color-jitter', default=0.4, metavar='PCT', help='color jitter'),
    share('--color-jitter-prob', metavar='PCT', help='probability of color jitter'),
    share('--grayscale-prob', metavar='PCT', help='probability of grayscale',
          excludes=(Given('input_img_mode', values=('LA', 'RGBA', 'CMYK'), why='it gives 1 or 3 channels'),)),
    share('--gaussian-blur-prob', metavar='PCT', help='probability of blur'),
    text('--aa', metavar='NAME', help='AutoAugment policy',
         excludes=(Given('input_img_mode', values=_UNAUGMENTED, why='it accepts only modes L and RGB'),)),
    text('--train-interpolation', default='random', allowed=one_of('', 'random', *_INTERPOLATIONS),
         help='resize interpolation in training'),
    amount('--aug-repeats', default=0, help='repeated augmentation, distributed only'),
    flag('--aug-splits', type=int, default=0, metavar='N', help='views of each image, 0 or > 1',
         allowed=each_number('be 0 or at least 2', lambda x: x == 0 or x >= 2),
         excludes=(
             SEVERAL_VIEWS,
             Given('mixup', 'cutmix', 'cutmix_minmax', why='views of one image would be mixed'),
             Given('no_prefetcher', why='it does not join the views'))),
    share('--reprob', default=0., metavar='PCT', help='probability of random erasing'),
    text('--remode', default='pixel', allowed=one_of('const', 'pixel', 'rand'), help='mode of random erasing'),
    count('--recount', default=1, help='boxes of random erasing'),
    switch('--resplit', help='no random erasing in the first of --aug-splits'),
    amount('--mixup', default=0.0, help='mixup alpha; active if > 0 (with mixupe 0 means 1)'),
    amount('--cutmix', default=0.0, excludes=(_NO_CUTMIX,), help='cutmix alpha; active if > 0'),
    number('--cutmix-minmax', nargs='+', excludes=(_NO_CUTMIX,),
           help='smallest and largest side of the cutmix box, as shares of the image',
           allowed=Allowed('be two numbers, 0 <= min < max <= 1',
                           lambda pair: len(pair) == 2 and 0. <= pair[0] < pair[1] <= 1.)),
    share('--mixup-prob', default=1.0, help='probability that a batch is mixed'),
    share('--mixup-switch-prob', default=0.5, help='probability of cutmix if mixup is active too'),
    count_0('--mixup-off-epoch', default=0, help='no mixing from this epoch on'),
))

SIZES: Group = ('Image size schedule parameters', (
    count('--train-img-sizes', nargs='+', help='image sizes, one drawn for each batch',
          excludes=tuple(map(Given, ('naflex_loader', 'use_multi_epochs_loader', 'aug_splits', 'aug_repeats')))),
    count('--train-batch-sizes', nargs='+', help='batch size for each image size (default: --batch-size)'),
    number('--train-size-probs', nargs='+', allowed=_PROBABILITIES, help='probability of each size (default: equal)'),
    text('--train-size-schedule', default='constant', choices=('constant', 'progressive'),
         help='progressive: from the first size to the last over the epochs'),
    amount('--train-size-schedule-spread', default=0.65, help='spread of a progressive schedule, in sizes'),
    share('--train-size-random-mix', default=0.1, help='share of batches of a random size in a progressive schedule'),
    count('--train-batches-per-epoch', '--train-steps-per-epoch', help='batches per epoch'),
    text('--variable-batch-loss-scale', default='none', choices=_LOSS_SCALES, help='weight of a batch by its size'),
))

NAFLEX: Group = ('NaFlex parameters', (
    switch('--naflex-loader', help='images in their own aspect ratio, for naflexvit models',
           excludes=(
               Given('mixup_mode', values=OUR_MODES, why='its batches are not images of one size'),
               *map(Given, ('aug_splits', 'aug_repeats', 'cutmix_minmax', 'split_bn', 'torchscript', 'channels_last',
                            'save_images')))),
    count('--naflex-train-seq-lens', nargs='+', default=[128, 256, 576, 784, 1024], help='lengths in training'),
    count('--naflex-max-seq-len', default=576, help='sequence length in validation'),
    count('--naflex-patch-sizes', nargs='+', help="patch sizes in training (default: the model's)"),
    amount('--naflex-patch-size-probs', nargs='+', metavar='P', help='probability of each patch size'),
    text('--naflex-loss-scale', default='linear', choices=_LOSS_SCALES, help='weight of a batch by its size'),
    switch('--naflex-patchify-channels-first', help='patches with the channels first, as gemma4_vit needs them'),
))

DATA_GROUPS = (DATASET, LOADER, IMAGES, AUGMENTATION, SIZES, NAFLEX)
