"""Which checkpoint of a folder --resume auto goes on with."""
import glob
import logging
import os
import re
import zipfile
from typing import List, Optional, Tuple

from timm.utils.checkpoint_saver import load_checkpoint_metadata

from ..._checks import UsageError

_logger = logging.getLogger('train')


def newest_checkpoint(folder: str) -> Optional[str]:
    """The whole checkpoint that is furthest, or None where there is none of any name.

    A file that is cut off or has changed on the disk is passed over, with a warning that names it.

    Raises:
        ValueError: If there are checkpoints, but none is whole: starting afresh would write over them.
    """
    damaged: List[str] = []
    found: List[Tuple[Tuple[int, int], str]] = []
    for name in ('last', 'recovery-*'):
        for path in sorted(glob.glob(os.path.join(glob.escape(folder), f'{name}.pth.tar'))):
            progress = _progress(path, damaged)
            if progress is not None:
                found.append((progress, path))
    for _, path in sorted(found, reverse=True):
        if _is_whole(path, damaged):
            return path
    older = glob.glob(os.path.join(glob.escape(folder), 'checkpoint-*.pth.tar'))
    for path in sorted(older, key=_number, reverse=True):
        if _progress(path, damaged) is not None and _is_whole(path, damaged):
            return path
    if damaged:
        raise UsageError(f'--resume auto: no checkpoint in {folder} can be read: {"; ".join(damaged)}')
    return None


def _number(path: str) -> int:
    match = re.search(r'-(\d+)\.pth\.tar$', path)
    return int(match.group(1)) if match else -1


def _progress(path: str, damaged: List[str]) -> Optional[Tuple[int, int]]:
    """The epoch, and the batch within it, that a run would go on with; None if the file does not tell."""
    try:
        metadata = load_checkpoint_metadata(path)
        position = (metadata.get('saver') or {}).get('position')
        if position is not None:
            return position['epoch'], position['batches']
        if os.path.basename(path).startswith('recovery-'):  # timm's own: where in the epoch it was is not known
            return None
        return metadata['epoch'] + 1, 0
    except Exception as error:  # whatever a damaged file makes of the unpickler
        _pass_over(path, damaged, error)
        return None


def _is_whole(path: str, damaged: List[str]) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
        if bad is None:
            return True
        error: Exception = ValueError(f'checksum of {bad}')
    except Exception as reason:
        error = reason
    _pass_over(path, damaged, error)
    return False


def _pass_over(path: str, damaged: List[str], error: Exception) -> None:
    reason = (str(error).split('\n')[0] or type(error).__name__)[:200]
    damaged.append(f'{os.path.basename(path)} ({reason})')
    _logger.warning(f'--resume auto: {path} is damaged ({reason}); an older checkpoint is looked for.')
