import json
import os
import re
from base64 import b64encode
from pathlib import Path
from typing import Final

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from structlog.testing import capture_logs

from segmentd.auth.jwt_keys import KeyRing
from segmentd.domain.errors import StartupFailed
from tests.support.issuer import ALGORITHMS, Issuer, base64url, issuer

PUBLIC: Final = (Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
JwkMembers = dict[str, object]


def refusal(key: str | None = None, file: Path | None = None) -> str:
    """The one line with which the keys are refused."""
    with pytest.raises(StartupFailed) as refused:
        KeyRing.of(key, file)
    line = refused.value.detail
    assert "\n" not in line
    return line


def publish(file: Path, *jwks: JwkMembers) -> Path:
    """Puts a new key set in the place of the one before, as a provider's agent does."""
    new = file.with_suffix(".new")
    new.write_text(json.dumps({"keys": jwks}))
    return new.replace(file)


def ring_of(file: Path) -> KeyRing:
    ring = KeyRing.of(None, file)
    assert ring is not None
    return ring


def kids(ring: KeyRing) -> set[str]:
    return {kid for kid in ("one", "two", "three") if ring.find("ES256", kid)}


def one() -> JwkMembers:
    return issuer("ES256").jwk(kid="one")


def two() -> JwkMembers:
    return issuer("ES256", 1).jwk(kid="two")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "jwks.json"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_key_has_the_one_algorithm_that_follows_from_it(algorithm: str, file: Path) -> None:
    for ring in (KeyRing.of(issuer(algorithm).key, None), ring_of(publish(file, issuer(algorithm).jwk()))):
        assert ring is not None
        assert [other for other in (*ALGORITHMS, "none", "HS512") if ring.find(other, None)] == [algorithm]


def test_a_key_and_a_file_together_are_refused(file: Path) -> None:
    said = refusal(issuer("HS256").key, publish(file, one()))

    assert said == "jwt_key and jwt_jwks_file are both set: leave one out"


@pytest.mark.parametrize("secret", ["", "s" * 31, "ü" * 15])
def test_a_secret_below_32_bytes_is_refused(secret: str) -> None:
    said = refusal(secret)

    assert said == f"jwt_key is a secret of {len(secret.encode())} bytes: HS256 needs 32 or more"


@pytest.mark.parametrize(
    "secret", ["s" * 32, "ü" * 16, "\udcff" * 32, '{"a": 1}'.ljust(32), "~" * 32, "1" * 5000]
)
def test_a_secret_may_be_any_32_bytes(secret: str) -> None:
    assert KeyRing.of(secret, None)


@pytest.mark.parametrize(
    ("algorithm", "form"),
    [
        ("RS256", PrivateFormat.PKCS8),
        ("ES256", PrivateFormat.PKCS8),
        ("EdDSA", PrivateFormat.PKCS8),
        ("RS256", PrivateFormat.TraditionalOpenSSL),
        ("ES256", PrivateFormat.TraditionalOpenSSL),
        ("EdDSA", PrivateFormat.OpenSSH),
    ],
)
def test_a_private_key_is_refused_and_not_shown(algorithm: str, form: PrivateFormat) -> None:
    private = issuer(algorithm).private
    assert not isinstance(private, bytes)
    said = "jwt_key is a private key: the public key is what verifies, and all that belongs here"

    assert refusal(private.private_bytes(Encoding.PEM, form, NoEncryption()).decode()) == said
    if form is not PrivateFormat.OpenSSH:  # with a password it would need one more library
        locked = BestAvailableEncryption(b"a password")
        assert refusal(private.private_bytes(Encoding.PEM, form, locked).decode()) == said


def test_an_rsa_key_below_2048_bits_is_refused() -> None:
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - that is the point
    said = refusal(weak.public_key().public_bytes(*PUBLIC).decode())

    assert said == "jwt_key is an RSA key of 1024 bits: RS256 needs 2048 or more"


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP256K1()])
def test_an_elliptic_curve_other_than_p_256_is_refused(curve: ec.EllipticCurve) -> None:
    pem = ec.generate_private_key(curve).public_key().public_bytes(*PUBLIC).decode()

    assert refusal(pem) == f"jwt_key is on the curve {curve.name}: ES256 needs P-256"


