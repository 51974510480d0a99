"""The flags of timm's script for the model, training and output, with its names, types and defaults."""
from timm.loss import LOSS_TYPES

from .flag import (
    ABOVE_0,
    SHARE_BELOW_1,
    Given,
    Group,
    NamedValues,
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
from .timm_data_flags import SEVERAL_VIEWS

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
    flag('--model-kwargs', nargs='*', default={}, action=NamedValues, help='key=value arguments of the model'),
    number('--head-init-scale', help='scale the initial weights of the classifier'),
    number('--head-init-bias', help='initial bias of the classifier'),
    number('--drop', default=0.0, metavar='PCT', allowed=SHARE_BELOW_1, help='dropout'),
    number('--drop-connect', metavar='PCT', allowed=SHARE_BELOW_1, help='old name of --drop-path'),
    number('--drop-path', metavar='PCT', allowed=SHARE_BELOW_1, help='stochastic depth'),
    number('--drop-block', metavar='PCT', allowed=SHARE_BELOW_1, help='DropBlock'),
    text('--fuser', default='', metavar='NAME', allowed=one_of('', 'te', 'old', 'legacy', 'nvfuser', 'nvf'),
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
    switch('--amp', help='automatic mixed precision'),
    text('--amp-dtype', default='float16', allowed=one_of('float16', 'bfloat16'), help='float16 or bfloat16'),
    text('--model-dtype', allowed=one_of('float32', 'bfloat16', 'float16'), help='dtype of the weights'),
    text('--device-modules', nargs='+', metavar='NAME', help='Python modules to import for the device'),
    switch('--no-ddp-bb', help='do not broadcast buffers in DDP'),
    switch('--synchronize-step', help='wait for the device at the end of each step'),
    flag('--local_rank', type=int, default=0, help='set by torchrun through the environment'),
))

OPTIMIZER: Group = ('Optimizer parameters', (
    text('--opt', default='sgd', metavar='NAME', help='optimizer'),
    amount('--opt-eps', metavar='EPS', help='optimizer epsilon'),
    number('--opt-betas', nargs='+', metavar='BETA', allowed=SHARE_BELOW_1, help='optimizer betas'),
    share('--momentum', default=0.9, metavar='M', help='momentum'),
    amount('--weight-decay', default=2e-5, help='weight decay'),
    number('--clip-grad', metavar='NORM', allowed=ABOVE_0, help='limit of gradient clipping'),
    text('--clip-mode', default='norm', allowed=one_of('norm', 'value', 'agc'), help='kind of gradient clipping'),
    number('--layer-decay', allowed=each_number('be in (0, 1]', lambda x: 0 < x <= 1), help='rate decay per layer'),
    amount('--layer-decay-min-scale', default=0, help='lowest scale of layer decay'),
    amount('--layer-decay-no-opt-scale', help='layers below this scale are not trained'),
    flag('--opt-kwargs', nargs='*', default={}, action=NamedValues, help='key=value arguments of the optimizer'),
))

SCHEDULE: Group = ('Learning rate schedule parameters', (
    text('--sched', default='cosine', metavar='NAME', help='schedule: cosine, step, plateau, ...'),
    switch('--sched-on-updates', help='step the schedule at each update'),
    amount('--lr', metavar='LR', help='learning rate; overrides --lr-base'),
    amount('--lr-base', default=0.1, metavar='LR', help='learning rate for a global batch of --lr-base-size'),
    count('--lr-base-size', default=256, help='base batch size'),
    text('--lr-base-scale', default='', allowed=one_of('', 'linear', 'sqrt'), help='linear or sqrt (default: by opt)'),
    amount('--lr-noise', nargs='+', metavar='PCT', help='start and end of learning rate noise, as shares of the run'),
    amount('--lr-noise-pct', default=0.67, metavar='PCT', help='limit of the noise'),
    amount('--lr-noise-std', default=1.0, metavar='STD', help='standard deviation of the noise'),
    number('--lr-cycle-mul', default=1.0, metavar='MUL', allowed=ABOVE_0, help='cycle length multiplier'),
    amount('--lr-cycle-decay', default=0.5, metavar='MUL', help='decay per cycle'),
    count('--lr-cycle-limit', default=1, help='number of cycles'),
    number('--lr-k-decay', default=1.0, allowed=ABOVE_0, help='k of k-decay'),
    amount('--warmup-lr', default=1e-5, metavar='LR', help='learning rate at the start of warm-up'),
    amount('--min-lr', default=0, metavar='LR', help='lowest learning rate'),
    count('--epochs', default=300, help='number of epochs'),
    amount('--epoch-repeats', default=0., metavar='N', help='dataset repeats per epoch'),
    count('--stop-epoch', help='end after this many epochs; the schedule stays that of --epochs'),
    count_0('--start-epoch', help='first epoch, whatever the checkpoint says'),
    count_0('--decay-milestones', nargs='+', default=[90, 180, 270], help='epochs of decay, for multistep'),
    number('--decay-epochs', default=90, metavar='N', allowed=ABOVE_0, help='epochs between decays'),
    count_0('--warmup-epochs', default=5, help='epochs of warm-up'),
    switch('--warmup-prefix', help='start the schedule after warm-up'),
    count_0('--cooldown-epochs', default=0, help='final epochs at the lowest learning rate'),
    count_0('--patience-epochs', default=10, help='epochs without improvement before a decay, for plateau'),
    number('--decay-rate', '--dr', default=0.1, metavar='RATE', allowed=ABOVE_0, help='decay rate'),
))

