"""Prints docs/configuration.md from the settings in the code; `make configuration` writes the page."""

from segmentd.config import described

_BEGINNING = """\
# Configuration

A flag overrides the environment, the environment overrides a TOML file (`--config`, or `SEGMENTD_CONFIG`),
and the file overrides the default. `segmentd check` shows each setting in force and its source. `make
configuration` writes this page from the code.

| flag | environment variable | default | meaning |
| --- | --- | --- | --- |
"""

_END = """
Every command takes every flag. The file has the names in small letters: `port = 9090`, `serve_stale =
true`. `DATABASE_URL` works too, where nothing else names a database. `segmentd check` never shows passwords
and keys. Set them by the environment or the file, because every user of a machine can read the flags of a
process.
"""


def page() -> str:
    """The page in Markdown."""
    rows = (
        f"| `{flag}` | `{variable}` | {f'`{default}`' if default else '–'} | {description} |\n"
        for flag, variable, default, description in described()
    )
    return "".join([_BEGINNING, *rows, _END])


if __name__ == "__main__":
    print(page(), end="")
