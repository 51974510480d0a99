"""The flags of timm's script for the model, training and output, with its names, types and defaults."""
from timm.loss import LOSS_TYPES

from .flag import (
    ABOVE_0,
    FROM_0,
    FROM_1,
    SHARE,
    SHARE_BELOW_1,
    Given,
    Group,
    NamedValues,
    each_number,
    flag,
    one_of,
    switch,
)
from .multimix import OUR_MODES
from .timm_data_flags import SEVERAL_VIEWS

MODEL: Group = ('Model parameters', (
    flag('--task', type=str, default='classification', choices=('classification', 'multilabel'),
         help='multilabel: independent labels, any number of them per image'),
    flag('--model', type=str, default='resnet50', metavar='NAME', help='timm model'),
    switch('--pretrained', help='start from pretrained weights'),
    flag('--pretrained-path', type=str, metavar='PATH', help='pretrained weights from this file'),
    flag('--initial-checkpoint', type=str, default='', metavar='PATH', help='start from these weights'),
    flag('--resume', type=str, default='', metavar='PATH', help="resume a run; 'auto': the newest of --experiment"),
    switch('--no-resume-opt', used_with=Given('resume'), help='resume without the optimizer state'),
    flag('--num-classes', type=int, metavar='N', allowed=FROM_1, help="number of classes (default: the model's)"),
    flag('--gp', type=str, metavar='POOL', help='global pooling: fast, avg, max, avgmax, avgmaxc, or model-specific'),
    switch('--channels-last', help='channels_last memory layout'),
    flag('--grad-accum-steps', type=int, default=1, metavar='N', allowed=FROM_1,
         help='batches per update'),
    switch('--grad-checkpointing', help='recompute activations in backward'),
    switch('--fast-norm', help='norms in low precision under AMP'),
    flag('--model-kwargs', nargs='*', default={}, action=NamedValues, help='key=value arguments of the model'),
    flag('--head-init-scale', type=float, help='scale the initial weights of the classifier'),
    flag('--head-init-bias', type=float, help='initial bias of the classifier'),
    flag('--drop', type=float, default=0.0, metavar='PCT', allowed=SHARE_BELOW_1, help='dropout'),
    flag('--drop-connect', type=float, metavar='PCT', allowed=SHARE_BELOW_1, help='old name of --drop-path'),
    flag('--drop-path', type=float, metavar='PCT', allowed=SHARE_BELOW_1, help='stochastic depth'),
    flag('--drop-block', type=float, metavar='PCT', allowed=SHARE_BELOW_1, help='DropBlock'),
    flag('--fuser', type=str, default='', metavar='NAME', allowed=one_of('', 'te', 'old', 'legacy', 'nvfuser', 'nvf'),
         help='TorchScript fuser: te, old or nvfuser'),
    switch('--torchscript', help='use torch.jit.script on the model; not with the multimix modes',
           excludes=(
               Given('mixup_mode', values=OUR_MODES,
                     why='a scripted model has no features and no second derivatives'),
               *map(Given, ('torchcompile', 'sync_bn', 'grad_checkpointing')))),
    flag('--torchcompile', nargs='?', type=str, const='inductor', help='use torch.compile, with this backend'),
    flag('--torchcompile-mode', type=str, used_with=Given('torchcompile'), help='mode of torch.compile'),
))

DEVICE: Group = ('Device parameters', (
    flag('--device', type=str, default='cuda', help='device; cuda falls back to the CPU if there is no GPU'),
    switch('--amp', help='automatic mixed precision'),
    flag('--amp-dtype', type=str, default='float16', allowed=one_of('float16', 'bfloat16'), used_with=Given('amp'),
         help='float16 or bfloat16'),
    flag('--model-dtype', type=str, allowed=one_of('float32', 'bfloat16', 'float16'),
         help="dtype of the model's weights: float32, bfloat16, float16"),
    flag('--device-modules', type=str, nargs='+', metavar='NAME', help='Python modules to import for the device'),
    switch('--no-ddp-bb', help='do not broadcast buffers in DDP'),
    switch('--synchronize-step', help='wait for the device at the end of each step'),
    flag('--local_rank', type=int, default=0, help='set by torchrun through the environment'),
))

