"""Who may ask: API keys, held as hashes only."""

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass

from business_svc.errors import Reason, SeamError

MIN_KEY_CHARACTERS = 16


@dataclass(frozen=True, slots=True)
class Caller:
    """`key_id` is the start of the key's hash: it tells keys apart in logs and does not open anything."""

    tenant: str
    key_id: str


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as the server holds it. Keys are long random strings, so a plain SHA-256 is as strong as the key: there is
    no dictionary to try, and nothing is gained by making each request pay for a slow hash."""

    tenant: str
    digest: bytes  # SHA-256 of the key's UTF-8

    @classmethod
    def of_secret(cls, tenant: str, secret: str) -> "ApiKey":
        return cls(tenant, _digest(secret))


class KeyRing:
    """Knows the callers."""

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self._entries = [(key.digest, Caller(key.tenant, key.digest.hex()[:8])) for key in keys]

    def identify(self, presented: str | None) -> Caller:
        """Raises API_KEY_MISSING, API_KEY_INVALID. Compares with every key, in constant time, whichever matches."""
        if not presented:
            raise SeamError(Reason.API_KEY_MISSING, 'no API key: send "authorization: Bearer KEY" or "x-api-key: KEY"')
        digest = _digest(presented)
        found: Caller | None = None
        for known, caller in self._entries:
            if hmac.compare_digest(known, digest):
                found = caller
        if found is None:
            raise SeamError(Reason.API_KEY_INVALID, "the API key is not known")
        return found


def presented_key(authorization: str | None, x_api_key: str | None) -> str | None:
    """The key in the two headers that may carry it; `authorization` goes first and must be of the Bearer scheme."""
    if authorization:
        scheme, _, key = authorization.partition(" ")
        return key.strip() if scheme.lower() == "bearer" else None
    return x_api_key.strip() if x_api_key else None


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
