"""The forms that describe, rename and delete a segment."""

from collections.abc import Sequence
from hashlib import blake2b

import htpy as h

from segmentd.console.forms import NONE_REFUSED, Attributes, Refusal, field, name_input, post_form, whole
from segmentd.console.language import Text
from segmentd.console.visit import Visit
from segmentd.console.words import segment as words
from segmentd.domain.segments import Segment

DESCRIPTION, NEW_SLUG, TYPED = "description", "new_slug", "typed_slug"


def fingerprint(segment: Segment) -> str:
    """Of the description that a form shows: fields that are not seen would lose its line ends."""
    return blake2b(segment.description.encode(), digest_size=16).hexdigest()


def forms(visit: Visit, segment: Segment, refusal: Refusal) -> Sequence[h.Node]:
    """The three forms, folded up; one that was refused is open."""
    return [
        _described(visit, segment, _for(refusal, "describe")),
        _renamed(visit, segment, _for(refusal, "rename")),
        visit.may("delete_segment") and _deleted(visit, segment, _for(refusal, "delete")),
    ]


def _for(refusal: Refusal, action: str) -> Refusal:
    return refusal if refusal.form.text("action") == action else NONE_REFUSED


def _described(visit: Visit, segment: Segment, refusal: Refusal) -> h.Element:
    text = segment.description if refusal is NONE_REFUSED else refusal.form.text(DESCRIPTION)

    def control(own: Attributes) -> h.Element:
        return h.textarea(own, rows="4", maxlength="2000")["\n", text]  # HTML drops a first line end

    return _folded(
        visit,
        words.DESCRIBE,
        refusal,
        post_form(
            visit,
            f"/segments/{segment.slug}/description",
            whole(refusal),
            h.input(type="hidden", name="action", value="describe"),
            h.input(type="hidden", name="seen", value=fingerprint(segment)),
            field(visit, words.DESCRIPTION, DESCRIPTION, control, refusal),
            h.button(".main")[visit.say(words.SAVE)],
            class_="card",
        ),
    )


def _renamed(visit: Visit, segment: Segment, refusal: Refusal) -> h.Element:
    control = name_input(refusal.form.text(NEW_SLUG) or segment.slug)
    return _folded(
        visit,
        words.RENAME,
        refusal,
        post_form(
            visit,
            f"/segments/{segment.slug}/slug",
            whole(refusal),
            h.input(type="hidden", name="action", value="rename"),
            field(visit, words.NEW_SLUG, NEW_SLUG, control, refusal, words.RENAME_HINT),
            h.button(".main")[visit.say(words.RENAME)],
            class_="card",
        ),
    )


def _deleted(visit: Visit, segment: Segment, refusal: Refusal) -> h.Element:
    return _folded(
        visit,
        words.DELETE,
        refusal,
        post_form(
            visit,
            f"/segments/{segment.slug}/delete",
            whole(refusal),
            h.input(type="hidden", name="action", value="delete"),
            h.p[visit.say(words.DELETE_HINT)],
            field(visit, words.TYPE_SLUG, TYPED, name_input(), refusal),
            h.button(".danger")[visit.say(words.DELETE_BUTTON)],
            class_="card",
        ),
    )


def _folded(visit: Visit, title: Text, refusal: Refusal, form: h.Element) -> h.Element:
    return h.details(open=refusal is not NONE_REFUSED)[h.summary[visit.say(title)], form]
