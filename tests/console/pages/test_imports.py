"""Lists that people bring by a form: with bad rows, in pieces, packed; and forms that are refused."""

import gzip

from segmentd.domain.access import Role
from segmentd.domain.identifiers import Slug
from segmentd.domain.imports import read_import_id
from segmentd.domain.pages import Limit
from segmentd.imports.work import ImportWork
from tests.console.pages.test_segment import form_token, made
from tests.support.console import ConsoleApp, Page
from tests.support.console_uploads import BOUNDARY, form_with_file, send_form


async def finish(console: ConsoleApp, page: Page) -> str:
    """Does the background job of the import that the page shows; gives its address."""
    path = page.answer.url.path
    number = (await console.service.imports.get(read_import_id(path.rpartition("/")[2]))).number
    work = ImportWork(console.database)
    while not await work.advance(number):
        pass
    return path


async def members(console: ConsoleApp, slug: str) -> list[int]:
    return [*(await console.service.list_members(Slug(slug), None, Limit(100), None)).items]


async def test_a_list_is_brought_and_its_bad_rows_are_shown(console: ConsoleApp) -> None:
    await made(console, "A")
    editor = await console.logged_in(Role.EDITOR, "team", name="Anna")
    empty = await editor.get("/imports?segment=A")
    assert "No list has been brought yet" in empty.text
    assert empty.all("input", id="segment")[0].attributes["value"] == "A"
    token = form_token(empty)

    bad = b"1\n<b>two</b>\n3\n"
    begun = await send_form(editor, form_with_file(token, bad, segment="A", operation="add"), piece=3)
    assert begun.texts("dd")[0] == "checking"
    [again] = begun.all("div", hx_trigger="load delay:2s")
    failed = await editor.get(await finish(console, begun), HX_Request="true")
    assert again.attributes["hx-get"] == begun.answer.url.path
    assert failed.texts("dd")[0] == "failed"
    assert failed.all("div", hx_trigger="load delay:2s") == []
    assert failed.texts("td") == ["2", failed.texts("td")[1], "<b>two</b>"]
    rows = await editor.client.get(f"{begun.answer.url.path}/errors")
    assert rows.json()["line"] == 2
    assert await members(console, "A") == []

    fields = {"segment": "A", "skip_invalid": "true", "reason": "spring", "ttl_seconds": "86400"}
    packed = form_with_file(token, gzip.compress(bad), "list.csv.gz", **fields)
    path = await finish(console, await send_form(editor, packed))
    done = await editor.get(path)
    assert done.texts("dd")[:7] == ["done", "add", "A", "3", "1", "2", "2"]
    assert await members(console, "A") == [1, 3]
    tried = form_with_file(token, b'{"user_id": 7}\n', "x.ndjson", segment="A", dry_run="true")
    dry = await editor.get(await finish(console, await send_form(editor, tried)))
    assert dry.texts("td") == ["7", "A", "would get in"]
    assert await members(console, "A") == [1, 3]
    listed = await editor.get("/imports")
    assert [each.split()[0] for each in listed.texts("span", class_="tag")] == ["done", "done"]

    # What has ended cannot be canceled; what has not can.
    assert (await editor.send(f"{path}/cancel", form_token=token)).status == 409
    waiting = await send_form(editor, form_with_file(token, b"9\n", segment="A"))
    stopped = await editor.send(f"{waiting.answer.url.path}/cancel", form_token=token)
    assert stopped.texts("p", class_="notice box") == ["The import was canceled."]
    assert (await (await console.logged_in(Role.READER)).get("/imports")).all("input", type="file") == []


async def test_a_form_with_a_file_is_refused_with_words_and_begins_no_import(console: ConsoleApp) -> None:
    await made(console, "A")
    editor = await console.logged_in(Role.EDITOR)
    token = form_token(await editor.get("/imports"))
    for status, field, body in (
        (422, "file", form_with_file(token, b"", "", segment="A")),
        (404, "segment", form_with_file(token, b"1\n", segment="B")),
        (422, "segment", form_with_file(token, b"1\n", segment="-")),
        (422, "segment", form_with_file(token, b"1\n", operation="replace")),
        (422, "operation", form_with_file(token, b"1\n", segment="A", operation="drop")),
        (422, "ttl_seconds", form_with_file(token, b"1\n", segment="A", ttl_seconds="x")),
        (422, "reason", form_with_file(token, b"1\n", segment="A", reason="x" * 501)),
    ):
        refused = await send_form(editor, body)
        assert (refused.status, len(refused.all("strong", class_="error"))) == (status, 1), field
        assert refused.all("p", id=f"{field}-told")[0].text
    good = form_with_file(token, b"1\n", segment="A")
    without_file = good[
        : good.index(b'--%b\r\nContent-Disposition: form-data; name="file"' % BOUNDARY.encode())
    ]
    without_file += f"--{BOUNDARY}--\r\n".encode()
    for status, body in (
        (403, form_with_file("wrong", b"1\n", segment="A")),
        (400, good[:60]),
        (400, b"no form"),
        (400, b""),
        (422, without_file),
        (422, form_with_file(token, b"1\n", segment="A", note="x" * 2**16)),
        (422, form_with_file(token, b"1\n", segment="A").replace(b'name="segment"', b'name="form_token"')),
    ):
        assert (await send_form(editor, body)).status == status, body[:99]
    assert (await console.service.imports.list(Limit(10), None)).items == []
    # A body that ends in the middle of the file begins an import, which fails.
    broken = await send_form(editor, good[:-9])
    assert broken.texts("p", class_="error box") == ["The body broke off."]
    assert (await editor.client.post("/console/imports", data={"form_token": token})).status_code == 415
