"""How a kernel is compiled: ahead of its first use, kept on disk, free of the interpreter's lock.

numba's cache looks only at the file a function stands in, so an edited callee would leave its callers stale. The cache of
this package is therefore kept in a folder named by the text of all of its sources.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Final, ParamSpec, TypeVar, cast

import numba

P = ParamSpec("P")
R = TypeVar("R")

_HERE: Final = Path(__file__).parent


def _digest() -> str:
    text = hashlib.sha256()
    for source in sorted(_HERE.glob("*.py")):
        text.update(source.read_bytes())
    return text.hexdigest()[:16]


_CACHE: Final = _HERE / "__pycache__" / f"kernels-{_digest()}"


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` when it is first called and keep the result; it runs without the GIL.

    No fast-math: the same input gives the same bytes. Where the folder cannot be written, numba's own choice of cache holds.
    """
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(_CACHE)
    try:
        return cast(Callable[P, R], numba.njit(cache=True, nogil=True)(function))
    finally:
        numba.config.CACHE_DIR = before
