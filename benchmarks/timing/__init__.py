"""Times and memory of the loss and of training steps: `python -m benchmarks.timing loss`, or `step`."""