def test_an_edwards_curve_other_than_ed25519_is_refused() -> None:
    pem = ed448.Ed448PrivateKey.generate().public_key().public_bytes(*PUBLIC).decode()

    said = refusal(pem)

    assert (
        said
        == "jwt_key is of a kind that verifies nothing here; taken are keys for HS256, RS256, ES256, EdDSA"
    )


@pytest.mark.parametrize(
    "pem",
    [
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
        "-----BEGIN PUBLIC KEY-----",
        "-----BEGIN PUBLIC KEY-----\udcff-----END PUBLIC KEY-----",
        r"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
    ],
)
def test_a_pem_that_cannot_be_read_is_refused(pem: str) -> None:
    assert refusal(pem).startswith("jwt_key is no public key in PEM (")


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_a_public_key_in_another_form_does_not_become_a_secret(algorithm: str, file: Path) -> None:
    private = issuer(algorithm).private
    assert not isinstance(private, bytes)
    public = private.public_key()
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    body = "".join(issuer(algorithm).key.splitlines()[1:-1])
    forms = [
        public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode(),
        json.dumps(issuer(algorithm).jwk()),
        json.dumps({"keys": [issuer(algorithm).jwk()]}),
        body,
        f"{body}\n",
        body.rstrip("="),
        b64encode(der, b"-_").decode(),
        "\n".join(issuer(algorithm).key.splitlines()[1:-1]),
    ]
    for form in forms:
        assert refusal(form) == "jwt_key is a public key in a form that is not read here: write it in PEM"
    oct_key: JwkMembers = {"kty": "oct", "k": base64url(der)}
    assert "/keys/0 is a public key in a form" in refusal(file=publish(file, oct_key))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is not a JSON Web Key Set: "),
        (b"{", "is not a JSON Web Key Set: "),
        (b"{}", "is not a JSON Web Key Set: Object missing required field `keys`"),
        (b"[]", "is not a JSON Web Key Set: Expected `object`, got `array`"),
        (b'{"keys": 1}', "is not a JSON Web Key Set: "),
        (b'{"keys": [1]}', "is not a JSON Web Key Set: "),
        (b'{"keys": [{"kty": "\xff"}]}', "is not a JSON Web Key Set: "),
        (b'{"keys": [{"a": ' + b"[" * 100_000, "is not a JSON Web Key Set: "),
        (b'{"keys": []}', "has no key for HS256, RS256, ES256, EdDSA"),
        (b'{"keys": [{}]}', "/keys/0 is not a JSON Web Key: Object missing required field `kty`"),
        (b'{"keys": [{"kty": "oct", "kid": 1}]}', "/keys/0 is not a JSON Web Key: "),
        (b'{"keys": [{"kty": "oct"}]}', "/keys/0 is broken"),
        (b'{"keys": [{"kty": "oct", "k": 1}]}', "/keys/0 is broken"),
        (
            b'{"keys": [{"kty": "oct", "k": "AAAA"}]}',
            "/keys/0 is a secret of 3 bytes: HS256 needs 32 or more",
        ),
        (b'{"keys": [{"kty": "RSA", "e": "AQAB"}]}', "/keys/0 is broken"),
        (b'{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]}', "/keys/0 is "),
        (b'{"keys": [{"kty": "EC", "crv": "P-256", "x": "AQAB", "y": "AQAB"}]}', "/keys/0 is broken"),
        (b'{"keys": [{"kty": "OKP", "crv": "Ed25519"}]}', "/keys/0 is broken"),
        (b'{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "AA"}]}', "/keys/0 is broken"),
    ],
)
def test_a_file_that_is_no_good_key_set_is_refused(file: Path, content: bytes, expected: str) -> None:
    file.write_bytes(content)
    said = refusal(file=file)

    assert said.startswith(f"jwt_jwks_file {file}")
    assert expected in said


def test_a_file_that_cannot_be_read_is_refused(file: Path) -> None:
    assert refusal(file=file) == f"jwt_jwks_file {file} cannot be read: No such file or directory"
    file.mkdir()
    assert refusal(file=file) == f"jwt_jwks_file {file} is not a file"
    pipe = file / "pipe"
    os.mkfifo(pipe)
    assert refusal(file=pipe) == f"jwt_jwks_file {pipe} is not a file"


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
@pytest.mark.parametrize("use", ["sig", "enc"])
def test_a_private_key_in_the_set_is_refused(file: Path, algorithm: str, use: str) -> None:
    leaked = issuer(algorithm).jwk(d="a-secret", use=use)

    said = refusal(file=publish(file, one(), leaked))

    assert said == f"jwt_jwks_file {file}: /keys/1 is a private key: leave only its public part"


