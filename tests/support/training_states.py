"""Helpers of the training tests: read checkpoints as timm does, unpickling only tensors, plain values and the flags;
compare them; find a free port for the processes of a run."""
import argparse
import contextlib
import random
import socket

import torch


def read(path):
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, weights_only=True)


def final_state(folder):
    """Return the part of the last checkpoint that must be equal if two runs end alike."""
    checkpoint = read(folder / 'last.pth.tar')
    keys = ('epoch', 'state_dict', 'state_dict_ema', 'optimizer', 'task_state')
    return {key: checkpoint[key] for key in keys if key in checkpoint}


def assert_identical(a, b):
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_identical(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            assert_identical(x, y)
    else:
        assert a == b


def free_port():
    """Return a free port below those that systems hand out, so that no connection takes it before its process does."""
    for port in random.SystemRandom().sample(range(20_000, 32_000), 100):
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.bind(('127.0.0.1', port))
            return port
    raise RuntimeError('no free port found')
