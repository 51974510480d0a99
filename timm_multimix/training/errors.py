"""Errors that end a run early, and their exit codes."""
import logging
import sys
from typing import Callable

from .._checks import UsageError

_logger = logging.getLogger('train')
_TOO_SMALL = 'Expected more than 1 value per channel when training'  # start of torch's message


class RunFailed(RuntimeError):
    """A run could not finish, although neither the user nor the program made a mistake."""


def exit_code(prog: str, run: Callable[[], None]) -> int:
    """Call `run` and return the exit code; if it is not 0, print one line on stderr.

    It is 2 for a user's mistake (a `UsageError`, or batches too small to normalise, which only torch detects), and 1
    for a `RunFailed`. Any other exception is a bug and keeps its traceback.
    """
    try:
        run()
        return 0
    except (RunFailed, ValueError) as error:
        message = str(error)
        if message.startswith(_TOO_SMALL):
            message = ('--batch-size, --train-batch-sizes or --input-size is too small for the normalisation layers of '
                       f'this model: {message}')
        elif not isinstance(error, (RunFailed, UsageError)):
            raise
        _logger.debug('Traceback of the error:', exc_info=True)
        print(f'{prog}: error: {message}', file=sys.stderr)
        return 1 if isinstance(error, RunFailed) else 2
