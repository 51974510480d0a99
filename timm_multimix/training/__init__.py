"""The parts of train_timm.py."""
