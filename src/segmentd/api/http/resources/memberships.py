"""A user's segments: read, change, explain, history; and the segments of many users."""

from collections.abc import Sequence
from typing import Annotated, Final, TypeVar

from litestar import Response, Router, get, post
from litestar.enums import MediaType
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import JSONBody, QueryParameter
from msgspec import Struct

from segmentd.api.http.documented import problems
from segmentd.api.http.edge.compression import UNCOMPRESSED
from segmentd.api.http.edge.guard import actor
from segmentd.api.http.strict_json import StrictJson
from segmentd.api.http.types import (
    INSTANT,
    AnyRequest,
    CursorParameter,
    Ids,
    IdsParameter,
    InstantParameter,
    InstantText,
    LimitParameter,
    RequestBody,
    SlugParameter,
    UseCases,
    UserIdParameter,
    WrittenId,
    instant,
    instant_text,
)
from segmentd.domain.errors import AnswerTooLarge, Gone, SegmentNotFound, read
from segmentd.domain.identifiers import Slug, SlugValue, UserId
from segmentd.domain.instants import InstantValue, Span, in_utc, rfc3339
from segmentd.domain.memberships import (
    Addition,
    Because,
    Cause,
    Change,
    Changed,
    Event,
    Evidence,
    Membership,
    Operation,
    SlugsOfChange,
    Source,
    TtlValue,
    UsersOfLookup,
)
from segmentd.domain.pages import USUAL_PAGE
from segmentd.domain.segments import shortest
from segmentd.domain.texts import Reason, ReasonValue

Content = TypeVar("Content")

# The hot path answers these as well, with the same bytes.
AS_ON_THE_HOT_PATH: Final = {UNCOMPRESSED: True}


class Term(RequestBody, frozen=True):
    """A segment with a term: until an instant, or for a number of seconds."""

    slug: SlugValue
    until: InstantValue | None = None
    ttl_seconds: TtlValue | None = None


class MembershipChange(RequestBody, frozen=True):
    """The segments to add and to remove: all or nothing."""

    add: SlugsOfChange[SlugValue | Term] = ()
    remove: SlugsOfChange[SlugValue] = ()
    reason: ReasonValue | None = None

    def to_change(self, pointer: str = "", reason: Reason | None = None) -> Change:
        """In the words of the domain. `pointer` is where the change stands; `reason` is for one without.

        Raises Invalid for a time out of the years 1 to 9999.
        """
        return Change(
            [_addition(f"{pointer}/add/{index}", item) for index, item in enumerate(self.add)],
            self.remove,
            reason if self.reason is None else self.reason,
        )


class ChangedBody(Struct, frozen=True):
    """The segments that the user is in now, and what the change did."""

    user_id: WrittenId
    segments: Sequence[Slug]
    added: Sequence[Slug]
    removed: Sequence[Slug]
    updated: Sequence[Slug]
    unchanged: Sequence[Slug]

    @classmethod
    def of(cls, changed: Changed, ids: Ids) -> "ChangedBody":
        return cls(
            ids.write(changed.user_id),
            changed.segments,
            changed.added,
            changed.removed,
            changed.updated,
            changed.unchanged,
        )


class MembershipBody(Struct, frozen=True):
    """A segment that the user is in: its source, since when, and until when."""

    slug: Slug
    source: Source
    since: InstantText
    until: InstantText | None

    @classmethod
    def of(cls, membership: Membership) -> "MembershipBody":
        return cls(
            membership.slug, membership.source, rfc3339(membership.since), instant_text(membership.until)
        )


class UserSegmentsBody(Struct, frozen=True):
    """The segments that a user is in, by slug; with `detail=true` each with its source and times."""

    user_id: WrittenId
    segments: Sequence[Slug | MembershipBody]


class LookupRequest(RequestBody, frozen=True):
    """The users whose segments are asked for."""

    user_ids: UsersOfLookup[WrittenId]


class UserFound(Struct, frozen=True):
    """The segments that one user is in, by slug."""

    user_id: WrittenId
    segments: Sequence[Slug]


class LookupBody(Struct, frozen=True):
    """The segments of many users, in the order asked."""

    users: Sequence[UserFound]


class ExplanationBody(Struct, frozen=True):
    """Whether the user is in, and why; null where a field does not apply. Covered: `bucket < threshold`."""

    user_id: WrittenId
    slug: Slug
    member: bool
    because: Because
    since: InstantText | None
    until: InstantText | None
    percent: float | None
    bucket: int | None
    threshold: int | None
    salt: str | None

    @classmethod
    def of(cls, user_id: WrittenId, slug: Slug, evidence: Evidence) -> "ExplanationBody":
        because = evidence.because()
        rolled_out = evidence.percent is not None
        return cls(
            user_id,
            slug,
            because.member,
            because,
            instant_text(evidence.last_change),
            instant_text(evidence.until),
            None if evidence.percent is None else shortest(evidence.percent),
            evidence.bucket if rolled_out else None,
            evidence.threshold,
            str(evidence.salt) if rolled_out else None,
        )


class EventBody(Struct, frozen=True):
    """One time that the user got in or out."""

    segment: Slug
    operation: Operation
    at: InstantText
    source: Source
    cause: Cause
    actor: str
    reason: str | None
    until: InstantText | None
    on_behalf_of: str | None

    @classmethod
    def of(cls, event: Event) -> "EventBody":
        return cls(
            event.segment,
            event.operation,
            rfc3339(event.at),
            event.source,
            event.cause,
            event.actor,
            event.reason,
            instant_text(event.until),
            event.on_behalf_of,
        )


