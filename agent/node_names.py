"""What a scheduler calls its nodes, written short: `gpu[001-400,412]` is 401 of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

NODES_MAX: Final = 10_000
NAME_PATTERN: Final = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?$"
_SHORT: Final = re.compile(r"^([A-Za-z0-9._-]*)\[([0-9,-]+)\]([A-Za-z0-9._-]*)$")
_RANGE: Final = re.compile(r"^(\d{1,9})(?:-(\d{1,9}))?$")


def node_names(texts: Iterable[str]) -> list[str]:
    """All nodes that the texts name, in order. Raises `ValueError` saying what is wrong and what to write."""
    names: list[str] = []
    for text in texts:
        names += _expanded(text.strip())
        if len(names) > NODES_MAX:
            raise ValueError(f"more than {NODES_MAX} nodes; fix: split the partition over several banks")
    twice = [name for name in names if names.count(name) > 1] if len(set(names)) < len(names) else []
    if twice:
        raise ValueError(f"{twice[0]!r} is named twice; fix: name each once")
    return names


def _expanded(text: str) -> list[str]:
    short = _SHORT.match(text)
    found = [text] if short is None else [f"{short[1]}{number}{short[3]}" for number in _numbers(text, short[2])]
    for name in found[:1]:
        if not re.match(NAME_PATTERN, name):
            raise ValueError(f"{text!r} is no node; fix: write its name, or a range as gpu[001-400]")
    return found


def _numbers(text: str, ranges: str) -> list[str]:
    """The numbers of a range, each as long as its first is written."""
    numbers: list[str] = []
    for part in ranges.split(","):
        match = _RANGE.match(part)
        if match is None:
            raise ValueError(f"{text!r}: {part!r} is no range; fix: write it as 001-400")
        first, last = match[1], match[2] or match[1]
        if int(last) < int(first):
            raise ValueError(f"{text!r}: {part} ends before it begins; fix: put the lower number first")
        if len(numbers) + int(last) - int(first) >= NODES_MAX:
            raise ValueError(f"{text!r} is more than {NODES_MAX} nodes; fix: split the partition over several banks")
        numbers += [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    return numbers
