"""The parts of train_timm.py."""
from .. import tasks  # noqa: F401  (refuses an older timm)
