"""The keys that verify JWTs. Each has one algorithm, which follows from the key alone."""

import base64
import binascii
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

import jwt
import msgspec
import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import HMACAlgorithm

from segmentd.domain.errors import StartupFailed

# RFC 7518, sections 3.2 and 3.3.
SECRET_BYTES: Final = 32
RSA_BITS: Final = 2048

Algorithm = Literal["HS256", "RS256", "ES256", "EdDSA"]

# By kty and crv of a JSON Web Key.
_ALGORITHMS: Final[dict[tuple[str, str | None], Algorithm]] = {
    ("oct", None): "HS256",
    ("RSA", None): "RS256",
    ("EC", "P-256"): "ES256",
    ("OKP", "Ed25519"): "EdDSA",
}

_TAKEN: Final = ", ".join(_ALGORITHMS.values())

_log = structlog.get_logger(__name__)


class VerifyingKey(NamedTuple):
    """A public key or a secret, with its one algorithm."""

    algorithm: Algorithm
    material: RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey | bytes
    kid: str | None = None


class KeyRing:
    """The keys of this service: one from a setting, or those of a file, read again when it changes."""

    def __init__(
        self, keys: Sequence[VerifyingKey], file: Path | None = None, stamp: "_Stamp | None" = None
    ) -> None:
        self._keys = keys
        self._file = file
        self._stamp = stamp

    @classmethod
    def of(cls, key: str | None, file: Path | None) -> "KeyRing | None":
        """From the settings, None if neither is set. Raises StartupFailed for an invalid key or file."""
        if key is not None and file is not None:
            raise StartupFailed("jwt_key and jwt_jwks_file are both set: leave one out")
        if key is not None:
            return cls([_set_key(key)])
        if file is not None:
            stamp = _stamp(file)  # taken before reading, so that the next look notices a change in between
            return cls(_read(file), file, stamp)
        return None

    def find(self, algorithm: object, kid: object) -> VerifyingKey | None:
        """The one key that can have signed a JWT with this header.

        A key without a kid matches every kid. Without a kid in the header the algorithm must be enough.
        """
        fitting = [
            key
            for key in self._keys
            if key.algorithm == algorithm and (kid is None or key.kid is None or key.kid == kid)
        ]
        return fitting[0] if len(fitting) == 1 else None

    def reload(self) -> bool:
        """Takes the keys of the file if it changed and is valid. Returns whether the keys changed.

        For an invalid file it logs a warning, once for each change, and the keys stay.
        """
        if self._file is None or (stamp := _stamp(self._file)) == self._stamp:
            return False
        self._stamp = stamp
        try:
            keys = _read(self._file)
        except StartupFailed as error:
            _log.warning("the keys of JWTs stay as they were", reason=error.detail)
            return False
        if keys == self._keys:
            return False
        self._keys = keys
        _log.info("the keys of JWTs changed", keys=[f"{key.algorithm} {key.kid or '-'}" for key in keys])
        return True


class _Unusable(Exception):
    """Why a key is refused; the message continues a sentence that begins with the key's name."""


class _Stamp(NamedTuple):
    """What differs between two states of a file.

    It includes ctime: making an unreadable file readable changes ctime but not mtime.
    """

    mtime_ns: int
    ctime_ns: int
    size: int
    inode: int


class _Jwk(msgspec.Struct, frozen=True):
    """The members that decide whether a JSON Web Key (RFC 7517) verifies JWTs here, and under which name."""

    kty: str
    crv: str | None = None
    alg: str | None = None
    use: str | None = None
    key_ops: list[str] | None = None
    kid: str | None = None

    def verifies_here(self) -> bool:
        """RFC 7517, section 5, asks to ignore keys of other kinds: providers publish several."""
        algorithm = _ALGORITHMS.get((self.kty, self.crv))
        return (
            algorithm is not None
            and self.alg in {None, algorithm}
            and self.use in {None, "sig"}
            and (self.key_ops is None or "verify" in self.key_ops)
        )


class _KeySet(msgspec.Struct, frozen=True):
    keys: list[dict[str, object]]


def _stamp(file: Path) -> _Stamp | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return _Stamp(found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)


