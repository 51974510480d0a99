"""The flags of the training script: timm's, with timm's names, types and defaults, and the --multimix-* ones."""
import argparse
from typing import Union

from timm.loss import LOSS_TYPES
from timm.utils import ParseKwargs

from ...functional import ACTIVATIONS, ATTENTION_KINDS, CONCENTRATIONS, IMPLEMENTATIONS
from ...head import MODES

MIXUP_MODES = ('batch', 'pair', 'elem', *MODES, 'mixupe')
TASKS = ('classification', 'multilabel')


class NamedValues(ParseKwargs):
    """key=value arguments; timm's ends in a traceback where there is no '='."""

    def __call__(self, parser, namespace, values, option_string=None):
        for value in values:
            if not value.split('=', 1)[0].isidentifier() or '=' not in value:
                raise argparse.ArgumentError(self, f'must be key=value, got {value!r}')
        super().__call__(parser, namespace, values, option_string)


def input_prob(text: str) -> Union[float, str]:
    """A share, or 'auto'."""
    return text if text == 'auto' else float(text)


def add_dataset_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('data', nargs='?', metavar='DIR', help='dataset root (or --data-dir)')
    group = parser.add_argument_group('Dataset parameters')
    add = group.add_argument
    add('--data-dir', metavar='DIR', help='dataset root')
    add('--dataset', metavar='NAME', default='', help="type and name, such as hfds/NAME; 'digits' needs no data")
    add('--train-split', metavar='NAME', default='train', help='split to train on')
    add('--val-split', metavar='NAME', default='validation', help='split to validate on')
    add('--train-num-samples', type=int, metavar='N', help='samples in the train split, for iterable datasets')
    add('--val-num-samples', type=int, metavar='N', help='samples in the validation split, for iterable datasets')
    add('--dataset-download', action='store_true', help='let torch/ and tfds/ datasets download')
    add('--class-map', type=str, default='', metavar='FILE', help='class to index mapping')
    add('--input-img-mode', type=str, metavar='MODE', help="mode of the images: 'RGB', 'L', ...")
    add('--input-key', type=str, metavar='KEY', help='dataset key of the images')
    add('--target-key', type=str, metavar='KEY', help='dataset key of the labels')
    add('--target-format', type=str, default='index', choices=('index', 'multihot'),
        help='labels of --task multilabel: lists of class indices, or vectors of 0 and 1')
    add('--dataset-trust-remote-code', action='store_true', help='let hfds/ datasets run code from the hub')


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('Model parameters')
    add = group.add_argument
    add('--task', type=str, default='classification', choices=TASKS,
        help='multilabel: independent labels, any number of them per image')
    add('--model', type=str, default='resnet50', metavar='NAME', help='timm model')
    add('--pretrained', action='store_true', help='start from pretrained weights')
    add('--pretrained-path', type=str, metavar='PATH', help='pretrained weights from this file')
    add('--initial-checkpoint', type=str, default='', metavar='PATH', help='start from these weights')
    add('--resume', type=str, default='', metavar='PATH', help="resume a run; 'auto': last.pth.tar of --experiment")
    add('--no-resume-opt', action='store_true', help='resume without the optimizer state')
    add('--num-classes', type=int, metavar='N', help='classes (the model\'s own where not given)')
    add('--gp', type=str, metavar='POOL', help='global pooling: fast, avg, max, avgmax, avgmaxc, or model-specific')
    add('--img-size', type=int, metavar='N', help='image size (the model\'s own where not given)')
    add('--in-chans', type=int, metavar='N', help='input channels')
    add('--input-size', nargs=3, type=int, metavar='N', help='input size as channels height width')
    add('--crop-pct', type=float, metavar='N', help='share of the image that validation crops')
    add('--mean', type=float, nargs='+', metavar='MEAN', help='pixel mean')
    add('--std', type=float, nargs='+', metavar='STD', help='pixel standard deviation')
    add('--interpolation', type=str, default='', metavar='NAME', help='resize interpolation')
    add('-b', '--batch-size', type=int, default=128, metavar='N', help='batch size, per process')
    add('-vb', '--validation-batch-size', type=int, metavar='N', help='validation batch size')
    add('--channels-last', action='store_true', help='channels_last memory layout')
    add('--grad-accum-steps', type=int, default=1, metavar='N', help='batches whose gradients make one update')
    add('--grad-checkpointing', action='store_true', help='recompute activations in backward')
    add('--fast-norm', action='store_true', help='norms in low precision under AMP')
    add('--model-kwargs', nargs='*', default={}, action=NamedValues, help='key=value arguments of the model')
    add('--head-init-scale', type=float, help='scale the initial weights of the classifier')
    add('--head-init-bias', type=float, help='initial bias of the classifier')
    add('--fuser', type=str, default='', metavar='NAME', help='TorchScript fuser: te, old or nvfuser')
    add('--torchscript', action='store_true', help='torch.jit.script the model; not with the multimix modes')
    add('--torchcompile', nargs='?', type=str, const='inductor', help='torch.compile, with this backend')
    add('--torchcompile-mode', type=str, help='mode of torch.compile')


