"""What `benchmarks.evaluate` measures, one file each: any checkpoint and any images in, numbers out.

A measure has `add_arguments(parser)`, the names of these arguments in `SETTINGS`, and `measure(subject, args)`.
"""
