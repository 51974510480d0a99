"""Which of timm's models MultiMix serves: `python -m benchmarks.coverage`."""
