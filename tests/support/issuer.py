"""Issuers of JWTs: they use only `cryptography`, so that PyJWT does not check its own work."""

import hashlib
import hmac
import json
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from functools import cache
from typing import Any, Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa_key
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

Claims = Mapping[str, Any]

ALGORITHMS: Final = ("HS256", "RS256", "ES256", "EdDSA")
NOW: Final = 1_800_000_000
CLAIMS: Final[Claims] = {"sub": "importer", "role": "editor", "exp": NOW + 60}


def base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def without(name: str) -> Claims:
    """The usual claims without one."""
    return {key: value for key, value in CLAIMS.items() if key != name}


class Issuer(NamedTuple):
    """An issuer with one key, which has one algorithm."""

    algorithm: str
    private: bytes | RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey

    @property
    def key(self) -> str:
        """As it is written in the setting jwt_key."""
        if isinstance(self.private, bytes):
            return self.private.decode()
        public = self.private.public_key()
        return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def jwk(self, **members: object) -> dict[str, object]:
        """The key as in a key set (RFC 7518, section 6; RFC 8037), with further members."""
        return {**_public_members(self.private), **members}

    def token(self, claims: Claims = CLAIMS, /, **header: object) -> str:
        """A JWT with these claims; the header may have more members, or other values."""
        whole = {"typ": "JWT", "alg": self.algorithm, **header}
        return self.signed(json.dumps(whole).encode(), json.dumps(claims).encode())

    def signed(self, header: bytes, payload: bytes) -> str:
        """Any bytes as header and payload, correctly signed."""
        text = f"{base64url(header)}.{base64url(payload)}"
        return f"{text}.{base64url(_signature(self.private, text.encode()))}"


@cache
def issuer(algorithm: str, number: int = 0) -> Issuer:
    """One issuer for each number and algorithm; tests share them, because RSA keys are slow to make."""
    match algorithm:
        case "HS256":
            return Issuer(algorithm, f"the secret of issuer {number}".ljust(32, ".").encode())
        case "RS256":
            return Issuer(algorithm, generate_rsa_key(public_exponent=65537, key_size=2048))
        case "ES256":
            return Issuer(algorithm, generate_private_key(SECP256R1()))
        case "EdDSA":
            return Issuer(algorithm, Ed25519PrivateKey.generate())
    raise ValueError(algorithm)


def _signature(
    private: bytes | RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey, text: bytes
) -> bytes:
    match private:
        case bytes():
            return hmac.digest(private, text, hashlib.sha256)
        case RSAPrivateKey():
            return private.sign(text, PKCS1v15(), SHA256())
        case EllipticCurvePrivateKey():
            return b"".join(
                part.to_bytes(32) for part in decode_dss_signature(private.sign(text, ECDSA(SHA256())))
            )
        case Ed25519PrivateKey():
            return private.sign(text)


def _public_members(
    private: bytes | RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey,
) -> dict[str, object]:
    match private:
        case bytes():
            return {"kty": "oct", "k": base64url(private)}
        case RSAPrivateKey():
            rsa = private.public_key().public_numbers()
            n = base64url(rsa.n.to_bytes((rsa.n.bit_length() + 7) // 8))
            return {"kty": "RSA", "n": n, "e": base64url(rsa.e.to_bytes(3))}
        case EllipticCurvePrivateKey():
            point = private.public_key().public_numbers()
            x, y = (base64url(part.to_bytes(32)) for part in (point.x, point.y))
            return {"kty": "EC", "crv": "P-256", "x": x, "y": y}
        case Ed25519PrivateKey():
            raw = private.public_key().public_bytes_raw()
            return {"kty": "OKP", "crv": "Ed25519", "x": base64url(raw)}
