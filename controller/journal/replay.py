"""Decide it all again: the proof that a journal tells the whole story.

Reads decisions in the order they were made, hands each snapshot and its params to `decide`, and compares the outcome
byte for byte with what was journalled.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from controller.engine.model import Decision, Params, SiteSnapshot, Snapshot
from controller.journal.base import Journal, StoredDecision
from controller.journal.codec import decision_body

_ABSENT: Final = "(absent)"


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a replayed decision is not the journalled one."""

    id: str
    site: str
    at_ms: int
    engine: str
    """The version that made the journalled decision."""
    field: str
    """Path of the first field that differs, such as `banks.3.target_w`; or what was wrong with the row."""
    journalled: str
    replayed: str


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What a replay found. Byte for byte the same where `first` is None."""

    decisions: int
    """Calls of `decide`."""
    sites: int
    """Site decisions compared."""
    different: int
    first: Difference | None


async def replay(
    journal: Journal,
    decide: Callable[[Snapshot, Params], Decision],
    *,
    site: str | None = None,
    after_n: int = 0,
    stop_at_first: bool = True,
) -> ReplayResult:
    """Replay everything after row `after_n`; with `site`, compare only that one. Raises `JournalError`."""
    decisions = sites = different = 0
    first: Difference | None = None
    async for group in _grouped(journal.decisions(after_n)):
        decisions += 1
        for found in _compare(group, decide, site):
            sites += 1
            if found is not None:
                different += 1
                first = first or found
        if first is not None and stop_at_first:
            break
    return ReplayResult(decisions, sites, different, first)


def first_difference(journalled: Any, replayed: Any, path: str = "") -> tuple[str, str, str] | None:
    """Path and both values of the first place where two JSON values differ, keys in sorted order."""
    if isinstance(journalled, dict) and isinstance(replayed, dict):
        for key in sorted(journalled.keys() | replayed.keys()):
            found = first_difference(journalled.get(key, _ABSENT), replayed.get(key, _ABSENT), f"{path}.{key}")
            if found:
                return found
        return None
    if isinstance(journalled, list) and isinstance(replayed, list):
        for index in range(max(len(journalled), len(replayed))):
            one = journalled[index] if index < len(journalled) else _ABSENT
            two = replayed[index] if index < len(replayed) else _ABSENT
            found = first_difference(one, two, f"{path}.{index}")
            if found:
                return found
        return None
    if journalled == replayed and type(journalled) is type(replayed):
        return None
    return path.lstrip("."), json.dumps(journalled)[:200], json.dumps(replayed)[:200]


async def _grouped(rows: AsyncIterator[StoredDecision]) -> AsyncIterator[list[StoredDecision]]:
    """Rows of one call of `decide` together; they stand one after the other."""
    group: list[StoredDecision] = []
    async for row in rows:
        if group and row.id != group[0].id:
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def _compare(
    group: list[StoredDecision], decide: Callable[[Snapshot, Params], Decision], only: str | None
) -> Iterator[Difference | None]:
    try:
        params = Params.model_validate_json(group[0].params)
        sites = sorted((SiteSnapshot.model_validate_json(row.snapshot) for row in group), key=lambda each: each.site)
    except ValidationError as error:
        yield _difference(group[0], "snapshot", "unreadable", str(error.errors(include_url=False)[0]["msg"]))
        return
    replayed = decide(Snapshot(at_ms=group[0].at_ms, sites=tuple(sites)), params)
    by_site = {each.site: each for each in replayed.sites}
    for row in group:
        if only is not None and row.site != only:
            continue
        again = by_site.get(row.site)
        if again is None:
            yield _difference(row, "", "a decision", _ABSENT)
            continue
        body = decision_body(again)
        if body == row.decision:
            yield None
            continue
        found = first_difference(json.loads(row.decision), json.loads(body))
        yield _difference(row, *(found or ("the order of keys", "same values", "same values")))


def _difference(row: StoredDecision, field: str, journalled: str, replayed: str) -> Difference:
    return Difference(row.id, row.site, row.at_ms, row.engine, field, journalled, replayed)
