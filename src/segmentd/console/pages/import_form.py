"""The form that brings a list. The file is its last field, so that all others are known before it comes."""

from typing import Final

import htpy as h

from segmentd.api.http.types import RequestBody
from segmentd.console.forms import (
    Attributes,
    Form,
    Refusal,
    choice,
    converted,
    field,
    name_input,
    post_form,
    whole,
)
from segmentd.console.language import Text
from segmentd.console.visit import Visit
from segmentd.console.words import imports as words
from segmentd.console.words import user as user_words
from segmentd.domain.identifiers import SlugValue
from segmentd.domain.imports import FileFormat, ImportOperation, ImportOrder
from segmentd.domain.memberships import TtlValue
from segmentd.domain.texts import ReasonValue

PATH: Final = "/imports"
_JSON_ENDINGS: Final = (".ndjson", ".jsonl")
_GZIP_ENDING: Final = ".gz"


class _Fields(RequestBody, frozen=True):
    """What the fields say of rows that say nothing themselves."""

    operation: ImportOperation = ImportOperation.ADD
    segment: SlugValue | None = None
    ttl_seconds: TtlValue | None = None
    reason: ReasonValue | None = None


def ordered(form: Form, file_name: str) -> ImportOrder:
    """The import that the fields ask for, of a file with this name. Raises Invalid."""
    values = form.given("operation", "reason")
    if segment := form.text("segment").strip():
        values["segment"] = segment
    if term := form.text("ttl_seconds"):
        values["ttl_seconds"] = int(term) if term in words.TERMS else term
    fields = converted(values, _Fields)
    plain = file_name.lower().removesuffix(_GZIP_ENDING)
    return ImportOrder(
        fields.operation,
        fields.segment,
        None,
        fields.ttl_seconds,
        fields.reason,
        bool(form.text("dry_run")),
        bool(form.text("skip_invalid")),
        FileFormat.NDJSON if plain.endswith(_JSON_ENDINGS) else FileFormat.CSV,
    )


def is_packed(file_name: str) -> bool:
    """Whether the name of a file says that gzip has to be undone."""
    return file_name.lower().endswith(_GZIP_ENDING)


def bringing(visit: Visit, refusal: Refusal) -> h.Node:
    """The form. The browser sends it by itself: the script has no part in sending a long file."""
    sent = refusal.form
    segment = name_input(sent.text("segment"), required=False)
    operations = {each.value: text for each, text in words.OPERATIONS.items()}
    operation = choice(visit, operations, sent.text("operation"))
    term = choice(visit, words.TERMS, sent.text("ttl_seconds"))

    def reason(own: Attributes) -> h.VoidElement:
        return h.input(own, maxlength="500", value=sent.text("reason"), autocomplete="off")

    return [
        h.h2("#new")[visit.say(words.BRING)],
        post_form(
            visit,
            PATH,
            whole(refusal),
            field(visit, words.OPERATION, "operation", operation, refusal, words.OPERATION_HINT),
            field(visit, words.SEGMENT, "segment", segment, refusal, words.SEGMENT_HINT),
            field(visit, words.TERM, "ttl_seconds", term, refusal),
            field(visit, words.REASON, "reason", reason, refusal, user_words.REASON_HINT),
            _box(visit, words.DRY_RUN_FIELD, "dry_run", sent),
            _box(visit, words.SKIP_FIELD, "skip_invalid", sent),
            field(
                visit,
                words.FILE,
                "file",
                lambda own: h.input(own, type="file", required=True),
                refusal,
                words.FILE_HINT,
            ),
            h.button(".main")[visit.say(words.BRING_BUTTON)],
            class_="card",
            enctype="multipart/form-data",
            hx_boost="false",
        ),
    ]


def _box(visit: Visit, text: Text, name: str, sent: Form) -> h.Element:
    return h.p[
        h.label[
            h.input(type="checkbox", name=name, value="true", checked=bool(sent.text(name))),
            " ",
            visit.say(text),
        ]
    ]
