"""Which of timm's models MultiMix supports: `python -m benchmarks.coverage`."""
