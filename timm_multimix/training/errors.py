"""What ends a run before its time, and with which exit code."""
import logging
import sys
from typing import Callable

from .._checks import UsageError

_logger = logging.getLogger('train')
_TOO_SMALL = 'Expected more than 1 value per channel when training'  # torch's words


class RunFailed(RuntimeError):
    """A run ended without its result, by no mistake of the user's and no error of the program."""


def exit_code(prog: str, run: Callable[[], None]) -> int:
    """Run; the exit code, after one line on stderr where it is not 0.

    It is 2 for a user's mistake (a `UsageError`, or batches too small to normalise, which torch alone can tell), and 1
    for a `RunFailed`. Any other exception is an error of the program and keeps its traceback.
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
        code = 1 if isinstance(error, RunFailed) else 2
    _logger.debug('Where it was found:', exc_info=True)
    print(f'{prog}: error: {message}', file=sys.stderr)
    return code
