"""What train_timm.py is made of."""
