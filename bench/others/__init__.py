"""What a user would pick instead, measured beside segmentd: `python -m bench.others --modules FOLDER`."""
