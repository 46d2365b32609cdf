import hashlib
import hmac
import json
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segmentd.auth.jwt import JwtRules, JwtVerifier, Verified
from segmentd.auth.tokens import TOKEN_BYTES
from segmentd.domain.access import Principal, Role
from segmentd.domain.errors import Unauthenticated
from tests.support.issuer import ALGORITHMS, CLAIMS, NOW, Issuer, base64url, issuer, without

LEEWAY: Final = 30
SECRET: Final = issuer("HS256")
UNKNOWN_KEY: Final = "The JWT is not signed by a key that this service knows."
MALFORMED: Final = "The JWT is malformed."
URL_SAFE: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
MANY: Final = settings(max_examples=100, database=None)


def verifier(
    key: str = SECRET.key,
    issuer: str | None = None,
    audience: str | None = None,
    leeway_seconds: float = LEEWAY,
    role_claim: str = "role",
) -> JwtVerifier:
    made = JwtVerifier.of(
        JwtRules(
            key=key, issuer=issuer, audience=audience, leeway_seconds=leeway_seconds, role_claim=role_claim
        )
    )
    assert made is not None
    return made


def verifier_of_set(file: Path, *jwks: dict[str, object]) -> JwtVerifier:
    file.write_text(json.dumps({"keys": jwks}))
    made = JwtVerifier.of(JwtRules(jwks_file=file, leeway_seconds=LEEWAY, role_claim="role"))
    assert made is not None
    return made


def refusal(token: str, by: JwtVerifier | None = None, now: float = NOW) -> str:
    """The sentence with which a JWT is refused."""
    with pytest.raises(Unauthenticated) as refused:
        (by or verifier()).verify(token, now)
    return refused.value.detail


def joined(header: object, payload: object, signature: str = "") -> str:
    parts = (base64url(json.dumps(part).encode()) for part in (header, payload))
    return ".".join([*parts, signature])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_jwt_of_each_algorithm_proves_its_subject_by_a_key_that_is_set(algorithm: str) -> None:
    signer = issuer(algorithm)

    verified = verifier(signer.key).verify(signer.token(kid="any"), NOW)

    assert verified == Verified(Principal("importer", Role.EDITOR), NOW + 60 + LEEWAY)


@pytest.mark.parametrize("header", [{}, {"kid": "one"}])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_jwt_of_each_algorithm_proves_its_subject_by_a_key_set(
    algorithm: str, header: dict[str, object], tmp_path: Path
) -> None:
    everyone = [issuer(each).jwk(kid="one", alg=each, use="sig") for each in ALGORITHMS]

    verified = verifier_of_set(tmp_path / "jwks.json", *everyone).verify(
        issuer(algorithm).token(**header), NOW
    )

    assert verified.principal == Principal("importer", Role.EDITOR)


def test_without_a_key_and_a_file_there_is_nothing_to_verify_by() -> None:
    assert JwtVerifier.of(JwtRules(leeway_seconds=LEEWAY, role_claim="role")) is None


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_another_key_of_the_same_algorithm_proves_nothing(algorithm: str) -> None:
    assert refusal(issuer(algorithm, 1).token(), verifier(issuer(algorithm).key)) == UNKNOWN_KEY


