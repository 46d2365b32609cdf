"""Prints docs/configuration.md from the settings in the code; `make configuration` writes the page."""

from segmentd.config import described

_BEGINNING = """\
# Configuration

A flag outweighs the environment, that outweighs a TOML file (`--config`, or `SEGMENTD_CONFIG`), and that
the default. `segmentd check` shows each setting in force, and where it came from. `make configuration`
writes this page from the code.

| flag | environment variable | default | meaning |
| --- | --- | --- | --- |
"""

_END = """
Every command takes every flag. The file has the names in small letters: `port = 9090`, `serve_stale =
true`. A plain `DATABASE_URL` is taken too, where nothing else names a database. Passwords and keys are
never shown. Give them by the environment or the file, since every user of a machine can read the flags of a
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