def test_a_weak_rsa_key_in_the_set_is_refused(file: Path) -> None:
    weak = Issuer("RS256", rsa.generate_private_key(public_exponent=65537, key_size=1024))  # noqa: S505 - as said

    assert "/keys/0 is an RSA key of 1024 bits: RS256 needs 2048 or more" in refusal(
        file=publish(file, weak.jwk())
    )


PASSED_OVER: Final[list[JwkMembers]] = [
    {"use": "enc"},
    {"use": ""},
    {"alg": "ES384"},
    {"alg": "RS256"},
    {"alg": "none"},
    {"key_ops": ["sign"]},
    {"kty": "AKP"},
    {"kty": "OKP"},
    {"kty": "RSA"},
    {"crv": "P-384"},
    {"crv": None},
]


@pytest.mark.parametrize("members", PASSED_OVER)
def test_a_key_that_is_not_for_verifying_here_is_passed_over(file: Path, members: JwkMembers) -> None:
    assert kids(ring_of(publish(file, {**one(), **members}, two()))) == {"two"}
    assert refusal(file=publish(file, {**one(), **members})).endswith(
        "has no key for HS256, RS256, ES256, EdDSA"
    )


@pytest.mark.parametrize(
    "members", [{"use": "sig", "alg": "ES256"}, {"key_ops": ["verify"]}, {"x5t": "AAAA"}]
)
def test_a_key_that_says_more_about_itself_is_taken(file: Path, members: JwkMembers) -> None:
    assert kids(ring_of(publish(file, {**one(), **members}))) == {"one"}


@pytest.mark.parametrize("kid", [{"kid": "one"}, {"kid": None}, {}])
def test_two_keys_of_one_algorithm_that_no_kid_tells_apart_are_refused(file: Path, kid: JwkMembers) -> None:
    said = refusal(file=publish(file, one(), issuer("ES256", 1).jwk(**kid)))

    assert said == f"jwt_jwks_file {file}: each of the ES256 keys needs a kid of its own"


def test_keys_are_rotated_without_a_moment_at_which_good_ones_are_refused(file: Path) -> None:
    ring = ring_of(publish(file, one()))
    assert kids(ring) == {"one"}
    assert not ring.reload()

    publish(file, one(), two())
    assert ring.reload()
    assert kids(ring) == {"one", "two"}
    assert not ring.reload()

    publish(file, two())
    assert ring.reload()
    assert kids(ring) == {"two"}


def test_the_same_keys_in_a_new_file_are_no_change(file: Path) -> None:
    ring = ring_of(publish(file, one()))

    publish(file, one())

    assert not ring.reload()
    assert kids(ring) == {"one"}


def test_another_key_under_the_same_kid_is_a_change(file: Path) -> None:
    ring = ring_of(publish(file, one()))

    publish(file, {**two(), "kid": "one"})

    assert ring.reload()


def test_a_key_that_is_set_never_changes() -> None:
    ring = KeyRing.of(issuer("HS256").key, None)

    assert ring is not None
    assert not ring.reload()


@pytest.mark.parametrize("bad", ["", "{", '{"keys": []}', '{"keys": [{"kty": "RSA", "d": ""}]}', None])
def test_a_bad_new_file_leaves_the_keys_and_is_logged_once(file: Path, bad: str | None) -> None:
    ring = ring_of(publish(file, one()))

    with capture_logs() as expected:
        if bad is None:
            file.unlink()
        else:
            file.write_text(bad)
        assert [ring.reload() for _ in range(3)] == [False] * 3
        assert kids(ring) == {"one"}

    assert [(line["log_level"], line["event"]) for line in expected] == [
        ("warning", "the keys of JWTs stay as they were")
    ]
    assert re.match(f"jwt_jwks_file {re.escape(str(file))}", expected[0]["reason"])
    publish(file, two())
    assert ring.reload()
    assert kids(ring) == {"two"}


def test_a_change_that_keeps_the_files_size_and_time_is_seen(file: Path) -> None:
    ring = ring_of(publish(file, one()))
    before = file.stat()

    file.write_text(file.read_text().replace('"one"', '"two"'))
    while file.stat().st_ctime_ns == before.st_ctime_ns:  # the clock of files ticks every few milliseconds
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert ring.reload()
    assert kids(ring) == {"two"}
