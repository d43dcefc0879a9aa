"""API keys: kept as hashes, compared in constant time."""

import hashlib
import hmac
from collections.abc import Iterable

from fullbore.errors import UsageError
from fullbore.server.errors import ApiError


class Keys:
    """The keys that open this server; with none, everybody is let in."""

    def __init__(self, keys: Iterable[str]) -> None:
        keys = list(keys)
        if not all(key.strip() for key in keys):
            raise UsageError(
                "--api-key is empty, expected a secret (or leave the flag out to serve without keys)"
            )
        self._hashes = [hashlib.sha256(key.encode()).digest() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def check(self, authorization: bytes | None) -> None:
        """Raise ApiError 401 unless the header is ``Bearer`` (in any case) and one of the keys."""
        if not self._hashes:
            return
        scheme, _, key = (authorization or b"").strip().partition(b" ")
        digest = hashlib.sha256(key.strip()).digest()
        # Compares with every key, so that the time tells nothing of which came close.
        known = [hmac.compare_digest(digest, each) for each in self._hashes]
        if scheme.lower() != b"bearer" or not any(known):
            message = "the API key is " + (
                "wrong" if authorization else "missing (send Authorization: Bearer KEY)"
            )
            raise ApiError(
                401, message, code="invalid_api_key", headers={"www-authenticate": 'Bearer realm="fullbore"'}
            )
