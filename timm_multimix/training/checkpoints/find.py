"""The checkpoint in a folder that --resume auto continues from."""
import glob
import logging
import os
import zipfile
from contextlib import contextmanager
from typing import Iterator, List, Optional, Tuple

from timm.utils.checkpoint_saver import load_checkpoint_metadata

from ...checks import UsageError

_logger = logging.getLogger('train')


def newest_checkpoint(folder: str) -> Optional[str]:
    """Return the intact checkpoint that is furthest in training, or None if there are no checkpoints.

    A truncated or corrupted file is skipped, with a warning that names it.

    Raises:
        ValueError: If there are checkpoints, but none is intact: a fresh start would overwrite them.
    """
    damaged: List[str] = []
    for names in (('last', 'recovery-*'), ('checkpoint-*',)):
        found: List[Tuple[Tuple[int, int], str]] = []
        for name in names:
            for path in sorted(glob.glob(os.path.join(glob.escape(folder), f'{name}.pth.tar'))):
                with _passing_over(path, damaged):
                    progress = _progress(path)
                    if progress is not None:
                        found.append((progress, path))
        for _, path in sorted(found, reverse=True):
            with _passing_over(path, damaged):
                _check_whole(path)
                return path
    if damaged:
        raise UsageError(f'--resume auto: no checkpoint in {folder} can be read: {"; ".join(damaged)}')
    return None


def _progress(path: str) -> Optional[Tuple[int, int]]:
    """The epoch, and the batch within it, from which a run would continue; None if the file does not say."""
    metadata = load_checkpoint_metadata(path)
    position = (metadata.get('saver') or {}).get('position')
    if position is not None:
        return position['epoch'], position['batches']
    # timm's own recovery files do not say where in the epoch they were written
    return None if os.path.basename(path).startswith('recovery-') else (metadata['epoch'] + 1, 0)


def _check_whole(path: str) -> None:
    with zipfile.ZipFile(path) as archive:
        bad = archive.testzip()
    if bad is not None:
        raise ValueError(f'wrong checksum of {bad}')


@contextmanager
def _passing_over(path: str, damaged: List[str]) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a damaged file can raise anything
        reason = (str(error).split('\n')[0] or type(error).__name__)[:200]
        damaged.append(f'{os.path.basename(path)} ({reason})')
        _logger.warning(f'--resume auto: {path} is damaged ({reason}); looking for an older checkpoint.')
