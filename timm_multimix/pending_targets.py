"""Targets of the dense drop-in, which the forward of the model fills in."""
import torch

from .checks import UsageError


class PendingTargets(torch.Tensor):
    """Targets without values: every use is an error until the forward fills them in and sets `__class__` to Tensor."""
    problem = (
        "the targets of mode 'dense-multimix' have no values before model(x): pass them to the criterion after it, "
        'unchanged, and move images and labels to their device before mixup_fn(x, y)')
    # what timm, DistributedDataParallel and torch.compile ask of a target before the forward: nothing about its values
    _ALLOWED = frozenset((
        *(getattr(torch.Tensor, name).__get__ for name in (
            '_base', 'device', 'dtype', 'grad', 'is_leaf', 'is_mkldnn', 'is_nested', 'is_quantized', 'is_sparse',
            'layout', 'ndim', 'requires_grad', 'shape')),
        *(getattr(torch.Tensor, name) for name in (
            '__len__', '_is_view', 'dim', 'is_conj', 'is_floating_point', 'is_neg', 'numel', 'size', 'storage_offset',
            'stride', 'untyped_storage')),
    ))

    def __repr__(self) -> str:
        return f'<{self.problem}>'

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func in cls._ALLOWED:
            return super().__torch_function__(func, types, args, kwargs)
        raise UsageError(f'{cls.problem}; got {func.__name__}')


class StaleTargets(PendingTargets):
    problem = (
        'these targets are of an earlier batch, which the model has not run on: call x, y = mixup_fn(x, y), model(x) '
        'and the criterion in turn for every batch')