def add_device_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('Device parameters')
    add = group.add_argument
    add('--device', type=str, default='cuda', help='device; cuda falls back to the CPU where there is no GPU')
    add('--amp', action='store_true', help='automatic mixed precision')
    add('--amp-dtype', type=str, default='float16', help='float16 or bfloat16')
    add('--model-dtype', type=str, help='dtype of the model\'s weights: float32, bfloat16, float16')
    add('--device-modules', type=str, nargs='+', metavar='NAME', help='Python modules to import for the device')
    add('--no-ddp-bb', action='store_true', help='do not broadcast buffers in DDP')
    add('--synchronize-step', action='store_true', help='wait for the device at the end of each step')
    add('--local_rank', type=int, default=0, help='set by torchrun through the environment')


def add_optimizer_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('Optimizer parameters')
    add = group.add_argument
    add('--opt', type=str, default='sgd', metavar='NAME', help='optimizer')
    add('--opt-eps', type=float, metavar='EPS', help='optimizer epsilon')
    add('--opt-betas', type=float, nargs='+', metavar='BETA', help='optimizer betas')
    add('--momentum', type=float, default=0.9, metavar='M', help='momentum')
    add('--weight-decay', type=float, default=2e-5, help='weight decay')
    add('--clip-grad', type=float, metavar='NORM', help='clip gradients at this')
    add('--clip-mode', type=str, default='norm', help='norm, value or agc')
    add('--layer-decay', type=float, help='learning rate decay per layer')
    add('--layer-decay-min-scale', type=float, default=0, help='least scale of layer decay')
    add('--layer-decay-no-opt-scale', type=float, help='layers below this scale are not optimised')
    add('--opt-kwargs', nargs='*', default={}, action=NamedValues, help='key=value arguments of the optimizer')


def add_schedule_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('Learning rate schedule parameters')
    add = group.add_argument
    add('--sched', type=str, default='cosine', metavar='NAME', help='schedule: cosine, step, plateau, ...')
    add('--sched-on-updates', action='store_true', help='step the schedule at each update')
    add('--lr', type=float, metavar='LR', help='learning rate; overrides --lr-base')
    add('--lr-base', type=float, default=0.1, metavar='LR', help='lr = lr_base * global batch / base size')
    add('--lr-base-size', type=int, default=256, metavar='N', help='base size')
    add('--lr-base-scale', type=str, default='', metavar='NAME', help="'linear' or 'sqrt'; by optimizer if not given")
    add('--lr-noise', type=float, nargs='+', metavar='PCT', help='noise on/off epochs, in shares of the run')
    add('--lr-noise-pct', type=float, default=0.67, metavar='PCT', help='limit of the noise')
    add('--lr-noise-std', type=float, default=1.0, metavar='STD', help='spread of the noise')
    add('--lr-cycle-mul', type=float, default=1.0, metavar='MUL', help='cycle length multiplier')
    add('--lr-cycle-decay', type=float, default=0.5, metavar='MUL', help='decay per cycle')
    add('--lr-cycle-limit', type=int, default=1, metavar='N', help='cycles')
    add('--lr-k-decay', type=float, default=1.0, help='k of k-decay')
    add('--warmup-lr', type=float, default=1e-5, metavar='LR', help='learning rate at the start of warm-up')
    add('--min-lr', type=float, default=0, metavar='LR', help='least learning rate')
    add('--epochs', type=int, default=300, metavar='N', help='epochs')
    add('--epoch-repeats', type=float, default=0., metavar='N', help='dataset repeats per epoch')
    add('--stop-epoch', type=int, metavar='N', help='end after this many epochs; the schedule stays that of --epochs')
    add('--start-epoch', type=int, metavar='N', help='first epoch, whatever the checkpoint says')
    add('--decay-milestones', type=int, nargs='+', default=[90, 180, 270], metavar='N', help='for multistep')
    add('--decay-epochs', type=float, default=90, metavar='N', help='epochs between decays')
    add('--warmup-epochs', type=int, default=5, metavar='N', help='epochs of warm-up')
    add('--warmup-prefix', action='store_true', help='the schedule begins after warm-up')
    add('--cooldown-epochs', type=int, default=0, metavar='N', help='epochs at the least learning rate, at the end')
    add('--patience-epochs', type=int, default=10, metavar='N', help='for plateau')
    add('--decay-rate', '--dr', type=float, default=0.1, metavar='RATE', help='decay rate')


