"""All flags: after ours those of timm's script, with its names, types and defaults."""
from functools import partial
from typing import Dict, Tuple

from timm.loss import LOSS_TYPES

from .flag import FROM_0, Allowed, Flag, Given, Group, NamedValues, each_number
from .multimix import OUR_GROUPS, OUR_MODES

_FROM_1 = each_number('be >= 1', lambda x: x >= 1)
_ABOVE_0 = each_number('be > 0', lambda x: x > 0)
SHARE = each_number('be in [0, 1]', lambda x: 0 <= x <= 1)
_SHARE_BELOW_1 = each_number('be in [0, 1)', lambda x: 0 <= x < 1)
_LOW_AND_HIGH = Allowed('be two numbers, 0 < low <= high', lambda pair: len(pair) == 2 and 0. < pair[0] <= pair[1])
switch = partial(Flag, action='store_true', default=False)
text = partial(Flag, type=str)
number = partial(Flag, type=float)
amount = partial(number, allowed=FROM_0)
share = partial(number, allowed=SHARE)
count = partial(Flag, type=int, metavar='N', allowed=_FROM_1)
count_0 = partial(Flag, type=int, metavar='N', allowed=FROM_0)

_LOSS_SCALES = ('none', 'sqrt', 'linear')
_INTERPOLATIONS = ('nearest', 'bilinear', 'bicubic', 'lanczos', 'box', 'hamming')
SEVERAL_VIEWS = Given('mixup_mode', values=OUR_MODES, why='its batches hold several views of each image')
_NO_CUTMIX = Given('mixup_mode', values=('mixupe',), why='it has no CutMix')
_MODES = ('L', 'LA', 'RGB', 'RGBA', 'CMYK', 'YCbCr', 'LAB', 'HSV')
_UNAUGMENTED = tuple(mode for mode in _MODES if mode not in ('L', 'RGB'))
_PROBABILITIES = Allowed('be >= 0 and not all 0', lambda values: min(values) >= 0. and 0. < sum(values) < float('inf'))

