"""Transfer to object detection: `python -m benchmarks.detection`."""
