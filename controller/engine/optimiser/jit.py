"""How a kernel is compiled: ahead of its first use, kept on disk, free of the interpreter's lock.

numba's cache looks only at the file a function stands in, so an edited callee would leave its callers stale. What is
compiled of a module is therefore kept in a folder named by its source and those of all it imports of this package.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar, cast

import numba
from numba.core import config

P = ParamSpec("P")
R = TypeVar("R")

_HERE: Final = Path(__file__).parent
_PACKAGE: Final = __name__.rpartition(".")[0]
_ROOT: Final = _HERE.parents[_PACKAGE.count(".")]
_SETTINGS: Final[Any] = config
_NJIT: Final[Any] = numba.njit


@cache
def _said(module: str) -> tuple[bytes, frozenset[str]]:
    """What a module says but for comments, docstrings and layout, and which modules of this package it imports."""
    tree = ast.parse((_ROOT / module.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8"))
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            node.body = [part for part in node.body if not _is_text(part)]
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith(f"{_PACKAGE}."):
            imported.add(node.module)
    return ast.dump(tree).encode(), frozenset(imported)


@cache
def _folder(module: str) -> str:
    """Where what is compiled of a module is kept."""
    met, waiting, text = set[str](), {module}, hashlib.sha256()
    while waiting:
        name = waiting.pop()
        met.add(name)
        waiting |= _said(name)[1] - met
    for name in sorted(met):
        text.update(name.encode() + _said(name)[0])
    return str(_HERE / "__pycache__" / f"kernels-{text.hexdigest()[:16]}")


def _is_text(part: ast.stmt) -> bool:
    return isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant)


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
    _SETTINGS.CACHE_DIR = _folder(function.__module__)
    try:
        return cast(Callable[P, R], _NJIT(cache=True, nogil=True, **options)(function))
    finally:
        _SETTINGS.CACHE_DIR = before
