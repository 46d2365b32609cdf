"""The form of a segment's percentage: it shows what another one would do, and only then sets it."""

import re
from typing import Final

import htpy as h

from segmentd.console.forms import NONE_REFUSED, Attributes, Refusal, field, post_form
from segmentd.console.language import Text
from segmentd.console.visit import Visit
from segmentd.console.words import segment as words
from segmentd.domain.counts import Preview
from segmentd.domain.errors import read
from segmentd.domain.identifiers import Slug
from segmentd.domain.segments import Percent, Segment, exact_percent, shortest

_NUMBER: Final = re.compile(r"[0-9]{1,9}([.,][0-9]{1,12})?")


def read_percent(text: str, pointer: str = "/percent") -> Percent | None:
    """A percentage as people write it, with a point or a comma; empty is none. Raises Invalid."""
    return read(_percent, text.strip(), pointer) if text.strip() else None


def _percent(text: str) -> Percent:
    if not _NUMBER.fullmatch(text):
        raise ValueError("must be a number such as 12.5")
    return exact_percent(float(text.replace(",", ".")))


def in_field(percent: Percent | None) -> str:
    """A percentage as a field has it."""
    return "" if percent is None else str(shortest(percent))


def written(visit: Visit, percent: Percent | None, none: Text = words.NONE) -> str:
    """A percentage as a text has it."""
    return visit.say(none) if percent is None else f"{shortest(percent)} %"


def asking(visit: Visit, segment: Segment, preview: h.Node, refusal: Refusal) -> h.Node:
    """The form that asks what a percentage would do, and the place where the answer comes."""
    path = visit.link(f"/segments/{segment.slug}/preview")
    refused = refusal if "percent" in refusal.form.values else NONE_REFUSED
    wanted = in_field(segment.percent) if refused is NONE_REFUSED else refused.form.text("percent")

    def number(own: Attributes) -> h.VoidElement:
        return h.input(own, inputmode="decimal", maxlength="20", value=wanted, autocomplete="off")

    return [
        h.h2("#percentage")[
            visit.say(words.CHANGE_PERCENT if visit.may("update_segment") else words.PREVIEW)
        ],
        h.form(
            ".card",
            method="get",
            action=path,
            hx_get=path,
            hx_target="#preview",
            hx_trigger="submit, input delay:300ms",
            hx_sync="this:replace",
        )[
            field(visit, words.NEW_PERCENT, "percent", number, refused, words.PERCENT_HINT),
            # The script shows it and ties it to the field; without script the field is enough.
            h.input(
                type="range",
                min="0",
                max="100",
                step="0.5",
                value=wanted.replace(",", ".") or "0",
                aria_label=visit.say(words.SLIDER),
                data_field="percent",
                hidden=True,
            ),
            h.button[visit.say(words.PREVIEW)],
        ],
        h.div("#preview", aria_live="polite")[preview],
    ]


def previewed(visit: Visit, slug: Slug, preview: Preview) -> h.Node:
    """What a percentage would do, and the form that sets it, which says what was there when it was shown."""
    before, after = preview.percent_before, preview.percent_after
    figures = (
        (words.WOULD_ENTER, preview.enter),
        (words.WOULD_LEAVE, preview.leave),
        (words.WOULD_STAY, preview.stay),
    )
    return h.div(".card")[
        h.p[h.strong[visit.say(words.WOULD, before=written(visit, before), after=written(visit, after))]],
        h.dl(".facts")[
            ([h.dt[visit.say(text)], h.dd[visit.counted(number, words.USERS)]] for text, number in figures)
        ],
        preview.sample
        and h.p[
            h.small[visit.say(words.SAMPLE), ": "],
            ([h.a(href=visit.link(f"/users/{each}"))[str(each)], " "] for each in preview.sample),
        ],
        _setting(visit, slug, before, after),
    ]


def _setting(visit: Visit, slug: Slug, before: Percent | None, after: Percent | None) -> h.Node:
    if not visit.may("update_segment"):
        return None
    if before == after:
        return h.p[visit.say(words.SAME)]
    button = (
        visit.say(words.END_PERCENT) if after is None else visit.say(words.SET, percent=written(visit, after))
    )
    return post_form(
        visit,
        f"/segments/{slug}/percent",
        h.input(type="hidden", name="percent", value=in_field(after)),
        h.input(type="hidden", name="seen", value=in_field(before)),
        h.button(".main")[button],
    )
