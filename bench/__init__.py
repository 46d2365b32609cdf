"""Benchmarks of segmentd: `python -m bench`. Every figure stands beside a reference of the same run."""
