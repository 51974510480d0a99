"""Results as tables, figures and blocks of pages: `python -m benchmarks.report FOLDER...`."""
