"""`ListUserSegments` straight from the replica, as over HTTP; the general handler takes what is unusual.

Only the plain case is answered: from a replica that is fresh enough, to a caller who may read it. Nothing
here waits, so the limits of running calls and of their time are not for it.
"""

import time
from collections.abc import Collection

from segmentd.api.grpc.calls import AUTHORIZATION, REQUEST_ID, Context, Handler
from segmentd.api.grpc.generated import segmentd_pb2 as pb
from segmentd.api.grpc.written import FIELDS, aged, written_id
from segmentd.api.http.edge.request_ids import RequestIds
from segmentd.auth.authenticator import Authenticator
from segmentd.domain.errors import SegmentdError
from segmentd.observability.tally import Tally
from segmentd.replica.behind import Outdated
from segmentd.replica.files import Unusable
from segmentd.replica.replica import Replica


class HotReads:
    """Reads of one user, for callers who may read; calls with `unusual` metadata are not for it."""

    def __init__(self, replica: Replica, authenticator: Authenticator, unusual: Collection[str] = ()) -> None:
        self._replica = replica
        self._authenticator = authenticator
        self._unusual = frozenset(unusual)
        self._ids = RequestIds()

    def before(self, general: Handler, tally: Tally | None) -> Handler:
        """The handler of the method: answers itself, or leaves the call to the general one."""

        async def handle(request: pb.ListUserSegmentsRequest, context: Context) -> bytes:
            begun = time.perf_counter_ns()
            answer = self._read(request.user_id, context)
            if answer is None:
                return await general(request, context)
            if tally is not None:
                tally.add(time.perf_counter_ns() - begun)
            return answer

        return handle

    def _read(self, user_id: int, context: Context) -> bytes | None:
        moment = self._replica.moment()
        if user_id <= 0 or moment is None:
            return None
        age, now = moment
        given: dict[str, str | bytes] = {}
        for name, value in context.invocation_metadata() or ():
            if name in self._unusual or (name == AUTHORIZATION and name in given):
                return None
            given[name] = value
        try:
            # Every role may read, so every known caller is admitted; the general handler answers refusals.
            self._authenticator.admit(_bytes(given.get(AUTHORIZATION)))
            before = written_id(user_id)
            try:
                answer = self._replica.segments(user_id, None, FIELDS, before, aged(age), now)
            except Outdated as outdated:
                if (older := self._replica.older(outdated)) is None:
                    return None
                answer = self._replica.segments(user_id, older.version, FIELDS, before, aged(older.age), now)
        except (SegmentdError, Unusable):
            return None
        request_id = self._ids.id(_bytes(given.get(REQUEST_ID)))
        context.set_trailing_metadata(((REQUEST_ID, request_id.decode()),))
        return answer


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value
