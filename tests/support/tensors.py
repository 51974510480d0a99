"""Random weights and targets, shapes of problems, seeded calls, and the tolerance for results in float64."""
import copy
import pickle

import torch

CLOSE = dict(rtol=1e-9, atol=1e-12)
EXACT = dict(rtol=0., atol=0.)
CLONES = dict(deepcopy=copy.deepcopy, pickle=lambda x: pickle.loads(pickle.dumps(x)))
ANYWHERE = ('chunked', 'reference')  # implementations for any device, dtype and machine
SHAPES = {  # b, m, n, r (None: pooled), c, d
    'pooled': (4, 4, 6, None, 5, 3),
    'pooled, m < b': (5, 2, 7, None, 4, 6),
    'pooled, one example': (1, 1, 3, None, 4, 2),
    'pooled, one tuple': (3, 3, 1, None, 3, 5),
    'pooled, two classes': (6, 3, 5, None, 2, 4),
    'dense': (3, 3, 5, 4, 4, 2),
    'dense, m < b': (5, 3, 2, 3, 3, 7),
    'dense, one position': (3, 3, 4, 1, 5, 2),
    'dense, one of all': (1, 1, 1, 1, 2, 1),
}


def random_weights(shape, length=None):
    """Draw rows of the simplex with `length` random members, without the package's samplers."""
    keys = torch.rand(shape, dtype=torch.float64)
    member = keys >= keys.topk(length or shape[-1], dim=-1).values[..., -1:]
    weights = member * (0.05 + torch.rand(shape, dtype=torch.float64))
    return weights / weights.sum(dim=-1, keepdim=True)


def random_target(kind, batch_size, num_classes):
    if kind == 'hard':
        return torch.randint(num_classes, (batch_size,))
    if kind == 'soft':
        return torch.rand(batch_size, num_classes, dtype=torch.float64).softmax(dim=-1)
    return (torch.rand(batch_size, num_classes) < 0.5).double()  # rows that do not sum to 1, some all zero


def seeded(function, *args, seed=3, **kwargs):
    torch.manual_seed(seed)
    return function(*args, **kwargs)
