"""What the benchmarks compare: every method as flags of train_timm.py."""

METHODS = {
    'plain': '--smoothing 0',
    'label-smoothing': '--smoothing 0.1',
    'mixup': '--smoothing 0 --mixup 1',
    'cutmix': '--smoothing 0 --cutmix 1',
    'mixup-cutmix': '--smoothing 0 --mixup 1 --cutmix 1',
    'mixup-half': '--smoothing 0 --mixup 1 --mixup-prob 0.5',
    'manifold-mixup': '--smoothing 0 --mixup-mode multimix --multimix-length 2 --multimix-concentration example '
                      '--multimix-alpha 1 --multimix-clean-weight 0 --multimix-tuples 128',
    'multimix': '--smoothing 0 --mixup-mode multimix',
    'dense-multimix': '--smoothing 0 --mixup-mode dense-multimix',
    'mixup+multimix': '--smoothing 0 --mixup-mode multimix --mixup 1 --multimix-clean-weight 1',
    'mixup+dense-multimix': '--smoothing 0 --mixup-mode dense-multimix --mixup 1 --multimix-clean-weight 1',
    'mixup-cutmix+dense-multimix':
        '--smoothing 0 --mixup-mode dense-multimix --mixup 1 --cutmix 1 --multimix-clean-weight 1',
    'auto': '--smoothing 0 --mixup-mode dense-multimix --mixup 1 --multimix-input-prob auto --multimix-clean-weight 1',
    'mixupe': '--smoothing 0 --mixup-mode mixupe --mixup 1',
    'multimix-distilled': '--smoothing 0 --mixup-mode multimix --multimix-teacher-decay 0.99',
    'dense-multimix-distilled': '--smoothing 0 --mixup-mode dense-multimix --multimix-teacher-decay 0.99',
}
"""The methods by name. Both MultiMix modes have their default flags.

Manifold mixup (Verma et al. 2019) is that of the last layer: 128 pairs by Beta(1, 1), as many as a batch of the CIFAR
recipes has images. It is MultiMix of length 2, which differs in two ways: every pair has a λ of its own, where the
authors draw one per batch, and pairs are drawn anew, so an image may be in none or in several, where they take a
permutation.
"""

_PAIRS = '--multimix-length 2 --multimix-concentration example --multimix-alpha 1'
_LITERAL = '--multimix-concentration example --multimix-alpha 0.5 2'

KNOBS = {
    f'{mode}-{name}': f'{METHODS[mode]} {flags}'
    for mode in ('multimix', 'dense-multimix')
    for name, flags in {
        'paper': '--multimix-paper',
        'paper-clean': f'{_LITERAL} --multimix-clean-weight 1',
        'mixed-only': '--multimix-clean-weight 0',
        'clean-half': '--multimix-clean-weight 0.5',
        'tuples-64': '--multimix-tuples 64',
        'tuples-1000': '--multimix-tuples 1000',
        'clean-1': '--multimix-clean-weight 1',
        'clean-3': '--multimix-clean-weight 3',  # the default, by the name of runs from before it was
        'alpha-0.5': '--multimix-alpha 0.5',
        'alpha-1': '--multimix-alpha 1',
        'alpha-4': '--multimix-alpha 4',
        'pairs': f'{_PAIRS} --multimix-clean-weight 1',
        'pairs-only': f'{_PAIRS} --multimix-clean-weight 0',
        'cutmix': '--cutmix 1 --mixup-switch-prob 0.5',
        'half-plain': '--mixup-prob 0.5',
        'smoothing': '--smoothing 0.1',
    }.items()
} | {
    f'dense-multimix-attention-{attention}': f'{METHODS["dense-multimix"]} --multimix-attention {attention}'
    for attention in ('none', 'cam')
} | {
    f'{method}-avg-pool': f'{METHODS[method]} --gp avg' for method in ('plain', 'multimix', 'dense-multimix')
} | {
    f'{method}-lr-{rate}': f'{flags} --lr {rate}' for method, flags in METHODS.items()
    for rate in (0.0003, 0.001, 0.003, 0.01, 0.03, 0.3, 0.4, 0.8, 3.2)
}
"""Variants of the two, one knob turned at a time: what the defaults were chosen from. Three methods for the ViT, which
is read out by a class token, with the mean of its patches instead. And every method at other learning rates than those
of the recipes: for AdamW the first six, for SGD the others."""
