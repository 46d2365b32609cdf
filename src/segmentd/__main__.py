"""`python -m segmentd` is the `segmentd` command."""

from segmentd.cli import main

if __name__ == "__main__":
    main()