class HistoryPage(Struct, frozen=True, omit_defaults=True):
    """A user's events, oldest first. `begins_at`: what was before is removed; absent where all is kept."""

    user_id: WrittenId
    events: Sequence[EventBody]
    next_cursor: str | None
    begins_at: str | None = None


@get("/users/{user_id:str}/segments", opt=AS_ON_THE_HOT_PATH, responses=problems(Gone))
async def get_user_segments(
    user_id: UserIdParameter,
    service: UseCases,
    *,
    detail: Annotated[bool, QueryParameter(description="each with its source and times")] = False,
    at: InstantParameter = None,
    ids: IdsParameter = Ids.NUMBER,
) -> Response[UserSegmentsBody]:
    """Read the segments that a user is in, now or at an instant of the past, or with their source."""
    written = ids.write(user_id)
    if not detail and at is None:
        age, segments = await service.segments_of(user_id)
        return _aged(UserSegmentsBody(written, segments), age)
    memberships = await service.segments_at(user_id, instant("at", at))
    if detail:
        return _aged(UserSegmentsBody(written, [MembershipBody.of(membership) for membership in memberships]))
    return _aged(UserSegmentsBody(written, [*dict.fromkeys(membership.slug for membership in memberships)]))


@post(
    "/users/{user_id:str}/segments",
    status_code=200,
    dto=StrictJson[MembershipChange],
    opt=AS_ON_THE_HOT_PATH,
    responses=problems(SegmentNotFound),
)
async def change_user_segments(
    request: AnyRequest,
    user_id: UserIdParameter,
    data: JSONBody[MembershipChange],
    service: UseCases,
    ids: IdsParameter = Ids.NUMBER,
) -> ChangedBody:
    """Add and remove segments of a user in one transaction."""
    changed = await service.change_memberships(user_id, data.to_change(), actor(request))
    return ChangedBody.of(changed, ids)


@get("/users/{user_id:str}/segments/{slug:str}", responses=problems(SegmentNotFound, Gone))
async def explain_membership(
    user_id: UserIdParameter,
    slug: SlugParameter,
    service: UseCases,
    at: InstantParameter = None,
    ids: IdsParameter = Ids.NUMBER,
) -> ExplanationBody:
    """Explain why a user is or is not in a segment, now or at an instant of the past."""
    evidence = await service.explain(user_id, slug, instant("at", at))
    return ExplanationBody.of(ids.write(user_id), slug, evidence)


@get("/users/{user_id:str}/history", responses=problems(Gone))
async def get_history(
    user_id: UserIdParameter,
    service: UseCases,
    begin: Annotated[str | None, QueryParameter(name="from", description=INSTANT)] = None,
    end: Annotated[str | None, QueryParameter(name="to", description=INSTANT)] = None,
    limit: LimitParameter = USUAL_PAGE,
    cursor: CursorParameter = None,
    ids: IdsParameter = Ids.NUMBER,
) -> HistoryPage:
    """List every time that the user got in or out, oldest first, from `from` to before `to`."""
    page = await service.list_events(user_id, Span(instant("from", begin), instant("to", end)), limit, cursor)
    return HistoryPage(
        ids.write(user_id),
        [EventBody.of(event) for event in page.items],
        page.next_cursor,
        instant_text(page.begins_at),
    )


@post(
    "/lookup",
    status_code=200,
    dto=StrictJson[LookupRequest],
    opt=AS_ON_THE_HOT_PATH,
    responses={
        200: ResponseSpec(
            LookupBody, generate_examples=False, description="Request fulfilled, document follows"
        ),
        **problems(AnswerTooLarge),
    },
)
async def lookup(
    data: JSONBody[LookupRequest], service: UseCases, ids: IdsParameter = Ids.NUMBER
) -> Response[bytes]:
    """Read the segments of up to 1,000 users, in the order asked. A user may be named several times.

    The slugs of one answer have 16 MiB at most: where they would have more, ask for fewer users at a time.
    """
    user_ids = [ids.read(written, f"/user_ids/{index}") for index, written in enumerate(data.user_ids)]
    age, segments = await service.look_up(user_ids)
    body = lookup_body(user_ids, segments, b'"%d"' if ids is Ids.STRING else b"%d")
    return Response(body, media_type=MediaType.JSON, headers={"Age": str(age)})


def lookup_body(user_ids: Sequence[UserId], segments: Sequence[bytes], written: bytes = b"%d") -> bytes:
    """`LookupBody` as JSON; `segments` are the slugs of each user as JSON strings, with commas between.

    `written` is the form of an id.
    """
    if not user_ids:
        return b'{"users":[]}'
    # The slugs go between these parts; the join copies them once.
    begin = b'{"user_id":' + written + b',"segments":['
    between_two = b"]}," + begin
    between = [between_two % user_id for user_id in user_ids]
    parts = [b""] * (2 * len(user_ids) + 1)
    parts[0:-1:2], parts[1::2] = between, segments
    parts[0] = b'{"users":[' + begin % user_ids[0]
    parts[-1] = b"]}]}"
    return b"".join(parts)


def _addition(pointer: str, item: Slug | Term) -> Addition:
    if not isinstance(item, Term):
        return Addition(item)
    until = None if item.until is None else read(in_utc, item.until, f"{pointer}/until")
    return Addition(item.slug, until, item.ttl_seconds)


def _aged(body: Content, age: int = 0) -> Response[Content]:
    """An answer with its age in whole seconds; 0 if it is from the database."""
    return Response(body, headers={"Age": str(age)})


memberships_router = Router(
    "/",
    tags=["A user's segments"],
    route_handlers=[get_user_segments, change_user_segments, explain_membership, get_history, lookup],
)