DATASET: Group = ('Dataset parameters', (
    Flag('data', nargs='?', metavar='DIR', help='dataset root (or --data-dir)'),
    Flag('--data-dir', metavar='DIR', help='dataset root'),
    Flag('--dataset', metavar='NAME', default='', help="type and name, such as hfds/NAME; 'digits' needs no folder"),
    Flag('--train-split', metavar='NAME', default='train', help='split to train on'),
    Flag('--val-split', metavar='NAME', default='validation', help='split to validate on',
         allowed=Allowed('name a split to validate on', bool)),
    count('--train-num-samples', help='samples in the train split, for iterable datasets'),
    count('--val-num-samples', help='samples in the validation split, for iterable datasets'),
    switch('--dataset-download', help='let torch/ and tfds/ datasets download'),
    text('--class-map', default='', metavar='FILE', help='file that maps classes to indices'),
    text('--input-img-mode', metavar='MODE', help="mode of the images: 'RGB', 'L', ...", choices=_MODES),
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
    text('--worker-seeding', default='all', choices=('all', 'part'),
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
    number('--crop-pct', metavar='N', allowed=_ABOVE_0, help='share of the image kept in validation'),
    number('--mean', nargs='+', metavar='MEAN', help='pixel mean'),
    number('--std', nargs='+', metavar='STD', help='pixel standard deviation'),
    text('--interpolation', default='', choices=('', *_INTERPOLATIONS), help='resize interpolation'),
))

AUGMENTATION: Group = ('Augmentation parameters', (
    switch('--no-aug', excludes=(Given('aug_splits'),), help='no augmentation'),
    text('--train-crop-mode', choices=('rrc', 'rkrc', 'rkrr'), help='train crop'),
    number('--scale', nargs='+', default=[0.08, 1.0], allowed=_LOW_AND_HIGH, help='area of the random crop'),
    number('--ratio', nargs='+', default=[3. / 4., 4. / 3.], allowed=_LOW_AND_HIGH, help='aspect of the random crop'),
    share('--hflip', default=0.5, help='probability of a horizontal flip'),
    share('--vflip', default=0., help='probability of a vertical flip'),
    amount('--color-jitter', default=0.4, metavar='PCT', help='color jitter'),
    share('--color-jitter-prob', metavar='PCT', help='probability of color jitter'),
    share('--grayscale-prob', metavar='PCT', help='probability of grayscale',
          excludes=(Given('input_img_mode', values=('LA', 'RGBA', 'CMYK'), why='it gives 1 or 3 channels'),)),
    share('--gaussian-blur-prob', metavar='PCT', help='probability of blur'),
    text('--aa', metavar='NAME', help='AutoAugment policy',
         excludes=(Given('input_img_mode', values=_UNAUGMENTED, why='it accepts only modes L and RGB'),)),
    text('--train-interpolation', default='random', choices=('', 'random', *_INTERPOLATIONS),
         help='resize interpolation in training'),
    amount('--aug-repeats', default=0, help='repeated augmentation, distributed only'),
    Flag('--aug-splits', type=int, default=0, metavar='N', help='views of each image, 0 or > 1',
         allowed=each_number('be 0 or at least 2', lambda x: x == 0 or x >= 2),
         excludes=(
             SEVERAL_VIEWS,
             Given('mixup', 'cutmix', 'cutmix_minmax', why='views of one image would be mixed'),
             Given('no_prefetcher', why='it does not join the views'))),
    share('--reprob', default=0., metavar='PCT', help='probability of random erasing'),
    text('--remode', default='pixel', choices=('const', 'pixel', 'rand'), help='mode of random erasing'),
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

MODEL: Group = ('Model parameters', (
    text('--task', default='classification', choices=('classification', 'multilabel'),
         help='multilabel: independent labels, any number of them per image'),
    text('--model', default='resnet50', metavar='NAME', help='timm model'),
    switch('--pretrained', help='start from pretrained weights'),
    text('--pretrained-path', metavar='PATH', help='pretrained weights from this file'),
    text('--initial-checkpoint', default='', metavar='PATH', help='start from these weights'),
    text('--resume', default='', metavar='PATH', help="resume a run; 'auto': the newest of --experiment"),
    switch('--no-resume-opt', help='resume without the optimizer state'),
    count('--num-classes', help="number of classes (default: the model's)"),
    text('--gp', metavar='POOL', help='global pooling: fast, avg, max, avgmax, avgmaxc, or model-specific'),
    switch('--channels-last', help='channels_last memory layout'),
    count('--grad-accum-steps', default=1, help='batches per update'),
    switch('--grad-checkpointing', help='recompute activations in backward'),
    switch('--fast-norm', help='norms in low precision under AMP'),
    Flag('--model-kwargs', nargs='*', default={}, action=NamedValues, help='key=value arguments of the model'),
    number('--head-init-scale', help='scale the initial weights of the classifier'),
    number('--head-init-bias', help='initial bias of the classifier'),
    number('--drop', default=0.0, metavar='PCT', allowed=_SHARE_BELOW_1, help='dropout'),
    number('--drop-connect', metavar='PCT', allowed=_SHARE_BELOW_1, help='old name of --drop-path'),
    number('--drop-path', metavar='PCT', allowed=_SHARE_BELOW_1, help='stochastic depth'),
    number('--drop-block', metavar='PCT', allowed=_SHARE_BELOW_1, help='DropBlock'),
    text('--fuser', default='', metavar='NAME', choices=('', 'te', 'old', 'legacy', 'nvfuser', 'nvf'),
         help='TorchScript fuser: te, old or nvfuser'),
    switch('--torchscript', help='use torch.jit.script on the model; not with the multimix modes',
           excludes=(
               Given('mixup_mode', values=OUR_MODES, why='a scripted model has no features and no second derivatives'),
               *map(Given, ('torchcompile', 'sync_bn', 'grad_checkpointing')))),
    text('--torchcompile', nargs='?', const='inductor', help='use torch.compile, with this backend'),
    text('--torchcompile-mode', help='mode of torch.compile'),
))

DEVICE: Group = ('Device parameters', (
    text('--device', default='cuda', help='device; cuda falls back to the CPU if there is no GPU'),
    switch('--amp', help='automatic mixed precision',
           excludes=(Given('model_dtype', values=('bfloat16', 'float16'), why='it needs weights of float32'),)),
    text('--amp-dtype', default='float16', choices=('float16', 'bfloat16'), help='dtype of mixed precision'),
    text('--model-dtype', choices=('float32', 'bfloat16', 'float16'), help='dtype of the weights'),
    text('--device-modules', nargs='+', metavar='NAME', help='Python modules to import for the device'),
    switch('--no-ddp-bb', help='do not broadcast buffers in DDP'),
    switch('--synchronize-step', help='wait for the device at the end of each step'),
    Flag('--local_rank', type=int, default=0, help='set by torchrun through the environment'),
))

OPTIMIZER: Group = ('Optimizer parameters', (
    text('--opt', default='sgd', metavar='NAME', help='optimizer'),
    amount('--opt-eps', metavar='EPS', help='optimizer epsilon'),
    number('--opt-betas', nargs='+', metavar='BETA', allowed=_SHARE_BELOW_1, help='optimizer betas'),
    share('--momentum', default=0.9, metavar='M', help='momentum'),
    amount('--weight-decay', default=2e-5, help='weight decay'),
    number('--clip-grad', metavar='NORM', allowed=_ABOVE_0, help='limit of gradient clipping'),
    text('--clip-mode', default='norm', choices=('norm', 'value', 'agc'), help='kind of gradient clipping'),
    number('--layer-decay', allowed=each_number('be in (0, 1]', lambda x: 0 < x <= 1), help='rate decay per layer'),
    amount('--layer-decay-min-scale', default=0, help='lowest scale of layer decay'),
    amount('--layer-decay-no-opt-scale', help='layers below this scale are not trained'),
    Flag('--opt-kwargs', nargs='*', default={}, action=NamedValues, help='key=value arguments of the optimizer'),
))

SCHEDULE: Group = ('Learning rate schedule parameters', (
    text('--sched', default='cosine', metavar='NAME', help='schedule: cosine, step, plateau, ...'),
    switch('--sched-on-updates', help='step the schedule at each update'),
    amount('--lr', metavar='LR', help='learning rate; overrides --lr-base'),
    amount('--lr-base', default=0.1, metavar='LR', help='learning rate for a global batch of --lr-base-size'),
    count('--lr-base-size', default=256, help='base batch size'),
    text('--lr-base-scale', default='', choices=('', 'linear', 'sqrt'), help='linear or sqrt (default: by opt)'),
    amount('--lr-noise', nargs='+', metavar='PCT', help='start and end of learning rate noise, as shares of the run'),
    amount('--lr-noise-pct', default=0.67, metavar='PCT', help='limit of the noise'),
    amount('--lr-noise-std', default=1.0, metavar='STD', help='standard deviation of the noise'),
    number('--lr-cycle-mul', default=1.0, metavar='MUL', allowed=_ABOVE_0, help='cycle length multiplier'),
    amount('--lr-cycle-decay', default=0.5, metavar='MUL', help='decay per cycle'),
    count('--lr-cycle-limit', default=1, help='number of cycles'),
    number('--lr-k-decay', default=1.0, allowed=_ABOVE_0, help='k of k-decay'),
    amount('--warmup-lr', default=1e-5, metavar='LR', help='learning rate at the start of warm-up'),
    amount('--min-lr', default=0, metavar='LR', help='lowest learning rate'),
    count('--epochs', default=300, help='number of epochs'),
    amount('--epoch-repeats', default=0., metavar='N', help='dataset repeats per epoch'),
    count('--stop-epoch', help='end after this many epochs; the schedule stays that of --epochs'),
    count_0('--start-epoch', help='first epoch, whatever the checkpoint says'),
    count_0('--decay-milestones', nargs='+', default=[90, 180, 270], help='epochs of decay, for multistep'),
    number('--decay-epochs', default=90, metavar='N', allowed=_ABOVE_0, help='epochs between decays'),
    count_0('--warmup-epochs', default=5, help='epochs of warm-up'),
    switch('--warmup-prefix', help='start the schedule after warm-up'),
    count_0('--cooldown-epochs', default=0, help='final epochs at the lowest learning rate'),
    count_0('--patience-epochs', default=10, help='epochs without improvement before a decay, for plateau'),
    number('--decay-rate', '--dr', default=0.1, metavar='RATE', allowed=_ABOVE_0, help='decay rate'),
))

LOSS: Group = ('Loss parameters', (
    text('--loss', choices=LOSS_TYPES, help='criterion (default: ce, or bce with --task multilabel)'),
    switch('--bce-loss', excludes=(Given('loss', 'jsd_loss', why='both choose the criterion'),),
           help='binary cross-entropy (BCE), the same as --loss bce'),
    switch('--bce-sum', help='sum BCE over classes'),
    share('--bce-target-thresh', help='threshold that makes BCE targets binary'),
    amount('--bce-pos-weight', help='weight of the positive term of BCE'),
    switch('--jsd-loss', excludes=(SEVERAL_VIEWS, Given('loss', why='both choose the criterion')),
           help='cross-entropy with JS divergence over --aug-splits'),
    share('--smoothing',
          help='label smoothing (default: 0.1; in the multimix modes 0, but 0.1 with --multimix-strength auto)'),
))

BATCH_NORM: Group = ('Batch norm parameters', (
    share('--bn-momentum', help='momentum of batch norms'),
    amount('--bn-eps', help='epsilon of batch norms'),
    switch('--sync-bn', help='synchronise batch norms between processes'),
    switch('--split-bn', needs=(Given('aug_splits', 'resplit'),), help='separate batch norms for each view',
           excludes=(SEVERAL_VIEWS, Given('sync_bn'))),
    text('--dist-bn', default='reduce', choices=('', 'broadcast', 'reduce'),
         help="running statistics after an epoch: 'broadcast', 'reduce' or ''"),
))

EMA: Group = ('Model exponential moving average parameters', (
    switch('--model-ema', help='keep a moving average of the weights'),
    switch('--model-ema-force-cpu', help='keep the average on the CPU and do not validate it'),
    share('--model-ema-decay', default=0.9998, help='decay of the average'),
    switch('--model-ema-warmup', help='warm up the decay'),
))

DISTILLATION: Group = ('Knowledge distillation parameters', (
    text('--kd-model-name', metavar='NAME', help='pretrained timm model to distil from',
         needs=(Given('task', values=('classification',)),),
         excludes=(
             Given('mixup_mode', values=OUR_MODES, why='it is a training task of its own'),
             Given('naflex_loader'),
             Given('aug_splits'))),
    text('--kd-distill-type', default='logit', choices=('logit', 'feature', 'token'), help='what is distilled'),
    text('--kd-loss-type', default='kl', help='loss of logit distillation'),
    amount('--distill-loss-weight', help='weight of the distillation loss'),
    amount('--task-loss-weight', help='weight of the label loss'),
    number('--kd-temperature', default=4.0, allowed=_ABOVE_0, help='softmax temperature'),
    count('--kd-student-feature-dim', help="width of the student's features (default: detected)"),
    count('--kd-teacher-feature-dim', help="width of the teacher's features (default: detected)"),
    text('--kd-token-distill-type', default='soft', choices=('soft', 'hard'), help='targets of the distillation token'),
))

RUN: Group = ('Run parameters', (
    Flag('--seed', type=int, default=42, metavar='S', help='random seed',  # each process adds its rank
         allowed=each_number('be from 0 to 2 ** 32 - 1025', lambda x: 0 <= x <= 2 ** 32 - 1025)),
    count('--log-interval', default=50, help='updates between log lines'),
    count('--val-interval', default=1, help='epochs between validations'),
    count_0('--recovery-interval', default=0, help='updates between recovery checkpoints; 0: none'),
    count_0('--max-bad-steps', default=20, help='end after N updates in a row with gradients of NaN; 0: never'),
    count('--checkpoint-hist', default=10, help='checkpoints to keep'),
    Flag('--save-epochs', type=int, nargs='+', metavar='N', help='epochs to keep for good, as milestone-N.pth.tar'),
    text('--output', default='', metavar='PATH', help='folder of runs (default: ./output/train)'),
    text('--experiment', default='', metavar='NAME', help="name of this run's folder"),
    text('--eval-metric', default='top1', metavar='NAME', help='metric of the best checkpoint'),
    Flag('--tta', type=int, default=0, metavar='N', help='in validation, average the outputs of N images in a row'),
    switch('--log-wandb', help='log to Weights & Biases'),
    text('--wandb-project', help='project in Weights & Biases'),
    text('--wandb-tags', nargs='+', default=[], help='tags in Weights & Biases'),
    text('--wandb-resume-id', default='', metavar='ID', help='run to resume there',
         needs=(Given('resume', why='because it belongs to the resumed run'),)),
    switch('--log-tensorboard', help='write TensorBoard events into the output folder'),
    text('-c', '--config', default='', metavar='FILE', help='YAML file of default arguments'),
))

GROUPS: Tuple[Group, ...] = (
    *OUR_GROUPS, DATASET, LOADER, IMAGES, AUGMENTATION, SIZES, NAFLEX, MODEL, DEVICE, OPTIMIZER, SCHEDULE, LOSS,
    BATCH_NORM, EMA, DISTILLATION, RUN)
FLAGS: Dict[str, Flag] = {flag.dest: flag for _, flags in GROUPS for flag in flags}
