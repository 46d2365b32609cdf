from uuid import UUID

from segmentd.domain.reports import ReportId
from segmentd.reports.links import is_signed, sign

REPORT = ReportId(UUID("c0ffee00-0000-4000-8000-000000000001"))
OTHER = ReportId(UUID("c0ffee00-0000-4000-8000-000000000002"))
KEY = bytes(range(32))


def test_a_signature_stays_what_it_is_over_releases() -> None:
    # By openssl dgst -sha256 -mac HMAC -macopt hexkey:0001…1f, of "segmentd report " and the id as bytes.
    assert sign(REPORT, KEY) == "9diHL2rlB9GjkbScBscZZYA3C-YU6UZ2Ty4KgLQQ0FQ"


def test_a_signature_is_good_for_its_report_and_its_key_alone() -> None:
    signature = sign(REPORT, KEY)
    assert is_signed(REPORT, signature, [KEY])
    assert not is_signed(OTHER, signature, [KEY])
    assert not is_signed(REPORT, signature, [b"another key"])
    assert not is_signed(REPORT, signature, [])


def test_a_signature_by_any_of_the_keys_is_good() -> None:
    assert is_signed(REPORT, sign(REPORT, KEY), [b"newest", KEY, b"oldest"])


def test_what_is_no_signature_at_all_is_not_good() -> None:
    signature = sign(REPORT, KEY)
    for wrong in ("", " ", "ü", "\0", signature[:-1], f"{signature}=", f" {signature}", signature.lower()):
        assert not is_signed(REPORT, wrong, [KEY]), wrong
