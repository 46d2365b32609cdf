"""Forms: what a browser sends, what was wrong with it, and how a field shows that."""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, TypeVar
from urllib.parse import parse_qsl

import htpy as h
import msgspec

from segmentd.api.http.content import media_type
from segmentd.api.http.edge.own_pages import is_of_page
from segmentd.api.http.types import AnyRequest
from segmentd.api.problems import problem_of
from segmentd.console.language import Text
from segmentd.console.visit import Visit
from segmentd.domain.errors import Denied, Fault, Invalid, SegmentdError
from segmentd.domain.wording import fault_of

Body = TypeVar("Body")

Attributes = Mapping[str, h.Attribute]
"""Those that a field gives to its control."""

Control = Callable[[Attributes], h.VoidElement | h.Element]
"""Makes what a field is filled in with, such as `lambda own: h.input(own, maxlength="9")`."""

FORM_TOKEN: Final = "form_token"  # noqa: S105 - the name of a field
MOST_FIELDS: Final = 64
_URLENCODED: Final = "application/x-www-form-urlencoded"


class Form(NamedTuple):
    """The fields that were sent, by name; a field that was left empty is not among them."""

    values: Mapping[str, str]

    def text(self, name: str) -> str:
        """What a field has; empty if it has nothing."""
        return self.values.get(name, "")

    def given(self, *names: str) -> dict[str, object]:
        """Those of the fields that have something."""
        return {name: self.values[name] for name in names if name in self.values}


NOTHING: Final = Form({})


async def read_form(request: AnyRequest, visit: Visit, *, programs_may: bool = False) -> Form:
    """The form in the body, which is from a page of this visit, or perhaps from a program that read no page.

    Raises Invalid, FormExpired, HTTPException (413, 415).
    """
    media_type(request.headers.getall("content-type", []), [_URLENCODED])
    try:
        pairs = parse_qsl((await request.body()).decode("ascii"), errors="strict", max_num_fields=MOST_FIELDS)
    except ValueError:
        raise Invalid(Fault("", f"must be a form of {MOST_FIELDS} fields at most, in UTF-8")) from None
    values = dict(pairs)
    if len(values) < len(pairs):
        raise Invalid(Fault("", "has a field twice"))
    form = Form(values)
    if not programs_may or FORM_TOKEN in form.values or is_of_page(request):
        visit.check_form_token(form.text(FORM_TOKEN))
    return form


def converted(values: Mapping[str, object], body_type: type[Body]) -> Body:
    """The values as the body of an API's call, so that its rules hold here too. Raises Invalid."""
    try:
        return msgspec.convert(values, body_type)
    except msgspec.ValidationError as error:
        raise Invalid(fault_of(str(error))) from None


class Refusal(NamedTuple):
    """A form that was refused: what was sent, what is wrong with its fields, and with the whole."""

    form: Form = NOTHING
    status: int = 200
    of_fields: Mapping[str, str] = {}
    of_whole: str | None = None

    @classmethod
    def of(
        cls,
        error: SegmentdError,
        form: Form,
        fields: Mapping[str, str] | None = None,
        field: str | None = None,
    ) -> "Refusal":
        """For an error of a use case.

        `fields` has the field for each pointer that differs from it, `field` takes an error without one.
        Raises the error again if the form cannot help: the caller may not do that.
        """
        if isinstance(error, Denied):
            raise error
        status = problem_of(type(error)).status
        faults = error.faults if isinstance(error, Invalid) else ()
        places = {"/" + name: name for name in form.values} | dict(fields or {})
        placed = {places[fault.pointer]: fault.detail for fault in faults if fault.pointer in places}
        rest = "; ".join(fault.detail for fault in faults if fault.pointer not in places)
        if not faults and field is not None:
            return cls(form, status, {field: error.detail})
        return cls(form, status, placed, rest or (None if placed else error.detail))


NONE_REFUSED: Final = Refusal()


def post_form(visit: Visit, path: str, *content: h.Node, **attributes: str) -> h.Element:
    """A form that changes something: it has the token that proves that it is from this page."""
    hidden = h.input(type="hidden", name=FORM_TOKEN, value=visit.form_token())
    return h.form(method="post", action=visit.link(path), **attributes)[hidden, *content]


def field(
    visit: Visit,
    label: Text,
    name: str,
    control: Control,
    refusal: Refusal = NONE_REFUSED,
    hint: Text | None = None,
    *,
    form: str = "",
) -> h.Element:
    """A control with its label, a hint, and what was wrong with what was sent.

    `form` tells fields apart that stand several times on a page.
    """
    identity = f"{form}-{name}" if form else name
    wrong = refusal.of_fields.get(name)
    attributes: Attributes = {
        "id": identity,
        "name": name,
        "aria-invalid": "true" if wrong else None,
        "aria-describedby": f"{identity}-told" if wrong or hint else None,
    }
    return h.div(class_="field wrong" if wrong else "field")[
        h.label(for_=identity)[visit.say(label)],
        control(attributes),
        (wrong or hint)
        and h.p(".told", id=f"{identity}-told")[
            wrong and h.strong(".error", lang="en")[_sentence(wrong)], hint and h.small[visit.say(hint)]
        ],
    ]


def name_input(value: str | None = None, *, required: bool = True) -> Control:
    """Takes the name of something, such as a slug, which a browser neither completes nor spells."""
    return lambda own: h.input(
        own, required=required, maxlength="128", value=value, autocomplete="off", spellcheck="false"
    )


def choice(visit: Visit, options: Mapping[str, Text], chosen: str) -> Control:
    """Offers values, each with its words."""
    return lambda own: h.select(own)[
        (h.option(value=value, selected=value == chosen)[visit.say(text)] for value, text in options.items())
    ]


def whole(refusal: Refusal) -> h.Node:
    """What was wrong with the form as a whole."""
    return refusal.of_whole and h.p(".error.box", role="alert", lang="en")[_sentence(refusal.of_whole)]


def _sentence(detail: str) -> str:
    return detail[:1].upper() + detail[1:]
