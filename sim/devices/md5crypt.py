"""md5crypt ("$1$", Poul-Henning Kamp 1994), which the WhatsMiner API makes its keys with.

Python's own `crypt` is deprecated and gone from 3.13. Needed here only to play the device.
"""

from __future__ import annotations

from hashlib import md5
from typing import Final

_ALPHABET: Final = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ROUNDS: Final = 1_000
_ORDER: Final = ((0, 6, 12), (1, 7, 13), (2, 8, 14), (3, 9, 15), (4, 10, 5))


def md5crypt(password: str, salt: str) -> str:
    """The last field of the crypt string, 22 characters. A salt longer than 8 characters is cut to 8."""
    secret, grain = password.encode(), salt.encode()[:8]
    digest = _mixed(secret, grain)
    for turn in range(_ROUNDS):
        parts = [secret if turn & 1 else digest]
        if turn % 3:
            parts.append(grain)
        if turn % 7:
            parts.append(secret)
        parts.append(digest if turn & 1 else secret)
        digest = _md5(b"".join(parts))
    return _encoded(digest)


def _mixed(secret: bytes, grain: bytes) -> bytes:
    inner = _md5(secret + grain + secret)
    fill = (inner * (len(secret) // 16 + 1))[: len(secret)]
    tail = bytearray()
    bits = len(secret)
    while bits:
        tail += b"\0" if bits & 1 else secret[:1]
        bits >>= 1
    return _md5(secret + b"$1$" + grain + fill + bytes(tail))


def _encoded(digest: bytes) -> str:
    text = "".join(_triplet(digest[a] << 16 | digest[b] << 8 | digest[c], 4) for a, b, c in _ORDER)
    return text + _triplet(digest[11], 2)


def _triplet(value: int, count: int) -> str:
    return "".join(_ALPHABET[value >> shift & 0x3F] for shift in range(0, 6 * count, 6))


def _md5(data: bytes) -> bytes:
    return md5(data, usedforsecurity=False).digest()