@pytest.mark.parametrize("named", ALGORITHMS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_header_does_not_choose_the_algorithm(algorithm: str, named: str) -> None:
    if named != algorithm:
        assert refusal(issuer(algorithm).token(alg=named), verifier(issuer(algorithm).key)) == UNKNOWN_KEY
        assert refusal(issuer(algorithm).token(alg=named), verifier(issuer(named).key)) == UNKNOWN_KEY


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
@pytest.mark.parametrize("ending", ["\n", ""])
def test_a_public_key_is_never_taken_as_the_secret_of_hs256(
    algorithm: str, ending: str, tmp_path: Path
) -> None:
    public = issuer(algorithm)
    forged = Issuer("HS256", (public.key.rstrip() + ending).encode()).token()

    assert refusal(forged, verifier(public.key)) == UNKNOWN_KEY
    assert refusal(forged, verifier_of_set(tmp_path / "one.json", public.jwk())) == UNKNOWN_KEY
    assert refusal(forged, verifier_of_set(tmp_path / "two.json", public.jwk(), SECRET.jwk())) == UNKNOWN_KEY


@pytest.mark.parametrize(
    "alg", ["none", "None", "NONE", "nOnE", "", None, [], {}, 0, False, "HS512", "hs256"], ids=repr
)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_no_signature_and_no_known_algorithm_prove_nothing(algorithm: str, alg: object) -> None:
    by = verifier(issuer(algorithm).key)
    good = issuer(algorithm).token().rpartition(".")[2]

    assert refusal(joined({"alg": alg}, CLAIMS), by) == UNKNOWN_KEY
    assert refusal(joined({"alg": alg}, CLAIMS, good), by) == UNKNOWN_KEY


def test_a_header_without_an_algorithm_proves_nothing() -> None:
    assert refusal(SECRET.signed(b"{}", json.dumps(CLAIMS).encode())) == UNKNOWN_KEY


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_was_changed_after_the_signing_is_refused(algorithm: str) -> None:
    by = verifier(issuer(algorithm).key)
    header, payload, signature = issuer(algorithm).token().split(".")
    _, better_payload, _ = issuer(algorithm).token({**CLAIMS, "role": "admin"}).split(".")
    other_header, _, _ = issuer(algorithm).token(kid="other").split(".")
    first = "B" if signature[0] == "A" else "A"

    for changed in (
        f"{header}.{better_payload}.{signature}",
        f"{other_header}.{payload}.{signature}",
        f"{header}.{payload}.{first}{signature[1:]}",
        f"{header}.{payload}.{signature[4:]}",
        f"{header}.{payload}.AAAA{signature}",
        f"{header}.{payload}.",
    ):
        assert refusal(changed, by) == UNKNOWN_KEY


def test_keys_that_the_header_brings_along_are_not_looked_at() -> None:
    stranger = issuer("RS256", 1)
    token = stranger.token(jwk=stranger.jwk(), jku="https://keys.example/jwks.json", x5c=["MIIB"])

    assert refusal(token, verifier(issuer("RS256").key)) == UNKNOWN_KEY


def test_a_kid_that_no_key_has_is_refused_and_the_right_one_is_found_among_several(tmp_path: Path) -> None:
    one, two = issuer("ES256"), issuer("ES256", 1)
    by = verifier_of_set(tmp_path / "jwks.json", one.jwk(kid="one"), two.jwk(kid="two"))

    assert by.verify(one.token(kid="one"), NOW)
    assert by.verify(two.token(kid="two"), NOW)
    for token in (one.token(kid="three"), one.token(kid="two"), one.token(kid=""), one.token()):
        assert refusal(token, by) == UNKNOWN_KEY


def test_a_key_without_a_kid_answers_for_every_kid(tmp_path: Path) -> None:
    by = verifier_of_set(tmp_path / "jwks.json", issuer("RS256").jwk(), issuer("ES256").jwk(kid="one"))

    assert by.verify(issuer("RS256").token(kid="unheard-of"), NOW)
    assert refusal(issuer("ES256").token(kid="unheard-of"), by) == UNKNOWN_KEY


def test_a_key_that_joins_the_file_is_known_and_one_that_leaves_it_no_more(tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    old, new = issuer("ES256"), issuer("ES256", 1)
    by = verifier_of_set(file, old.jwk(kid="old"))
    assert refusal(new.token(kid="new"), by) == UNKNOWN_KEY

    file.write_text(json.dumps({"keys": [old.jwk(kid="old"), new.jwk(kid="new")]}))
    assert by.reload()
    assert by.verify(old.token(kid="old"), NOW)
    assert by.verify(new.token(kid="new"), NOW)

    file.write_text(json.dumps({"keys": [new.jwk(kid="new")]}))
    assert by.reload()
    assert by.verify(new.token(kid="new"), NOW)
    assert refusal(old.token(kid="old"), by) == UNKNOWN_KEY


@pytest.mark.parametrize("leeway", [0, 30, 0.5])
def test_a_jwt_holds_until_just_before_its_end_with_the_leeway(leeway: float) -> None:
    by = verifier(leeway_seconds=leeway)
    token = SECRET.token({**CLAIMS, "exp": NOW})

    assert by.verify(token, NOW + leeway - 0.001).expires_at == NOW + leeway
    assert refusal(token, by, NOW + leeway) == "The JWT has expired."
    assert refusal(token, by, NOW + 1e9) == "The JWT has expired."


@pytest.mark.parametrize("leeway", [0, 30, 0.5])
@pytest.mark.parametrize("claim", ["nbf", "iat"])
def test_a_jwt_holds_from_its_beginning_with_the_leeway(claim: str, leeway: float) -> None:
    by = verifier(leeway_seconds=leeway)
    token = SECRET.token({**CLAIMS, claim: NOW})

    assert by.verify(token, NOW - leeway)
    assert refusal(token, by, NOW - leeway - 0.001) == "The JWT is not valid yet."


def test_parts_of_a_second_count() -> None:
    token = SECRET.token({**CLAIMS, "exp": NOW + 0.75, "nbf": NOW + 0.25})
    by = verifier(leeway_seconds=0)

    assert refusal(token, by, NOW + 0.2) == "The JWT is not valid yet."
    assert by.verify(token, NOW + 0.7).expires_at == NOW + 0.75
    assert refusal(token, by, NOW + 0.75) == "The JWT has expired."


@pytest.mark.parametrize("claim", ["exp", "nbf", "iat"])
@pytest.mark.parametrize(
    "value",
    [str(NOW + 60), "", True, [NOW], {}, -1, 1e18, 10**400, float("nan"), float("inf"), float("-inf")],
)
def test_a_time_that_is_no_number_of_seconds_is_refused(claim: str, value: object) -> None:
    said = refusal(SECRET.token({**CLAIMS, claim: value}))

    assert said == f"The JWT's {claim} is not a number of seconds since 1970."


@pytest.mark.parametrize("claim", ["exp", "sub"])
def test_a_jwt_without_an_end_or_a_subject_is_refused(claim: str) -> None:
    assert refusal(SECRET.token(without(claim))) == f"The JWT lacks the claim {claim}."
    assert refusal(SECRET.token({**CLAIMS, claim: None})) == f"The JWT lacks the claim {claim}."


@pytest.mark.parametrize("aud", ["segmentd", ["segmentd"], ["billing", "segmentd"]])
def test_a_jwt_made_for_this_audience_among_others_is_good(aud: object) -> None:
    assert verifier(audience="segmentd").verify(SECRET.token({**CLAIMS, "aud": aud}), NOW)


@pytest.mark.parametrize(
    "aud", ["billing", "Segmentd", "segmentd ", ["billing"], ["segmentd", 1], {"segmentd": 1}, 1]
)
def test_a_jwt_made_for_another_audience_is_refused(aud: object) -> None:
    said = refusal(SECRET.token({**CLAIMS, "aud": aud}), verifier(audience="segmentd"))

    assert said == "The JWT was made for another audience."


@pytest.mark.parametrize(
    "claims", [CLAIMS, {**CLAIMS, "aud": []}, {**CLAIMS, "aud": ""}, {**CLAIMS, "aud": None}]
)
def test_a_jwt_made_for_no_audience_is_refused_where_one_is_asked_for(claims: dict[str, object]) -> None:
    assert refusal(SECRET.token(claims), verifier(audience="segmentd")) == "The JWT lacks the claim aud."


@pytest.mark.parametrize("aud", ["segmentd", ["segmentd"]])
def test_a_jwt_made_for_an_audience_is_refused_where_none_is_set(aud: object) -> None:
    assert refusal(SECRET.token({**CLAIMS, "aud": aud})) == "The JWT was made for another audience."


def test_a_jwt_must_be_by_the_issuer_that_is_set() -> None:
    by = verifier(issuer="https://id.example")

    assert by.verify(SECRET.token({**CLAIMS, "iss": "https://id.example"}), NOW)
    assert refusal(SECRET.token(), by) == "The JWT lacks the claim iss."
    for iss in ("https://id.example/", "", None, 1, ["https://id.example"]):
        assert refusal(SECRET.token({**CLAIMS, "iss": iss}), by) == "The JWT was made by another issuer."


def test_any_issuer_does_where_none_is_set() -> None:
    assert verifier().verify(SECRET.token({**CLAIMS, "iss": "https://id.example"}), NOW)


@pytest.mark.parametrize("sub", ["a", "auth0|5f7c", "jane@example.com", "CN=importer, O=Example", "~" * 128])
def test_the_subject_is_the_name(sub: str) -> None:
    assert verifier().verify(SECRET.token({**CLAIMS, "sub": sub}), NOW).principal.name == sub


@pytest.mark.parametrize(
    "sub",
    [
        "",
        " ",
        " a",
        "a ",
        "a  b",
        "a\n",
        "a\tb",
        "\0",
        "ü",
        "\ud800",
        "\u202eadmin",
        "~" * 129,
        7,
        True,
        [],
        ["a"],
        {},
    ],
)
def test_a_subject_that_is_no_name_is_refused(sub: object) -> None:
    said = refusal(SECRET.token({**CLAIMS, "sub": sub}))

    assert said == "The JWT's sub is not a name of 1 to 128 visible characters."


@pytest.mark.parametrize("sub", ["anonymous", "segmentd"])
def test_a_name_that_history_uses_itself_is_refused(sub: str) -> None:
    said = refusal(SECRET.token({**CLAIMS, "sub": sub}))

    assert said == "The JWT's sub is a name that this service keeps for itself."


@pytest.mark.parametrize(
    ("claim", "role"),
    [
        ("reader", Role.READER),
        ("editor", Role.EDITOR),
        ("admin", Role.ADMIN),
        (["reader"], Role.READER),
        (["reader", "admin", "editor"], Role.ADMIN),
        (["editor", "reader", "reader"], Role.EDITOR),
        (["offline_access", "reader", 7, None], Role.READER),
    ],
)
def test_the_highest_known_role_holds(claim: object, role: Role) -> None:
    by = verifier(role_claim="https://segmentd.example/roles")
    token = SECRET.token({**without("role"), "https://segmentd.example/roles": claim})

    assert by.verify(token, NOW).principal.role is role


@pytest.mark.parametrize(
    "claim",
    [
        "",
        "owner",
        "Admin",
        "admin ",
        "admin,editor",
        [],
        ["owner"],
        [["admin"]],
        {"admin": True},
        None,
        True,
        2,
    ],
)
def test_a_jwt_that_names_no_known_role_is_refused(claim: object) -> None:
    said = "The JWT names no role: its claim role must be one of reader, editor, admin."

    assert refusal(SECRET.token({**CLAIMS, "role": claim})) == said
    assert refusal(SECRET.token(without("role"))) == said


def test_a_role_in_another_claim_than_the_one_that_is_set_is_none() -> None:
    assert "its claim groups must be" in refusal(SECRET.token(), verifier(role_claim="groups"))


def test_an_extension_is_refused_even_if_the_library_knows_it() -> None:
    said = refusal(SECRET.token(crit=["b64"], b64=True))

    assert said == "The JWT has a crit header, and this service knows no extensions."


@pytest.mark.parametrize("crit", [["exp"], ["b64"], [], None, "b64"])
def test_an_extension_that_nobody_knows_or_that_is_none_is_refused(crit: object) -> None:
    assert refusal(SECRET.token(crit=crit)) == MALFORMED


def test_a_payload_that_is_not_encoded_is_refused() -> None:
    header = base64url(b'{"alg":"HS256","b64":false}')
    text = f"{header}.{json.dumps(CLAIMS)}"
    signature = hmac.digest(SECRET.key.encode(), text.encode(), hashlib.sha256)

    assert refusal(f"{text}.{base64url(signature)}") == MALFORMED


def test_a_jwt_in_a_jwt_is_refused() -> None:
    nested = SECRET.signed(b'{"alg":"HS256","cty":"JWT"}', SECRET.token().encode())

    assert refusal(nested) == "The JWT has a cty header, and this service takes no nested JWTs."
    assert refusal(SECRET.signed(b'{"alg":"HS256"}', SECRET.token().encode())) == MALFORMED


def test_a_jwt_of_8_kib_is_the_longest() -> None:
    room = TOKEN_BYTES - len(SECRET.token({**CLAIMS, "x": ""}))
    longest = SECRET.token({**CLAIMS, "x": "x" * (room * 3 // 4)})
    longer = SECRET.token({**CLAIMS, "x": "x" * (room * 3 // 4 + 3)})

    assert TOKEN_BYTES - 3 <= len(longest) <= TOKEN_BYTES < len(longer)
    assert verifier().verify(longest, NOW)
    assert refusal(longer) == "The JWT is longer than 8192 bytes."
    assert refusal("x" * TOKEN_BYTES) == MALFORMED
    assert refusal("x" * (TOKEN_BYTES + 1)) == "The JWT is longer than 8192 bytes."
    assert refusal("x" * 10_000_000) == "The JWT is longer than 8192 bytes."


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        "Bearer",
        "segmentd_0123456789",
        "\0.\0.\0",
        "ü.ü.ü",
        "\ud800",
        "e30.e30.",
        "W10.e30.",
        "bnVsbA.e30.",
        f"{SECRET.token()}.",
        f".{SECRET.token()}",
        f"{SECRET.token()}.AAAA.AAAA",
        f" {SECRET.token()}",
        f"{SECRET.token()}=",
        f"{SECRET.token()}\n",
        SECRET.token(kid=7),
        SECRET.token(kid=None),
        SECRET.token({**CLAIMS, "jti": 7}),
        SECRET.signed(b'{"alg":"HS256"}', b"[]"),
        SECRET.signed(b'{"alg":"HS256"}', b"null"),
        SECRET.signed(b'{"alg":"HS256"}', b"\xff\xfe"),
        SECRET.signed(b'{"alg":"HS256"}', b'{"exp":' + b"9" * 5000 + b"}"),
        SECRET.signed(b'{"alg":"HS256"}', b"[" * 5000),
        SECRET.signed(b"[" * 5000, b"{}"),
        SECRET.signed(b"\xff", b"{}"),
    ],
)
def test_what_is_no_jwt_is_refused(text: str) -> None:
    assert refusal(text) in {MALFORMED, UNKNOWN_KEY}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_jwt_has_one_spelling(algorithm: str) -> None:
    token = issuer(algorithm).token()
    others = [token + end for end in ("=", "==", "-", "A", ".", " ", "%3D")]
    others += [token[:place] + "!" + token[place:] for place in range(0, len(token), 40)]
    # The bits of the last character that are beyond the signature's last byte.
    unused = {0: 0, 2: 4, 3: 2}[len(token.rpartition(".")[2]) % 4]
    last = URL_SAFE.index(token[-1])
    others += [token[:-1] + URL_SAFE[last | bits] for bits in range(1, 1 << unused)]

    by = verifier(issuer(algorithm).key)
    assert by.verify(token, NOW).principal.name == "importer"
    for other in others:
        assert refusal(other, by) in {MALFORMED, UNKNOWN_KEY}, other


@MANY
@given(st.text(st.characters()) | st.from_regex(r"[A-Za-z0-9_=-]*(\.[A-Za-z0-9_=-]*){1,4}", fullmatch=True))
def test_any_text_is_refused_as_unauthenticated(text: str) -> None:
    assert refusal(text)


JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@MANY
@given(
    header=st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "cty", "b64", "zip"]), JSON),
    claims=st.dictionaries(st.sampled_from(["exp", "nbf", "iat", "iss", "aud", "sub", "jti", "role"]), JSON)
    | JSON,
    usual=st.booleans(),
)
def test_any_header_and_any_claims_well_signed_are_good_or_refused_as_unauthenticated(
    header: dict[str, object], claims: object, *, usual: bool
) -> None:
    whole = {**CLAIMS, **claims} if usual and isinstance(claims, dict) else claims
    token = SECRET.signed(
        json.dumps({**header, "alg": "HS256"} if usual else header).encode(), json.dumps(whole).encode()
    )
    with suppress(Unauthenticated):  # and nothing else
        verified = verifier().verify(token, NOW)
        assert verified.expires_at > NOW
        assert verified.principal.role in Role
