"""Checkpoints that are whole or not there, whenever the process is killed."""
import os
import shutil

from timm.utils import CheckpointSaver


class AtomicCheckpointSaver(CheckpointSaver):
    """timm's CheckpointSaver, but a name never stops pointing to a whole file.

    timm removes the old file before it puts the new one in its place, so a kill between the two leaves neither. Here
    the new file takes the name in one step, and is on the disk before it does.
    """

    def _save(self, save_path, epoch, metric=None):
        super()._save(save_path, epoch, metric)
        with open(save_path, 'rb+') as file:
            os.fsync(file.fileno())

    def _replace(self, src, dst):
        os.replace(src, dst)

    def _duplicate(self, src, dst):
        copy = f'{dst}.tmp'
        if os.path.exists(copy):  # of a run that was killed right here
            os.remove(copy)
        try:
            os.link(src, copy)
        except OSError:  # a file system without hard links
            shutil.copy2(src, copy)
        os.replace(copy, dst)
