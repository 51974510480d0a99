"""The report of a recipe, with its tables and figures: `python -m benchmarks.report`."""
