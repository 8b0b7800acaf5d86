"""Sums of products over many rows, most of whose entries are 0.

Compiled, because BLAS is no match for the zeros, and its threads wait for one another on a busy machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from controller.forecast.known import F8

if TYPE_CHECKING:
    from collections.abc import Callable

    def _compiled(kernel: Callable[..., Any]) -> Callable[..., Any]: ...

else:
    from numba import njit

    _compiled = njit(cache=True, nogil=True)


def add_products(gram: F8, moment: F8, rows: F8, came: F8) -> None:
    """Add to `gram` (F, F) the products of `rows` (N, F) with themselves, to `moment` (F,) those with `came` (N,)."""
    _add_upper(gram, moment, np.ascontiguousarray(rows), came)
    lower = np.tril_indices(len(gram), -1)
    gram[lower] = gram.T[lower]


@_compiled
def _add_upper(gram: F8, moment: F8, rows: F8, came: F8) -> None:
    """The diagonal of `gram` and what is above it."""
    filled = np.empty(rows.shape[1], dtype=np.int64)
    for n in range(rows.shape[0]):
        count = 0
        for f in range(rows.shape[1]):
            if rows[n, f] != 0.0:
                filled[count] = f
                count += 1
        for a in range(count):
            left = rows[n, filled[a]]
            moment[filled[a]] += left * came[n]
            for b in range(a, count):
                gram[filled[a], filled[b]] += left * rows[n, filled[b]]
