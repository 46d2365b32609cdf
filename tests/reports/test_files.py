import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from obstore.store import LocalStore, MemoryStore, ObjectStore

from segmentd.domain.errors import ReportNotFound
from segmentd.reports.files import ReportFiles

MIB = 2**20


@pytest.fixture(params=["a local folder", "a folder by its URL", "an object store"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> ReportFiles:
    stores: dict[str, ObjectStore] = {
        "a local folder": LocalStore(tmp_path),
        "an object store": MemoryStore(),
    }
    if request.param == "a folder by its URL":
        return ReportFiles.at(tmp_path.as_uri(), tmp_path / "elsewhere")
    return ReportFiles(stores[request.param])


async def chunks(*parts: bytes, then: Exception | None = None) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
    if then is not None:
        raise then


async def content(files: ReportFiles, name: str, begin: int, end: int) -> bytes:
    return b"".join([chunk async for chunk in files.read(name, begin, end)])


def names(folder: Path) -> list[str]:
    """The files below a folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


async def test_what_was_written_is_read_in_whole_and_in_part(files: ReportFiles) -> None:
    await files.write("r/1.csv", chunks(b"abc", b"", b"defgh"))
    assert await content(files, "r/1.csv", 0, 8) == b"abcdefgh"
    assert await content(files, "r/1.csv", 2, 5) == b"cde"
    assert await content(files, "r/1.csv", 7, 8) == b"h"


async def test_a_file_of_many_parts_is_read_as_it_was_written(files: ReportFiles) -> None:
    parts = [bytes([number]) * MIB for number in range(20)]
    await files.write("r/1.csv", chunks(*parts))
    assert await content(files, "r/1.csv", 0, 20 * MIB) == b"".join(parts)
    assert await content(files, "r/1.csv", 9 * MIB - 1, 9 * MIB + 1) == b"\x08\x09"


async def test_an_empty_file_is_a_file(files: ReportFiles) -> None:
    await files.write("r/1.csv", chunks(b""))
    assert await content(files, "r/1.csv", 0, 0) == b""


async def test_an_error_among_the_chunks_is_passed_on_and_leaves_no_file(
    files: ReportFiles, tmp_path: Path
) -> None:
    for error in (OSError(28, "No space left on device"), RuntimeError("what the database says")):
        for size in (1, 9 * MIB):
            with pytest.raises(type(error)) as raised:
                await files.write("r/1.csv", chunks(b"x" * size, then=error))
            assert raised.value is error
            with pytest.raises(ReportNotFound):
                await content(files, "r/1.csv", 0, 1)
    assert names(tmp_path) == []


async def test_a_write_that_is_broken_off_leaves_what_was_there(files: ReportFiles) -> None:
    await files.write("r/1.csv", chunks(b"whole"))
    begun = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"x" * 9 * MIB
        begun.set()
        await asyncio.Event().wait()

    writing = asyncio.create_task(files.write("r/1.csv", endless()))
    await begun.wait()
    assert await content(files, "r/1.csv", 0, 5) == b"whole"
    writing.cancel()
    await asyncio.wait([writing])

    assert writing.cancelled()
    assert await content(files, "r/1.csv", 0, 5) == b"whole"


async def test_the_reason_for_a_missing_file_is_its_error(files: ReportFiles) -> None:
    with pytest.raises(ReportNotFound, match="report_store"):
        await content(files, "r/1.csv", 0, 1)


async def test_a_folder_is_deleted_with_all_that_is_in_it_and_nothing_else(
    files: ReportFiles, tmp_path: Path
) -> None:
    for name in ("r/1.csv", "r/2.csv", "rr/1.csv"):
        await files.write(name, chunks(b"abc"))

    await files.delete("r")
    await files.delete("r")

    for name in ("r/1.csv", "r/2.csv"):
        with pytest.raises(ReportNotFound):
            await content(files, name, 0, 3)
    assert await content(files, "rr/1.csv", 0, 3) == b"abc"
    assert names(tmp_path) in ([], ["rr/1.csv"])


def killed_build(folder: Path) -> None:
    """Leaves behind what the store leaves of files that are not complete."""
    folder.mkdir()
    for number in (1, 2):
        Path(folder, f"1.csv#{number}").write_bytes(b"half")


async def test_what_a_killed_build_left_is_cleared_by_the_next_one_and_by_deletion(tmp_path: Path) -> None:
    files = ReportFiles.at(None, tmp_path)
    killed_build(tmp_path / "r")
    killed_build(tmp_path / "other")

    await files.write("r/2.csv", chunks(b"abc"))
    assert names(tmp_path) == ["other/1.csv#1", "other/1.csv#2", "r/2.csv"]

    await files.delete("other")
    assert names(tmp_path) == ["r/2.csv"]
