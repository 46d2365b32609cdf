"""Answers with the segments of users as bytes: a message for each would take longer than finding them."""

from collections.abc import Iterable, Sequence
from typing import Final

from google.protobuf.duration_pb2 import Duration

from segmentd.api.grpc.generated import segmentd_pb2 as pb

# Slugs whose bytes are remembered; beyond, all are forgotten.
_MOST_REMEMBERED: Final = 100_000
_USERS: Final = bytes([pb.LookUpResponse.USERS_FIELD_NUMBER << 3 | 2])


class _Fields(dict[bytes, bytes]):
    """The field `segments` with one slug, by the slug as a JSON string."""

    def __missing__(self, slug: bytes) -> bytes:
        if len(self) >= _MOST_REMEMBERED:
            self.clear()
        field = self[slug] = pb.UserSegments(segments=[slug[1:-1].decode()]).SerializeToString()
        return field


_field: Final = _Fields().__getitem__


def user_segments(user_id: int, slugs: Sequence[bytes], age: int) -> bytes:
    """A UserSegments; slugs are JSON strings, the age is in seconds."""
    head = pb.UserSegments(user_id=user_id, age=Duration(seconds=age)).SerializeToString()
    return b"".join([head, *map(_field, slugs)])  # a message may have its fields in any order


def look_up_response(user_ids: Iterable[int], found: Iterable[bytes], age: int) -> bytes:
    """A LookUpResponse; for each user the slugs as JSON strings, with commas between."""
    parts = [pb.LookUpResponse(age=Duration(seconds=age)).SerializeToString()]
    for user_id, slugs in zip(user_ids, found, strict=True):
        head = pb.UserSegments(user_id=user_id).SerializeToString()
        user = b"".join([head, *map(_field, slugs.split(b","))]) if slugs else head
        parts += (_USERS, _varint(len(user)), user)
    return b"".join(parts)


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while rest := number >> 7:
        encoded.append(number & 0x7F | 0x80)
        number = rest
    encoded.append(number)
    return bytes(encoded)
