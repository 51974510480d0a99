"""A progress bar on a terminal."""
import sys
from typing import Any, Iterable, Iterator

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm


def progress(loader: Iterable, description: str, primary: bool) -> Iterator[Any]:
    """Yield the loader's batches, on a terminal with a progress bar below the log lines."""
    if not (primary and sys.stderr.isatty()):
        yield from loader
        return
    with logging_redirect_tqdm():
        yield from tqdm(loader, desc=description, unit='batch', leave=False, dynamic_ncols=True)
