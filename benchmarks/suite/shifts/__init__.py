"""Images unlike the training images: attacked, corrupted, or of other classes."""