def add_augmentation_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('Augmentation and regularization parameters')
    add = group.add_argument
    add('--no-aug', action='store_true', help='no augmentation')
    add('--train-crop-mode', type=str, help='train crop: rrc, rkrc, rkrr')
    add('--scale', type=float, nargs='+', default=[0.08, 1.0], metavar='PCT', help='area of the random crop')
    add('--ratio', type=float, nargs='+', default=[3. / 4., 4. / 3.], metavar='RATIO', help='aspect of the random crop')
    add('--hflip', type=float, default=0.5, help='probability of a horizontal flip')
    add('--vflip', type=float, default=0., help='probability of a vertical flip')
    add('--color-jitter', type=float, default=0.4, metavar='PCT', help='color jitter')
    add('--color-jitter-prob', type=float, metavar='PCT', help='probability of color jitter')
    add('--grayscale-prob', type=float, metavar='PCT', help='probability of grayscale')
    add('--gaussian-blur-prob', type=float, metavar='PCT', help='probability of blur')
    add('--aa', type=str, metavar='NAME', help='AutoAugment policy')
    add('--aug-repeats', type=float, default=0, help='repeated augmentation, distributed only')
    add('--aug-splits', type=int, default=0, metavar='N', help='views of each image, 0 or > 1')
    add('--jsd-loss', action='store_true', help='cross-entropy with Jensen-Shannon divergence over --aug-splits')
    add('--loss', type=str, choices=LOSS_TYPES, help='criterion; ce, or bce with --task multilabel, where not given')
    add('--bce-loss', action='store_true', help='binary cross-entropy, the same as --loss bce')
    add('--bce-sum', action='store_true', help='sum it over classes')
    add('--bce-target-thresh', type=float, help='binarize its targets at this')
    add('--bce-pos-weight', type=float, help='weight of its positive term')
    add('--reprob', type=float, default=0., metavar='PCT', help='probability of random erasing')
    add('--remode', type=str, default='pixel', help='mode of random erasing')
    add('--recount', type=int, default=1, help='boxes of random erasing')
    add('--resplit', action='store_true', help='no random erasing in the first of --aug-splits')
    add('--mixup', type=float, default=0.0, help='mixup alpha; active if > 0')
    add('--cutmix', type=float, default=0.0, help='cutmix alpha; active if > 0')
    add('--cutmix-minmax', type=float, nargs='+', help='cutmix with boxes of (min, max) shares of the image')
    add('--mixup-prob', type=float, default=1.0, help='probability that a batch is mixed')
    add('--mixup-switch-prob', type=float, default=0.5, help='probability of cutmix where both are active')
    add('--mixup-mode', type=str, default='batch', choices=MIXUP_MODES,
        help='batch, pair, elem: timm\'s Mixup of the images, active with --mixup or --cutmix; multimix, '
             'dense-multimix: embeddings are mixed, and with --mixup or --cutmix the images of half of the batches')
    add('--mixup-off-epoch', type=int, default=0, metavar='N', help='no mixing from this epoch on')
    add('--smoothing', type=float, default=0.1, help='label smoothing')
    add('--train-interpolation', type=str, default='random', help='resize interpolation in training')
    add('--drop', type=float, default=0.0, metavar='PCT', help='dropout')
    add('--drop-connect', type=float, metavar='PCT', help='old name of --drop-path')
    add('--drop-path', type=float, metavar='PCT', help='stochastic depth')
    add('--drop-block', type=float, metavar='PCT', help='DropBlock')