OPTIMIZER: Group = ('Optimizer parameters', (
    flag('--opt', type=str, default='sgd', metavar='NAME', help='optimizer'),
    flag('--opt-eps', type=float, metavar='EPS', allowed=FROM_0, help='optimizer epsilon'),
    flag('--opt-betas', type=float, nargs='+', metavar='BETA', allowed=SHARE_BELOW_1, help='optimizer betas'),
    flag('--momentum', type=float, default=0.9, metavar='M', allowed=SHARE, help='momentum'),
    flag('--weight-decay', type=float, default=2e-5, allowed=FROM_0, help='weight decay'),
    flag('--clip-grad', type=float, metavar='NORM', allowed=ABOVE_0, help='limit of gradient clipping'),
    flag('--clip-mode', type=str, default='norm', allowed=one_of('norm', 'value', 'agc'), used_with=Given('clip_grad'),
         help='kind of gradient clipping: norm, value or agc'),
    flag('--layer-decay', type=float, allowed=each_number('be in (0, 1]', lambda x: 0 < x <= 1),
         help='learning rate decay per layer'),
    flag('--layer-decay-min-scale', type=float, default=0, allowed=FROM_0, used_with=Given('layer_decay'),
         help='lowest scale of layer decay'),
    flag('--layer-decay-no-opt-scale', type=float, allowed=FROM_0, used_with=Given('layer_decay'),
         help='layers below this scale are not trained'),
    flag('--opt-kwargs', nargs='*', default={}, action=NamedValues, help='key=value arguments of the optimizer'),
))

_LR = Given('lr')
SCHEDULE: Group = ('Learning rate schedule parameters', (
    flag('--sched', type=str, default='cosine', metavar='NAME', help='schedule: cosine, step, plateau, ...'),
    switch('--sched-on-updates', help='step the schedule at each update'),
    flag('--lr', type=float, metavar='LR', allowed=FROM_0, help='learning rate; overrides --lr-base'),
    flag('--lr-base', type=float, default=0.1, metavar='LR', allowed=FROM_0, unused_with=_LR,
         help='learning rate for a global batch of --lr-base-size'),
    flag('--lr-base-size', type=int, default=256, metavar='N', allowed=FROM_1, unused_with=_LR, help='base batch size'),
    flag('--lr-base-scale', type=str, default='', metavar='NAME', allowed=one_of('', 'linear', 'sqrt'),
         unused_with=_LR, help="'linear' or 'sqrt' (default: by optimizer)"),
    flag('--lr-noise', type=float, nargs='+', metavar='PCT', allowed=FROM_0,
         help='start and end of learning rate noise, as shares of the run'),
    flag('--lr-noise-pct', type=float, default=0.67, metavar='PCT', allowed=FROM_0, used_with=Given('lr_noise'),
         help='limit of the noise'),
    flag('--lr-noise-std', type=float, default=1.0, metavar='STD', allowed=FROM_0, used_with=Given('lr_noise'),
         help='standard deviation of the noise'),
    flag('--lr-cycle-mul', type=float, default=1.0, metavar='MUL', allowed=ABOVE_0, help='cycle length multiplier'),
    flag('--lr-cycle-decay', type=float, default=0.5, metavar='MUL', allowed=FROM_0, help='decay per cycle'),
    flag('--lr-cycle-limit', type=int, default=1, metavar='N', allowed=FROM_1, help='number of cycles'),
    flag('--lr-k-decay', type=float, default=1.0, allowed=ABOVE_0, help='k of k-decay'),
    flag('--warmup-lr', type=float, default=1e-5, metavar='LR', allowed=FROM_0,
         help='learning rate at the start of warm-up'),
    flag('--min-lr', type=float, default=0, metavar='LR', allowed=FROM_0, help='lowest learning rate'),
    flag('--epochs', type=int, default=300, metavar='N', allowed=FROM_1, help='number of epochs'),
    flag('--epoch-repeats', type=float, default=0., metavar='N', allowed=FROM_0, help='dataset repeats per epoch'),
    flag('--stop-epoch', type=int, metavar='N', allowed=FROM_1,
         help='end after this many epochs; the schedule stays that of --epochs'),
    flag('--start-epoch', type=int, metavar='N', allowed=FROM_0, help='first epoch, whatever the checkpoint says'),
    flag('--decay-milestones', type=int, nargs='+', default=[90, 180, 270], metavar='N', allowed=FROM_0,
         used_with=Given('sched', values=('multistep',)), help='epochs of decay, for multistep'),
    flag('--decay-epochs', type=float, default=90, metavar='N', allowed=ABOVE_0, help='epochs between decays'),
    flag('--warmup-epochs', type=int, default=5, metavar='N', allowed=FROM_0, help='epochs of warm-up'),
    switch('--warmup-prefix', help='start the schedule after warm-up'),
    flag('--cooldown-epochs', type=int, default=0, metavar='N', allowed=FROM_0,
         help='final epochs at the lowest learning rate'),
    flag('--patience-epochs', type=int, default=10, metavar='N', allowed=FROM_0,
         used_with=Given('sched', values=('plateau',)), help='epochs without improvement before a decay, for plateau'),
    flag('--decay-rate', '--dr', type=float, default=0.1, metavar='RATE', allowed=ABOVE_0, help='decay rate'),
))

