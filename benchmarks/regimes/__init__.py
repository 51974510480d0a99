"""Which method helps where: `python -m benchmarks.regimes`."""
