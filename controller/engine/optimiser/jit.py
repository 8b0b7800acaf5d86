"""How a kernel is compiled: ahead of its first use, kept on disk, free of the interpreter's lock.

numba's cache looks only at the file a function stands in, so an edited callee would leave its callers stale. The cache
of this package is therefore kept in a folder named by all of its sources.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar, cast

import numba
from numba.core import config

P = ParamSpec("P")
R = TypeVar("R")

_HERE: Final = Path(__file__).parent
_SETTINGS: Final[Any] = config
_NJIT: Final[Any] = numba.njit


def _digest() -> str:
    """Of what the sources say; their comments, docstrings and layout may change freely."""
    text = hashlib.sha256()
    for source in sorted(_HERE.glob("*.py")):
        tree = ast.parse(source.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                node.body = [part for part in node.body if not _is_text(part)]
        text.update(ast.dump(tree).encode())
    return text.hexdigest()[:16]


def _is_text(part: ast.stmt) -> bool:
    return isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant)


_CACHE: Final = _HERE / "__pycache__" / f"kernels-{_digest()}"


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` when a kernel first calls it, and keep the result. Python cannot call it: see `entry`.

    No fast-math: the same input gives the same bytes.
    """
    return _compiled(function, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def entry(function: Callable[P, R]) -> Callable[P, R]:
    """A kernel that Python calls; it runs without the interpreter's lock. Each one costs seconds to compile: few."""
    return _compiled(function)


def _compiled(function: Callable[P, R], **options: bool) -> Callable[P, R]:
    """Where the cache's folder cannot be written, numba's own choice of one holds."""
    before = _SETTINGS.CACHE_DIR
    _SETTINGS.CACHE_DIR = str(_CACHE)
    try:
        return cast(Callable[P, R], _NJIT(cache=True, nogil=True, **options)(function))
    finally:
        _SETTINGS.CACHE_DIR = before
