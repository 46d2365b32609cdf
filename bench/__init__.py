"""Benchmarks of segmentd: `python -m bench`. Every figure has a reference measured in the same run."""
