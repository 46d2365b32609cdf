"""What a database is made from: `tables`, numbered and applied once, and `functions`, edited in place.

Run as a program it writes both as one text, `schema.sql` (`make schema`).
"""

import hashlib
import re
from collections.abc import Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final, NamedTuple

from segmentd import __version__

_HEADER: Final = """\
-- The whole schema of segmentd as one text, for reading, and for making a database by hand.
-- `make schema` writes it from tables/ and functions/; never edit it.
-- What the words mean: docs/data-model.md.
-- The tables of the job queue are not here: procrastinate brings them (storage/job_queue.py).
"""
_RULE: Final = "-" * 119


class SqlFile(NamedTuple):
    """One file.

    Its name begins with its number among the files of its folder: `0001_tables.sql` is number 1.
    """

    number: int
    name: str
    sql: str


class Functions(NamedTuple):
    """All functions and views that this version of segmentd brings, in an order in which they can be made."""

    files: Sequence[SqlFile]

    @property
    def digest(self) -> str:
        """Two versions of segmentd with the same functions have the same digest."""
        return hashlib.sha256("\n".join(file.sql for file in self.files).encode()).hexdigest()

    @property
    def names(self) -> list[str]:
        """The names of the functions."""
        found = re.findall(
            r"^CREATE OR REPLACE FUNCTION (\w+)", "\n".join(file.sql for file in self.files), re.MULTILINE
        )
        return sorted(set(found))


def table_files() -> list[SqlFile]:
    """The numbered files, each of which a database gets once, in order."""
    return _files("tables")


def functions() -> Functions:
    """The functions and views, which a database gets as a whole."""
    return Functions(_files("functions"))


def schema_text() -> str:
    """Everything as one text. A database made from it alone is one that segmentd takes for migrated."""
    folders = {"tables": table_files(), "functions": functions().files}
    parts = [
        f"{_RULE}\n-- {folder}/{file.name}\n\n{file.sql}"
        for folder, files in folders.items()
        for file in files
    ]
    applied = ",\n".join(f"    ({file.number}, '{file.name}')" for file in folders["tables"])
    noted = (
        f"{_RULE}\n-- What `segmentd migrate` notes\n\n"
        f"INSERT INTO schema_migrations (number, name) VALUES\n{applied};\n"
        "INSERT INTO schema_functions (digest, version) VALUES\n"
        f"    ('{functions().digest}', '{__version__}');\n"
    )
    return "\n\n".join([_HEADER, *parts, noted])


def _files(folder: str) -> list[SqlFile]:
    files: list[Traversable] = [*resources.files("segmentd.storage").joinpath(folder).iterdir()]
    return sorted(
        SqlFile(int(match[1]), file.name, file.read_text(encoding="utf-8"))
        for file in files
        if (match := re.fullmatch(r"(\d+)_(\w+)\.sql", file.name))
    )


if __name__ == "__main__":
    Path(__file__).with_name("schema.sql").write_text(schema_text(), encoding="utf-8")
