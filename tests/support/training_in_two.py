"""Run by test_processes in each of two processes: train_timm.py, and at its end what this process has.

    python -m tests.support.training_in_two FILE STOP_AT FLAGS...

SIGTERM is sent in the batch STOP_AT, counted from 0; -1 for never.
"""
import hashlib
import json
import os
import signal
import sys

import train_timm
from timm_multimix import input_share
from timm_multimix.training import loop


def main(path, stop_at, *flags):
    tasks, seen, forward_backward = [], [], loop._forward_backward

    def watched(training, *args):
        tasks[:] = [training.task]
        if len(seen) == int(stop_at):
            os.kill(os.getpid(), signal.SIGTERM)
        seen.append(training)
        return forward_backward(training, *args)

    loop._forward_backward = watched
    input_share._TARGET = 0.02  # in so few batches nothing else is above it
    code = train_timm.main(list(flags))
    digest = hashlib.sha256()
    for value in tasks[0].get_eval_model().state_dict().values():
        digest.update(value.numpy().tobytes())
    share = tasks[0].input_mixing.found_share.state_dict()
    with open(f'{path}-{os.environ["RANK"]}', 'w') as file:
        json.dump(dict(share, weights=digest.hexdigest(), batches=len(seen)), file)
    return code


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:]))
