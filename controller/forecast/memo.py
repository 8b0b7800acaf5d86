"""The last answer, kept for as long as the question is the same to the byte: speed that no result depends on."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Memo(Generic[T]):
    """Remembers one answer. The key must hold all that the answer depends on."""

    def __init__(self) -> None:
        self._kept: tuple[Hashable, T] | None = None

    def get(self, key: Hashable, answer: Callable[[], T]) -> T:
        """The answer to `key`: the kept one, or a new one that is kept in its place."""
        if self._kept is not None and self._kept[0] == key:
            return self._kept[1]
        value = answer()
        self._kept = (key, value)
        return value

    def forget(self) -> None:
        """For when something changed that the keys do not hold."""
        self._kept = None
