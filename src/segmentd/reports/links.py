"""Signed links: everyone with a link may read the file, and nobody can forge one (docs/decisions/0019)."""

import hmac
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple

from segmentd.domain.reports import Report, ReportId


class SignedReport(NamedTuple):
    """A report, and the signature of its link."""

    report: Report
    signature: str


def sign(report_id: ReportId, key: bytes) -> str:
    """The signature of a report's link: HMAC-SHA256 in URL-safe Base64, 43 characters."""
    digest = hmac.digest(key, b"segmentd report " + report_id.bytes, sha256)
    return urlsafe_b64encode(digest).rstrip(b"=").decode()


def is_signed(report_id: ReportId, signature: str, keys: Sequence[bytes]) -> bool:
    """Whether one of the keys made this signature. Takes the same time for every wrong signature."""
    good = [hmac.compare_digest(sign(report_id, key).encode(), signature.encode()) for key in keys]
    return any(good)
