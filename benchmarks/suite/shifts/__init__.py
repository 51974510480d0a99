"""Images unlike those of the training: attacked, corrupted, of other classes."""