def _set_key(text: str) -> VerifyingKey:
    """The key of the setting jwt_key: a public key in PEM, or else a secret."""
    written = text.encode("utf-8", "surrogateescape")  # an environment variable may hold any bytes
    try:
        return _verifying(_public_key(written) if b"-----BEGIN" in written else written)
    except _Unusable as error:
        raise StartupFailed(f"jwt_key {error}") from None


def _public_key(pem: bytes) -> object:
    if b"PRIVATE KEY" in pem:
        raise _Unusable("is a private key: the public key is what verifies, and all that belongs here")
    try:
        return load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise _Unusable(
            "is no public key in PEM (BEGIN PUBLIC KEY … END PUBLIC KEY, with the line breaks)"
        ) from None


def _read(file: Path) -> list[VerifyingKey]:
    """The keys of the file that verify JWTs here. Raises StartupFailed."""
    try:
        if file.exists() and not file.is_file():  # to read a pipe could take forever
            raise StartupFailed(f"jwt_jwks_file {file} is not a file")
        entries = msgspec.json.decode(file.read_bytes(), type=_KeySet).keys
    except OSError as error:
        raise StartupFailed(f"jwt_jwks_file {file} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise StartupFailed(f"jwt_jwks_file {file} is not a JSON Web Key Set: {error}") from None
    keys: list[VerifyingKey] = []
    for index, entry in enumerate(entries):
        try:
            key = _of_jwk(entry)
        except _Unusable as error:
            raise StartupFailed(f"jwt_jwks_file {file}: /keys/{index} {error}") from None
        if key is not None:
            keys.append(key)
    if not keys:
        raise StartupFailed(f"jwt_jwks_file {file} has no key for {_TAKEN}")
    _check_kids(file, keys)
    return keys


def _of_jwk(entry: dict[str, object]) -> VerifyingKey | None:
    """The key, or None for one of a kind that is ignored."""
    if "d" in entry:
        raise _Unusable("is a private key: leave only its public part")
    try:
        jwk = msgspec.convert(entry, _Jwk)
        return _verifying(jwt.PyJWK.from_dict(entry).key, jwk.kid) if jwk.verifies_here() else None
    except msgspec.ValidationError as error:
        raise _Unusable(f"is not a JSON Web Key: {error}") from None
    except (jwt.PyJWTError, KeyError):
        raise _Unusable("is broken") from None


def _check_kids(file: Path, keys: Sequence[VerifyingKey]) -> None:
    """Refuses keys of one algorithm that a kid could not tell apart."""
    for algorithm, count in Counter(key.algorithm for key in keys).items():
        kids = {key.kid for key in keys if key.algorithm == algorithm}
        if count > 1 and (None in kids or len(kids) < count):
            raise StartupFailed(f"jwt_jwks_file {file}: each of the {algorithm} keys needs a kid of its own")


def _verifying(key: object, kid: str | None = None) -> VerifyingKey:
    """The key with its algorithm; refuses weak keys and other kinds."""
    match key:
        case bytes():
            if len(key) < SECRET_BYTES:
                raise _Unusable(f"is a secret of {len(key)} bytes: HS256 needs {SECRET_BYTES} or more")
            return VerifyingKey("HS256", _secret(key), kid)
        case RSAPublicKey():
            if key.key_size < RSA_BITS:
                raise _Unusable(f"is an RSA key of {key.key_size} bits: RS256 needs {RSA_BITS} or more")
            return VerifyingKey("RS256", key, kid)
        case EllipticCurvePublicKey():
            if not isinstance(key.curve, SECP256R1):
                raise _Unusable(f"is on the curve {key.curve.name}: ES256 needs P-256")
            return VerifyingKey("ES256", key, kid)
        case Ed25519PublicKey():
            return VerifyingKey("EdDSA", key, kid)
    raise _Unusable(f"is of a kind that verifies nothing here; taken are keys for {_TAKEN}")


def _secret(key: bytes) -> bytes:
    """The bytes, unless they are a public key in another form: everyone who knows that key could sign."""
    for form in filter(None, (key, _decoded(key))):
        try:
            HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(form)
        except jwt.InvalidKeyError:
            raise _Unusable("is a public key in a form that is not read here: write it in PEM") from None
    return key


def _decoded(written: bytes) -> bytes:
    """Base64 of either alphabet, such as the body of a PEM without its BEGIN and END lines, as bytes."""
    try:
        return base64.urlsafe_b64decode(written + b"===")
    except binascii.Error:
        return b""