LOSS: Group = ('Loss parameters', (
    text('--loss', choices=LOSS_TYPES, help='criterion (default: ce, or bce with --task multilabel)'),
    switch('--bce-loss', help='binary cross-entropy (BCE), the same as --loss bce'),
    switch('--bce-sum', help='sum BCE over classes'),
    share('--bce-target-thresh', help='threshold that makes BCE targets binary'),
    amount('--bce-pos-weight', help='weight of the positive term of BCE'),
    switch('--jsd-loss', help='cross-entropy with JS divergence over --aug-splits', excludes=(SEVERAL_VIEWS,)),
    share('--smoothing',
          help='label smoothing (default: 0.1; in the multimix modes 0, but 0.1 with --multimix-strength auto)'),
))

BATCH_NORM: Group = ('Batch norm parameters', (
    share('--bn-momentum', help='momentum of batch norms'),
    amount('--bn-eps', help='epsilon of batch norms'),
    switch('--sync-bn', help='synchronise batch norms between processes'),
    switch('--split-bn', needs=(Given('aug_splits', 'resplit'),), help='separate batch norms for each view',
           excludes=(SEVERAL_VIEWS, Given('sync_bn'))),
    text('--dist-bn', default='reduce', allowed=one_of('', 'broadcast', 'reduce'),
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
    number('--kd-temperature', default=4.0, allowed=ABOVE_0, help='softmax temperature'),
    count('--kd-student-feature-dim', help="width of the student's features (default: detected)"),
    count('--kd-teacher-feature-dim', help="width of the teacher's features (default: detected)"),
    text('--kd-token-distill-type', default='soft', choices=('soft', 'hard'), help='targets of the distillation token'),
))

RUN: Group = ('Run parameters', (
    flag('--seed', type=int, default=42, metavar='S', help='random seed',  # each process adds its rank
         allowed=each_number('be from 0 to 2 ** 32 - 1025', lambda x: 0 <= x <= 2 ** 32 - 1025)),
    count('--log-interval', default=50, help='updates between log lines'),
    count('--val-interval', default=1, help='epochs between validations'),
    count_0('--recovery-interval', default=0, help='updates between recovery checkpoints; 0: none'),
    count_0('--max-bad-steps', default=20, help='end after N updates in a row with gradients of NaN; 0: never'),
    count('--checkpoint-hist', default=10, help='checkpoints to keep'),
    flag('--save-epochs', type=int, nargs='+', metavar='N', help='epochs to keep for good, as milestone-N.pth.tar'),
    text('--output', default='', metavar='PATH', help='folder of runs (default: ./output/train)'),
    text('--experiment', default='', metavar='NAME', help="name of this run's folder"),
    text('--eval-metric', default='top1', metavar='NAME', help='metric of the best checkpoint'),
    flag('--tta', type=int, default=0, metavar='N', help='in validation, average the outputs of N images in a row'),
    switch('--log-wandb', help='log to Weights & Biases'),
    text('--wandb-project', help='project in Weights & Biases'),
    text('--wandb-tags', nargs='+', default=[], help='tags in Weights & Biases'),
    text('--wandb-resume-id', default='', metavar='ID', help='run to resume there'),
    switch('--log-tensorboard', help='write TensorBoard events into the output folder'),
    text('-c', '--config', default='', metavar='FILE', help='YAML file of default arguments'),
))

TIMM_GROUPS = (MODEL, DEVICE, OPTIMIZER, SCHEDULE, LOSS, BATCH_NORM, EMA, DISTILLATION, RUN)
