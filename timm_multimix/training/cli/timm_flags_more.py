"""More of timm's flags: image sizes that change, NaFlex, distillation, and where a run is tracked."""
import argparse

_SCALES = ('none', 'sqrt', 'linear')


def add_size_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('Image size schedule parameters')
    add = group.add_argument
    add('--train-img-sizes', type=int, nargs='+', metavar='N', help='image sizes, one drawn for each batch')
    add('--train-batch-sizes', type=int, nargs='+', metavar='N', help='batch size for each of them (--batch-size)')
    add('--train-size-probs', type=float, nargs='+', metavar='P', help='probability of each of them (equal)')
    add('--train-size-schedule', type=str, default='constant', choices=('constant', 'progressive'),
        help='progressive: from the first size to the last over the epochs')
    add('--train-size-schedule-spread', type=float, default=0.65, help='spread of a progressive schedule, in sizes')
    add('--train-size-random-mix', type=float, default=0.1, help='share of batches of any size in it')
    add('--train-batches-per-epoch', '--train-steps-per-epoch', type=int, metavar='N', help='batches per epoch')
    add('--variable-batch-loss-scale', type=str, default='none', choices=_SCALES,
        help='scale the loss by the batch size over --batch-size')


def add_naflex_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('NaFlex parameters')
    add = group.add_argument
    add('--naflex-loader', action='store_true', help='images in their own aspect, for naflexvit models')
    add('--naflex-train-seq-lens', type=int, nargs='+', default=[128, 256, 576, 784, 1024], metavar='N',
        help='sequence lengths in training')
    add('--naflex-max-seq-len', type=int, default=576, metavar='N', help='sequence length in validation')
    add('--naflex-patch-sizes', type=int, nargs='+', metavar='N', help='patch sizes in training (the model\'s)')
    add('--naflex-patch-size-probs', type=float, nargs='+', metavar='P', help='probability of each of them')
    add('--naflex-loss-scale', type=str, default='linear', choices=_SCALES,
        help='scale the loss by the batch size over --batch-size')
    add('--naflex-patchify-channels-first', action='store_true', help='patches with the channels first')


def add_distillation_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('Knowledge distillation parameters')
    add = group.add_argument
    add('--kd-model-name', type=str, metavar='NAME', help='pretrained timm model to distil from')
    add('--kd-distill-type', type=str, default='logit', choices=('logit', 'feature', 'token'), help='what is distilled')
    add('--kd-loss-type', type=str, default='kl', help='loss of logit distillation')
    add('--distill-loss-weight', type=float, help='weight of the distillation loss')
    add('--task-loss-weight', type=float, help='weight of the label loss')
    add('--kd-temperature', type=float, default=4.0, help='softmax temperature')
    add('--kd-student-feature-dim', type=int, metavar='N', help='width of the student\'s features (found)')
    add('--kd-teacher-feature-dim', type=int, metavar='N', help='width of the teacher\'s features (found)')
    add('--kd-token-distill-type', type=str, default='soft', choices=('soft', 'hard'), help='targets of the token')


def add_tracking_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('Tracking parameters')
    add = group.add_argument
    add('--log-wandb', action='store_true', help='log to Weights & Biases')
    add('--wandb-project', type=str, help='project there')
    add('--wandb-tags', type=str, nargs='+', default=[], help='tags there')
    add('--wandb-resume-id', type=str, default='', metavar='ID', help='run to go on with there')
    add('--log-tensorboard', action='store_true', help='write TensorBoard events into the output folder')
