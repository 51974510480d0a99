"""Errors that end a run early, and their exit codes."""
import logging
import signal
import sys
import traceback
from typing import Callable, Optional

from ..checks import UsageError

_logger = logging.getLogger('train')
INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM  # as in a shell
_TOO_SMALL = 'Expected more than 1 value per channel when training'  # start of torch's message


class RunFailed(RuntimeError):
    """A run could not finish, although neither the user nor the program made a mistake."""


def exit_code(prog: str, run: Callable[[], Optional[int]]) -> int:
    """Call `run` and return the exit code: its own, or that of an error, which is printed on stderr in one line.

    It is 2 for a user's mistake (a `UsageError`, or batches too small to normalise, which only torch detects), and 1
    for a `RunFailed`. Any other exception is a bug and keeps its traceback.
    """
    try:
        return run() or 0
    except (RunFailed, ValueError) as error:
        message = str(error)
        if message.startswith(_TOO_SMALL):
            message = ('--batch-size, --train-batch-sizes or --input-size is too small for the normalisation layers of '
                       f'this model: {message}')
        elif not isinstance(error, (RunFailed, UsageError)):
            raise
        _logger.debug('Traceback of the error:', exc_info=True)
        print(f'{prog}: error: {message}', file=sys.stderr)
        traceback.clear_frames(error.__traceback__)  # else loaders end with the garbage, 5 seconds a worker
        return 1 if isinstance(error, RunFailed) else 2
