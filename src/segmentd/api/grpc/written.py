"""Answers with the segments of users as bytes: a message for each would take longer than finding them."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from google.protobuf.duration_pb2 import Duration

from segmentd.api.grpc.generated import segmentd_pb2 as pb
from segmentd.replica.catalog import Form

# Slugs whose bytes are remembered; beyond, all are forgotten.
_MOST_REMEMBERED: Final = 100_000
_USER_ID: Final = bytes([pb.UserSegments.USER_ID_FIELD_NUMBER << 3])
_USERS: Final = bytes([pb.LookUpResponse.USERS_FIELD_NUMBER << 3 | 2])


def field(slug: bytes) -> bytes:
    """The field `segments` of a UserSegments with one slug, which is a JSON string."""
    return pb.UserSegments(segments=[slug[1:-1].decode()]).SerializeToString()


class _Fields(dict[bytes, bytes]):
    def __missing__(self, slug: bytes) -> bytes:
        if len(self) >= _MOST_REMEMBERED:
            self.clear()
        self[slug] = field(slug)
        return self[slug]


_field_of: Final = _Fields().__getitem__


FIELDS: Final = Form(field, b"")
"""The fields `segments` of a UserSegments. A message may have its fields in any order."""


def written_id(user_id: int) -> bytes:
    """The field `user_id` of a UserSegments."""
    return _USER_ID + _varint(user_id)


def look_up_response(user_ids: Iterable[int], found: Iterable[bytes], age: int) -> bytes:
    """A LookUpResponse; for each user the slugs as JSON strings, with commas between."""
    parts = [pb.LookUpResponse(age=Duration(seconds=age)).SerializeToString()]
    for user_id, slugs in zip(user_ids, found, strict=True):
        fields = map(_field_of, slugs.split(b",") if slugs else ())
        user = b"".join([written_id(user_id), *fields])
        parts += (_USERS, _varint(len(user)), user)
    return b"".join(parts)


@lru_cache
def aged(age: int) -> bytes:
    """The field `age` of a UserSegments, of so many seconds."""
    return pb.UserSegments(age=Duration(seconds=age)).SerializeToString()


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while rest := number >> 7:
        encoded.append(number & 0x7F | 0x80)
        number = rest
    encoded.append(number)
    return bytes(encoded)
