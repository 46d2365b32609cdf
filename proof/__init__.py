"""Long proofs: what production does to segmentd, and what must hold meanwhile. Run as `python -m proof`."""
