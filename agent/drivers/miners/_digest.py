"""HTTP digest authentication (RFC 7616, and RFC 2617 as old firmware speaks it), for one device.

The challenge is kept and answered in advance with a rising nonce count, so that a poll takes one exchange and not two;
a device that no longer likes the nonce sends a new challenge with its 401.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

_PARAMETER: Final = re.compile(r'([a-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))', re.IGNORECASE)
_HASHES: Final = {"MD5": "md5", "SHA-256": "sha256"}


@dataclass(slots=True)
class _Challenge:
    realm: str
    nonce: str
    opaque: str | None
    algorithm: str
    """As the server spelt it, or the default that RFC 7616 gives where it names none."""
    qop: str | None
    uses: int = 0


class DigestAuth:
    """The credentials of one device and the challenge it gave last."""

    __slots__ = ("_challenge", "_make_cnonce", "_password", "_username")

    def __init__(
        self, username: str, password: str, *, make_cnonce: Callable[[], str] = lambda: secrets.token_hex(8)
    ) -> None:
        self._username = username
        self._password = password
        self._make_cnonce = make_cnonce
        self._challenge: _Challenge | None = None

    def learn(self, challenges: Iterable[str]) -> bool:
        """Take the first usable challenge from the `WWW-Authenticate` values of a 401; False where there is none."""
        self._challenge = next((found for found in map(_parse, challenges) if found), None)
        return self._challenge is not None

    def authorization(self, method: str, uri: str) -> str | None:
        """The `Authorization` value for one request; None before the first challenge."""
        challenge = self._challenge
        if challenge is None:
            return None
        challenge.uses += 1
        count, cnonce = f"{challenge.uses:08x}", self._make_cnonce()
        digest = _hasher(challenge.algorithm)
        secret = digest(f"{self._username}:{challenge.realm}:{self._password}")
        if challenge.algorithm.upper().endswith("-SESS"):
            secret = digest(f"{secret}:{challenge.nonce}:{cnonce}")
        asked = digest(f"{method}:{uri}")
        middle = challenge.nonce if challenge.qop is None else f"{challenge.nonce}:{count}:{cnonce}:{challenge.qop}"
        fields = [
            f'username="{_escape(self._username)}"',
            f'realm="{_escape(challenge.realm)}"',
            f'nonce="{_escape(challenge.nonce)}"',
            f'uri="{uri}"',
            f"algorithm={challenge.algorithm}",
            f'response="{digest(f"{secret}:{middle}:{asked}")}"',
        ]
        if challenge.qop is not None:
            fields += [f"qop={challenge.qop}", f"nc={count}", f'cnonce="{cnonce}"']
        if challenge.opaque is not None:
            fields.append(f'opaque="{_escape(challenge.opaque)}"')
        return "Digest " + ", ".join(fields)


def _parse(header: str) -> _Challenge | None:
    scheme, _, rest = header.partition(" ")
    if scheme.lower() != "digest":
        return None
    given = {name.lower(): bare or re.sub(r"\\(.)", r"\1", quoted) for name, quoted, bare in _PARAMETER.findall(rest)}
    algorithm = given.get("algorithm", "MD5")
    offered = [word.strip().lower() for word in given["qop"].split(",")] if "qop" in given else None
    if "realm" not in given or "nonce" not in given or (offered is not None and "auth" not in offered):
        return None
    if algorithm.upper().removesuffix("-SESS") not in _HASHES:
        return None
    return _Challenge(given["realm"], given["nonce"], given.get("opaque"), algorithm, "auth" if offered else None)


def _hasher(algorithm: str) -> Callable[[str], str]:
    name = _HASHES[algorithm.upper().removesuffix("-SESS")]
    return lambda text: hashlib.new(name, text.encode(), usedforsecurity=False).hexdigest()


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
