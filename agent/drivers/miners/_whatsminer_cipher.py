"""The encryption of WhatsMiner's API v2: AES-256-ECB under a key made of the admin password.

    key   = md5crypt(password, salt)                salt, newsalt and time come from `get_token`
    sign  = md5crypt(key + time, newsalt)           the token that each command carries
    aes   = SHA-256(key)
    request  {"enc": 1, "data": base64(AES(json, padded with NULs to 16 bytes))}
    reply    {"enc": base64(AES(json))}             NUL padding, or PKCS #7 from some servers

ECB and md5crypt are the vendor's choice, not ours; whoever listens on the wire can replay a command while its token
lives. Keep miners on a network of their own. Source: WhatsMiner API 2.0.3 to 2.0.5, "API ciphertext".
"""

from __future__ import annotations

import binascii
import json
from base64 import b64decode, b64encode
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from agent.drivers.base import MissingExtraError
from agent.drivers.miners._md5crypt import md5crypt
from agent.drivers.miners._values import Json, decode


def require_cryptography() -> None:
    """Raise `MissingExtraError` where the extra `whatsminer` is not installed."""
    try:
        import cryptography  # noqa: F401  only looked for, so that a config fails early
    except ImportError:
        raise MissingExtraError("whatsminer_v2 needs cryptography: pip install 'wattshift[whatsminer]'") from None


@dataclass(frozen=True, slots=True)
class Token:
    """What one `get_token` allows: signing and encrypting commands until it expires."""

    sign: str
    key: str
    born_ms: int
    """Monotonic site time."""


def derive_key(password: str, salt: str) -> str:
    """The secret that password and salt give; 0.5 ms of CPU, worth keeping while the salt stays."""
    return md5crypt(password, salt)


def derive_sign(key: str, time: str, newsalt: str) -> str:
    """The token's signature."""
    return md5crypt(key + time, newsalt)


def seal(token: Token, command: dict[str, Any]) -> bytes:
    """The bytes of one encrypted command."""
    plain = json.dumps({"token": token.sign, **command}, separators=(",", ":")).encode()
    plain += b"\0" * (-len(plain) % 16)
    data = b64encode(_aes(token, plain, encrypt=True)).decode()
    return json.dumps({"enc": 1, "data": data}, separators=(",", ":")).encode()


def unseal(token: Token, reply: Json) -> Json | None:
    """The reply in clear. A reply that came in clear, as refusals do, is given as it is; None for garbage."""
    sealed = reply.get("enc")
    if not isinstance(sealed, str):
        return reply
    try:
        cipher = b64decode(sealed)
    except (binascii.Error, ValueError):
        return None
    if not cipher or len(cipher) % 16:
        return None
    plain = _aes(token, cipher, encrypt=False)
    return decode(plain[: plain.rfind(b"}") + 1])


def _aes(token: Token, data: bytes, *, encrypt: bool) -> bytes:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    cipher = Cipher(algorithms.AES(sha256(token.key.encode()).digest()), modes.ECB())  # noqa: S305  the vendor's choice
    worker = cipher.encryptor() if encrypt else cipher.decryptor()
    return worker.update(data) + worker.finalize()