LOSS: Group = ('Loss parameters', (
    flag('--loss', type=str, choices=LOSS_TYPES, help='criterion (default: ce, or bce with --task multilabel)'),
    switch('--bce-loss', help='binary cross-entropy (BCE), the same as --loss bce'),
    switch('--bce-sum', help='sum BCE over classes'),
    flag('--bce-target-thresh', type=float, allowed=SHARE, help='threshold that makes BCE targets binary'),
    flag('--bce-pos-weight', type=float, allowed=FROM_0, help='weight of the positive term of BCE'),
    switch('--jsd-loss', help='cross-entropy with Jensen-Shannon divergence over --aug-splits',
           excludes=(SEVERAL_VIEWS,)),
    flag('--smoothing', type=float, allowed=SHARE,
         help='label smoothing (default: 0.1; in the multimix modes 0, but 0.1 with --multimix-strength auto)'),
))

BATCH_NORM: Group = ('Batch norm parameters', (
    flag('--bn-momentum', type=float, allowed=SHARE, help='momentum of batch norms'),
    flag('--bn-eps', type=float, allowed=FROM_0, help='epsilon of batch norms'),
    switch('--sync-bn', help='synchronise batch norms between processes'),
    switch('--split-bn', needs=(Given('aug_splits', 'resplit'),), help='separate batch norms for each view',
           excludes=(SEVERAL_VIEWS, Given('sync_bn'))),
    flag('--dist-bn', type=str, default='reduce', allowed=one_of('', 'broadcast', 'reduce'),
         help="running statistics after an epoch: 'broadcast', 'reduce' or ''"),
))

_EMA = Given('model_ema')
EMA: Group = ('Model exponential moving average parameters', (
    switch('--model-ema', help='keep a moving average of the weights'),
    switch('--model-ema-force-cpu', used_with=_EMA, help='keep the average on the CPU and do not validate it'),
    flag('--model-ema-decay', type=float, default=0.9998, allowed=SHARE, used_with=_EMA, help='decay of the average'),
    switch('--model-ema-warmup', used_with=_EMA, help='warm up the decay'),
))