def add_multimix_flags(parser: argparse.ArgumentParser) -> None:
    """Their default is None, for the library's own: so a flag that the mode does not use can be refused."""
    group = parser.add_argument_group('MultiMix parameters')
    add = group.add_argument
    add('--multimix-tuples', type=int, metavar='N',
        help='tuples per step (1000), or per position of dense-multimix (8192 / positions, from 32 to 1000: 167 at 49 '
             'positions, 42 at 196)')
    add('--multimix-alpha', type=float, nargs='+', metavar='A', help='Dirichlet concentration, or a range of two (2.0)')
    add('--multimix-concentration', choices=CONCENTRATIONS,
        help='what alpha counts for: the total of a tuple, whatever the batch size (default), or each example')
    add('--multimix-length', type=int, metavar='M', help='examples per tuple (the whole batch)')
    add('--multimix-clean-weight', type=float, metavar='W', help='weight of plain cross-entropy beside it (3.0)')
    add('--multimix-input-prob', type=input_prob, metavar='P',
        help='with --mixup or --cutmix, the share of batches whose images are mixed, not their embeddings (0.5); auto: '
             'found by the run, which raises it while training images are fitted')
    add('--multimix-attention', choices=ATTENTION_KINDS, help='attention of dense-multimix (gap)')
    add('--multimix-activation', choices=ACTIVATIONS, help='its activation (relu)')
    add('--multimix-implementation', choices=('auto', *IMPLEMENTATIONS), help='how the loss is computed (auto)')
    add('--multimix-gather', action='store_true', default=None,
        help='mix over the batches of all processes (off)')
    add('--multimix-teacher-decay', type=float, metavar='D',
        help='self-distillation from a moving average of the model, of this decay')
    add('--multimix-teacher-warmup', action='store_true', default=None, help='warm that decay up')
    add('--multimix-gamma', type=float, metavar='G', help='weight of the labels beside the teacher (0.5)')
    add('--multimix-single-view', action='store_true', default=None,
        help='the teacher sees the same augmented images as the model, not a second view of them')
    add('--multimix-paper', action='store_true', default=None,
        help='the literal setting of the paper; learns in hundreds of epochs')


def add_mixupe_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('MixupE parameters')
    add = group.add_argument
    add('--mixupe-eta', type=float, metavar='E', help='weight of its term; 0 is Mixup (0.001)')
    add('--mixupe-threshold', type=float, metavar='T', help='only images whose term is below this have one (all)')
    add('--mixupe-exact', action='store_true', default=None,
        help='directional derivative by double backward; the mean image is taken from a first pass over the data')


def add_batch_norm_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('Batch norm parameters')
    add = group.add_argument
    add('--bn-momentum', type=float, help='momentum of batch norms')
    add('--bn-eps', type=float, help='epsilon of batch norms')
    add('--sync-bn', action='store_true', help='synchronise batch norms between processes')
    add('--split-bn', action='store_true', help='batch norms of their own for each of --aug-splits')
    add('--dist-bn', type=str, default='reduce', help="running statistics after an epoch: 'broadcast', 'reduce' or ''")


def add_ema_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('Model exponential moving average parameters')
    add = group.add_argument
    add('--model-ema', action='store_true', help='keep a moving average of the weights')
    add('--model-ema-force-cpu', action='store_true', help='keep it on the CPU, without validating it')
    add('--model-ema-decay', type=float, default=0.9998, help='decay')
    add('--model-ema-warmup', action='store_true', help='warm the decay up')


def add_misc_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('Miscellaneous parameters')
    add = group.add_argument
    add('--seed', type=int, default=42, metavar='S', help='random seed')
    add('--worker-seeding', type=str, default='all',
        help="all: augmentation by seed, epoch and image, whatever --workers is; part: timm's, by worker")
    add('--log-interval', type=int, default=50, metavar='N', help='batches between log lines')
    add('--val-interval', type=int, default=1, metavar='N', help='epochs between validations')
    add('--recovery-interval', type=int, default=0, metavar='N', help='batches between recovery checkpoints')
    add('--max-bad-steps', type=int, default=20, metavar='N',
        help='end after N updates in a row with gradients of NaN or infinity, which are skipped (0: never)')
    add('--checkpoint-hist', type=int, default=10, metavar='N', help='checkpoints to keep')
    add('--save-epochs', type=int, nargs='+', metavar='N', help='epochs to keep for good, as milestone-N.pth.tar')
    add('-j', '--workers', type=int, default=4, metavar='N', help='loader processes')
    add('--save-images', action='store_true', help='save the images of logged batches in the output folder')
    add('--pin-mem', action='store_true', help='pin memory in the loader')
    add('--no-prefetcher', action='store_true', help='no prefetcher')
    add('--output', type=str, default='', metavar='PATH', help='folder of runs (./output/train)')
    add('--experiment', type=str, default='', metavar='NAME', help='name of this run\'s folder')
    add('--eval-metric', type=str, default='top1', metavar='NAME', help='metric of the best checkpoint')
    add('--tta', type=int, default=0, metavar='N', help='average the outputs of each N images in validation')
    add('--use-multi-epochs-loader', action='store_true', help='loader that keeps its workers')
