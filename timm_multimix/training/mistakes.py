"""A user's mistake, whatever the library below made of it."""
from contextlib import contextmanager


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