_TEACHER = Given('kd_model_name')
DISTILLATION: Group = ('Knowledge distillation parameters', (
    flag('--kd-model-name', type=str, metavar='NAME', help='pretrained timm model to distil from',
         needs=(Given('task', values=('classification',)),),
         excludes=(
             Given('mixup_mode', values=OUR_MODES, why='it is a training task of its own'),
             Given('naflex_loader'),
             Given('aug_splits'))),
    flag('--kd-distill-type', type=str, default='logit', choices=('logit', 'feature', 'token'), used_with=_TEACHER,
         help='what is distilled'),
    flag('--kd-loss-type', type=str, default='kl', used_with=_TEACHER, help='loss of logit distillation'),
    flag('--distill-loss-weight', type=float, allowed=FROM_0, used_with=_TEACHER,
         help='weight of the distillation loss'),
    flag('--task-loss-weight', type=float, allowed=FROM_0, used_with=_TEACHER, help='weight of the label loss'),
    flag('--kd-temperature', type=float, default=4.0, allowed=ABOVE_0, used_with=_TEACHER, help='softmax temperature'),
    flag('--kd-student-feature-dim', type=int, metavar='N', allowed=FROM_1, used_with=_TEACHER,
         help="width of the student's features (default: detected)"),
    flag('--kd-teacher-feature-dim', type=int, metavar='N', allowed=FROM_1, used_with=_TEACHER,
         help="width of the teacher's features (default: detected)"),
    flag('--kd-token-distill-type', type=str, default='soft', choices=('soft', 'hard'), used_with=_TEACHER,
         help='targets of the distillation token'),
))

_WANDB = Given('log_wandb')
RUN: Group = ('Run parameters', (
    flag('--seed', type=int, default=42, metavar='S', help='random seed',  # each process adds its rank
         allowed=each_number('be from 0 to 2 ** 32 - 1025', lambda x: 0 <= x <= 2 ** 32 - 1025)),
    flag('--log-interval', type=int, default=50, metavar='N', allowed=FROM_1, help='updates between log lines'),
    flag('--val-interval', type=int, default=1, metavar='N', allowed=FROM_1, help='epochs between validations'),
    flag('--recovery-interval', type=int, default=0, metavar='N', allowed=FROM_0,
         help='updates between recovery checkpoints; 0: none'),
    flag('--max-bad-steps', type=int, default=20, metavar='N', allowed=FROM_0,
         help='end after N updates in a row are skipped for gradients of NaN or infinity; 0: never'),
    flag('--checkpoint-hist', type=int, default=10, metavar='N', allowed=FROM_1, help='checkpoints to keep'),
    flag('--save-epochs', type=int, nargs='+', metavar='N', help='epochs to keep for good, as milestone-N.pth.tar'),
    flag('--output', type=str, default='', metavar='PATH', help='folder of runs (default: ./output/train)'),
    flag('--experiment', type=str, default='', metavar='NAME', help="name of this run's folder"),
    flag('--eval-metric', type=str, default='top1', metavar='NAME', help='metric of the best checkpoint'),
    flag('--tta', type=int, default=0, metavar='N', help='in validation, average the outputs of N images in a row'),
    switch('--log-wandb', help='log to Weights & Biases'),
    flag('--wandb-project', type=str, used_with=_WANDB, help='project in Weights & Biases'),
    flag('--wandb-tags', type=str, nargs='+', default=[], used_with=_WANDB, help='tags in Weights & Biases'),
    flag('--wandb-resume-id', type=str, default='', metavar='ID', used_with=_WANDB, help='run to resume there'),
    switch('--log-tensorboard', help='write TensorBoard events into the output folder'),
    flag('-c', '--config', default='', type=str, metavar='FILE', help='YAML file of default arguments'),
))

TIMM_GROUPS = (MODEL, DEVICE, OPTIMIZER, SCHEDULE, LOSS, BATCH_NORM, EMA, DISTILLATION, RUN)
