"""A user's mistake, whatever the library below made of it."""
import os
import re
import traceback
from contextlib import contextmanager

from .data.images import BadSample

_PACKAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), '')

_TOO_SMALL = 'Expected more than 1 value per channel when training'  # torch's words


class RunFailed(RuntimeError):
    """A run ended without what it was to make, by no mistake of the user's and no error of the program."""


@contextmanager
def unexpected(what: str):
    """While a run goes on, a ValueError is a mistake of the user's only where this package raised it.

    One that a library raised becomes a RuntimeError, which keeps its traceback; but for batches too small to
    normalise.
    """
    try:
        yield
    except ValueError as error:
        if isinstance(error, BadSample) or _is_ours(error):
            raise
        if str(error).startswith(_TOO_SMALL):
            raise ValueError(
                '--batch-size, --train-batch-sizes or --input-size is too small for the normalisation layers of this '
                f'model: {error}') from error
        raise RuntimeError(f'{type(error).__name__} in {what}: {error}') from error


def _is_ours(error: BaseException) -> bool:
    """Whether the last line of the traceback is of this package; a loader's worker sends its own as text."""
    files = re.findall(r'File "([^"]+)", line', str(error))
    if not files:
        files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    return bool(files) and os.path.abspath(files[-1]).startswith(_PACKAGE)


@contextmanager
def named(what: str):
    """Whatever fails while something is built becomes a ValueError that names it."""
    try:
        yield
    except ValueError as error:
        if str(error).startswith('--'):  # it names a flag of its own
            raise
        raise ValueError(f'{what}: {error}') from error
    except Exception as error:
        raise ValueError(f'{what}: {error or "cannot be used"} ({type(error).__name__})') from error
