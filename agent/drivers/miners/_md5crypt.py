"""The `$1$` password hash (md5crypt), which WhatsMiner's API v2 derives its keys with.

Written out here because nothing kept well offers it: the standard library's `crypt` is gone from Python 3.13 and hangs
on the system's libc, passlib is unmaintained, and `cryptography` has no such thing. Poul-Henning Kamp's algorithm as
published with FreeBSD's crypt(3); checked against OpenSSL's in the tests. 0.5 ms of CPU a hash, by its design.
"""

from __future__ import annotations

from hashlib import md5
from typing import Final

_MAGIC: Final = b"$1$"
_ROUNDS: Final = 1_000
_DIGITS: Final = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_TRIPLES: Final = ((0, 6, 12), (1, 7, 13), (2, 8, 14), (3, 9, 15), (4, 10, 5))


def md5crypt(password: str, salt: str) -> str:
    """The 22 characters that `openssl passwd -1 -salt SALT PASSWORD` prints after the last `$`.

    Only the first eight characters of the salt count.
    """
    key, grain = password.encode(), salt.encode()[:8]
    inner = md5(key + grain + key, usedforsecurity=False).digest()
    start = key + _MAGIC + grain + (inner * (len(key) // 16 + 1))[: len(key)]
    length = len(key)
    while length:
        start += b"\0" if length & 1 else key[:1]
        length >>= 1
    digest = md5(start, usedforsecurity=False).digest()
    for turn in range(_ROUNDS):
        first, last = (key, digest) if turn & 1 else (digest, key)
        mixed = first + (grain if turn % 3 else b"") + (key if turn % 7 else b"") + last
        digest = md5(mixed, usedforsecurity=False).digest()
    words = [_encode(digest[a] << 16 | digest[b] << 8 | digest[c], 4) for a, b, c in _TRIPLES]
    return "".join(words) + _encode(digest[11], 2)


def _encode(value: int, digits: int) -> str:
    return "".join(_DIGITS[value >> 6 * place & 63] for place in range(digits))
