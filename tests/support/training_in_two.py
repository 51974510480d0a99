"""Run train_timm.py in one of the two processes of test_processes.py, and write the state in which it ends.

    python -m tests.support.training_in_two FILE STOP_AT FLAGS...

SIGTERM is sent in batch STOP_AT, counted from 0; -1 means never.
"""
import hashlib
import json
import os
import signal
import sys

import train_timm
from timm_multimix import strength
from timm_multimix.training import loop


def main(path, stop_at, *flags):
    tasks, seen, train_step = [], [], loop.train_step

    def watched(training, *args):
        tasks[:] = [training.task]
        if len(seen) == int(stop_at):
            os.kill(os.getpid(), signal.SIGTERM)
        seen.append(training)
        return train_step(training, *args)

    loop.train_step = watched
    strength.NOT_FITTED, strength.FITTED = 0.01, 0.2  # so few batches reach no higher accuracy
    code = train_timm.main(list(flags))
    digest = hashlib.sha256()
    for value in tasks[0].get_eval_model().state_dict().values():
        digest.update(value.numpy().tobytes())
    state = tasks[0].input_mixing.strength.get_extra_state()
    with open(f'{path}-{os.environ["RANK"]}', 'w') as file:
        json.dump(dict(state, weights=digest.hexdigest(), batches=len(seen)), file)
    return code


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:]))
