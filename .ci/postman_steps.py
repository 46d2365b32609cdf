"""What a request of the Postman collection is made of, and the kinds that come several times."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

VOICE = "AVITO_VOICE_MESSAGES"
VAS = "AVITO_PERFORMANCE_VAS"
D30 = "AVITO_DISCOUNT_30"
D50 = "AVITO_DISCOUNT_50"
D10 = "AVITO_DISCOUNT_10"
LIST = "AVITO_NIGHTLY_LIST"


@dataclass(frozen=True)
class Step:
    """A request, and what has to be true of its answer."""

    name: str
    operation: str
    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: object = None
    status: Sequence[int] = (200,)
    tests: Mapping[str, str] = field(default_factory=dict)
    """What is promised, and the JavaScript that looks; `answer` is the body."""
    before: str = ""
    """JavaScript that runs before the request."""
    link: str = ""
    """The whole address, where an earlier answer had it."""


def forget(kind: str, name: str) -> Step:
    """Removes what an earlier run may have left."""
    if kind == "user":
        return Step(
            f"Forget user {name}",
            "delete_user",
            path={"user_id": name},
            query={"erase": "true"},
            status=(204, 404),
        )
    return Step(f"Forget {name}", "delete_segment", path={"slug": name}, status=(204, 404))


def clean() -> list[Step]:
    """Removes all that this collection makes."""
    return [
        *(forget("segment", slug) for slug in (VOICE, VAS, D30, D50, D10, LIST, "AVITO_CALLS")),
        *(forget("user", user_id) for user_id in ("1000", "1002", "1005")),
    ]


def create(slug: str, **fields: object) -> Step:
    """Makes a segment."""
    return Step(
        f"Create {slug}",
        "create_segment",
        body={"slug": slug, **fields},
        status=(201,),
        tests={
            "the segment is the one that was asked for": f'pm.expect(answer.slug).to.eql("{slug}");',
            "Location leads to it": f'pm.expect(pm.response.headers.get("Location")).to.match(/{slug}$/);',
        },
    )


def problem(kind: str) -> dict[str, str]:
    """The answer is a problem of this kind."""
    return {f"the problem is {kind}": f'pm.expect(answer.type).to.eql("/problems/{kind}");'}


def segments(*slugs: str) -> dict[str, str]:
    """The user is in exactly these."""
    return {"the user is in exactly these segments": f"pm.expect(answer.segments).to.eql({[*slugs]});"}


def change(name: str, user_id: str, body: Mapping[str, object], **outcomes: Sequence[str]) -> Step:
    """Adds and removes, with exactly these outcomes."""
    return Step(
        name,
        "change_user_segments",
        path={"user_id": user_id},
        body=body,
        tests={
            f"{outcome}: {', '.join(slugs) or 'none'}": f"pm.expect(answer.{outcome}).to.eql({[*slugs]});"
            for outcome, slugs in outcomes.items()
        },
    )
