"""What a starting controller reads from its journal: the epoch to stand above, and what was in force."""

from __future__ import annotations

import logging
from typing import Final

from sqlalchemy import Table, func, insert, or_, select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from controller.engine.model import Obligation, SiteDecision
from controller.journal.base import Restored
from controller.journal.codec import unpack
from controller.journal.tables import DECISIONS, EPOCHS, OVERRIDES, SIGNALS
from controller.overrides_model import Imposed

_LOG = logging.getLogger(__name__)
_TRIES: Final = 20
_LOOK_BACK: Final = 100_000
"""Rows of decisions searched for the last of each site."""
_OPERATOR_MAX: Final = 100_000
OVERRIDES_BACK_MS: Final = 24 * 3_600_000
"""What is over is found again for so long: ops ask for it, and the wall clock may be wrong at the start."""


async def raise_epoch(engine: AsyncEngine, floor: int, now_ms: int) -> tuple[int, bool]:
    """A number above every epoch on record and above `floor`, and whether it is now on record itself.

    Two controllers that start at once get two numbers: the primary key lets only one have each.
    """
    for _ in range(_TRIES):
        async with engine.connect() as connection:
            highest = (await connection.execute(select(func.max(EPOCHS.c.epoch)))).scalar()
        epoch = max(int(highest or 0), floor) + 1
        try:
            async with engine.begin() as connection:
                await connection.execute(insert(EPOCHS), {"epoch": epoch, "started_at_ms": now_ms})
        except IntegrityError:
            continue
        except SQLAlchemyError as error:
            _LOG.error("the new epoch %d could not be written: %s", epoch, str(error).splitlines()[0])
            return epoch, False
        return epoch, True
    raise ValueError(f"no epoch to be had in {_TRIES} tries: do many controllers start at once?")


async def read_restored(engine: AsyncEngine, epoch: int, durable: bool, now_ms: int) -> Restored:
    """Signals and overrides in force, and the last decision of each site."""
    async with engine.connect() as connection:
        signals = await _standing(connection, SIGNALS, "accept", now_ms)
        overrides = await _overrides(connection, now_ms - OVERRIDES_BACK_MS)
        decisions = await _last_decisions(connection)
    return Restored(
        epoch=epoch,
        epoch_durable=durable,
        obligations=[Obligation.model_validate_json(body) for body in signals],
        overrides=overrides,
        decisions=decisions,
    )


async def _standing(connection: AsyncConnection, table: Table, opens: str, now_ms: int) -> list[str]:
    """Bodies of what was opened and not closed since, and is not over; the last word on an id holds."""
    query = (
        select(table.c.id, table.c.action, table.c.body)
        .where(or_(table.c.ends_at_ms.is_(None), table.c.ends_at_ms > now_ms))
        .order_by(table.c.n.desc())
        .limit(_OPERATOR_MAX)
    )
    last: dict[str, str | None] = {}
    for row in await connection.execute(query):
        last.setdefault(row.id, row.body if row.action == opens else None)
    return [body for body in reversed(last.values()) if body is not None]


async def _overrides(connection: AsyncConnection, since_ms: int) -> list[Imposed]:
    """The last word on every override that is not over, or came to its end or was revoked after `since_ms`.

    By the last word, not by each: one whose end was drawn in must not come back with the end it had before.
    """
    recent = or_(OVERRIDES.c.ends_at_ms.is_(None), OVERRIDES.c.ends_at_ms > since_ms)
    newest = select(func.max(OVERRIDES.c.n)).group_by(OVERRIDES.c.id)
    query = (
        select(OVERRIDES.c.action, OVERRIDES.c.body)
        .where(recent, OVERRIDES.c.n.in_(newest))
        .order_by(OVERRIDES.c.n.desc())
        .limit(_OPERATOR_MAX)
    )
    found: list[Imposed] = []
    for row in await connection.execute(query):
        each = Imposed.model_validate_json(row.body)
        stands = row.action == "set" and each.revoked_at_ms is None
        if stands or (each.revoked_at_ms is not None and each.revoked_at_ms > since_ms):
            found.append(each)
    return found[::-1]


async def _last_decisions(connection: AsyncConnection) -> dict[str, SiteDecision]:
    newest = (await connection.execute(select(func.max(DECISIONS.c.n)))).scalar()
    if newest is None:
        return {}
    recent = select(func.max(DECISIONS.c.n)).where(DECISIONS.c.n > newest - _LOOK_BACK).group_by(DECISIONS.c.site)
    rows = await connection.execute(select(DECISIONS.c.site, DECISIONS.c.decision).where(DECISIONS.c.n.in_(recent)))
    return {row.site: SiteDecision.model_validate_json(unpack(row.decision)) for row in rows}
