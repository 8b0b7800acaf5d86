"""The journal in SQL: SQLite by default (WAL, every commit on disk), PostgreSQL for more than one controller.

Records are packed as they are written and wait in a queue bounded by number and by size. One task moves them in
batches. A write that fails (a full disk, a database gone) is tried again for ever, while the queue fills; what does not
fit then is dropped and counted, and the loss is itself written down once the journal is well again. Signals and
overrides have a reserve in the queue, because they must outlive a restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Select, event, insert, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError, ProgrammingError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from controller.journal.base import (
    EventRecord,
    JournalError,
    JournalHealth,
    OverrideRecord,
    Record,
    Restored,
    SignalRecord,
    StoredDecision,
)
from controller.journal.codec import join, unpack
from controller.journal.restore import raise_epoch, read_restored
from controller.journal.rows import Row, RowMaker
from controller.journal.tables import CONTENTS, DECISIONS, METADATA

_LOG = logging.getLogger(__name__)
QUEUE_BYTES: Final = 64 * 2**20
RESERVE: Final = 2_000
"""Places in the queue that only signals, overrides and events may take."""
_BATCH: Final = 2_000
_LINGER_S: Final = 0.01
"""How long a batch is gathered; a decision is durable about this much later."""
_CLOSE_S: Final = 5.0
_PAGE: Final = 500
_SQLITE_PAGE_BYTES: Final = 4_096


class SqlJournal:
    """A `Journal` over SQLAlchemy's async engine."""

    def __init__(
        self,
        url: str,
        *,
        queue_records: int = 50_000,
        retry_s: float = 5.0,
        max_mb: int | None = None,
        epoch_floor: int = 0,
    ) -> None:
        self._url = url
        self._queue_records = queue_records
        self._retry_s = retry_s
        self._max_mb = max_mb
        self._epoch_floor = epoch_floor
        self._maker = RowMaker()
        self._queue: deque[Row] = deque()
        self._queue_bytes = 0
        self._batch: list[Row] = []
        self._wake = asyncio.Event()
        self._settled = asyncio.Event()
        self._engine: AsyncEngine | None = None
        self._pump_task: asyncio.Task[None] | None = None
        self._in = self._done = self._written = self._dropped = self._failures = 0
        self._dropped_told = 0
        self._fault: str | None = None
        self._commit_s: float | None = None
        self._now_ms = 0
        self._reading = False

    async def open(self, now_ms: int) -> Restored:
        await self._probe()
        self._engine = _make_engine(self._url, self._max_mb)
        self._now_ms = now_ms
        try:
            await self._create_tables()
            epoch, durable = await raise_epoch(self._engine, self._epoch_floor, now_ms)
            restored = await read_restored(self._engine, epoch, durable, now_ms)
        except (SQLAlchemyError, OSError, ValueError) as error:
            await self._engine.dispose()
            raise JournalError(f"journal {self._shown()} cannot be opened: {_first_line(error)}") from error
        if not durable:
            self._failed("the new epoch could not be written")
        self._pump_task = asyncio.create_task(self._pump(), name="journal")
        return restored

    async def open_to_read(self) -> None:
        """Only read: the epoch stays, nothing is written, and a controller may be writing beside.

        Raises `JournalError` where there is no journal.
        """
        path = self._sqlite_path()
        if path is not None and not await asyncio.to_thread(Path(path).is_file):
            raise JournalError(f"journal {path} cannot be opened: there is no such file")
        await self._probe()
        self._engine = _make_engine(self._url, None)
        self._reading = True
        try:
            async with self._engine.connect() as connection:
                await connection.execute(select(DECISIONS.c.n).limit(1))
        except (SQLAlchemyError, OSError) as error:
            await self.close()
            raise JournalError(f"{self._shown()} is no journal: {_first_line(error)}") from error

    def write(self, record: Record) -> bool:
        if self._reading:
            return False
        self._now_ms = max(self._now_ms, getattr(record, "at_ms", 0))
        limit = self._queue_records
        if isinstance(record, SignalRecord | OverrideRecord | EventRecord):
            limit += RESERVE
        elif self._queue_bytes >= QUEUE_BYTES:
            limit = 0
        if len(self._queue) >= limit:
            self._dropped += 1
            return False
        for row in self._maker.rows(record):
            self._queue.append(row)
            self._queue_bytes += row.size
            self._in += 1
        self._wake.set()
        return True

    async def flush(self, timeout_s: float) -> bool:
        target, dropped = self._in, self._dropped
        try:
            async with asyncio.timeout(timeout_s):
                while self._done < target and self._fault is None:
                    self._settled.clear()
                    await self._settled.wait()
        except TimeoutError:
            return False
        return self._done >= target and self._dropped == dropped

    async def close(self) -> None:
        if self._engine is None:
            return
        await self.flush(_CLOSE_S)
        if self._pump_task is not None:
            self._pump_task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._pump_task
        await self._engine.dispose()
        self._engine = self._pump_task = None

    @property
    def health(self) -> JournalHealth:
        return JournalHealth(
            ok=self._fault is None,
            detail=self._fault or "well",
            queued=self._in - self._done,
            written=self._written,
            dropped=self._dropped,
            failures=self._failures,
            queue_max=self._queue_records,
            commit_s=self._commit_s,
            size_bytes=_size(self._sqlite_path()),
        )

    async def recent(self, site: str | None, limit: int) -> list[StoredDecision]:
        query = select(DECISIONS).order_by(DECISIONS.c.n.desc()).limit(limit)
        if site is not None:
            query = query.where(DECISIONS.c.site == site)
        return await self._read(query)

    async def decisions(self, after_n: int = 0, site: str | None = None) -> AsyncIterator[StoredDecision]:
        while True:
            query = select(DECISIONS).where(DECISIONS.c.n > after_n).order_by(DECISIONS.c.n).limit(_PAGE)
            if site is not None:
                query = query.where(DECISIONS.c.site == site)
            page = await self._read(query)
            for stored in page:
                yield stored
            if len(page) < _PAGE:
                return
            after_n = page[-1].n

    async def _read(self, query: Select[Any]) -> list[StoredDecision]:
        if self._engine is None:
            raise JournalError("the journal is not open")
        try:
            async with self._engine.connect() as connection:
                rows = (await connection.execute(query)).mappings().all()
                keys = {row[name] for row in rows for name in ("params", "nameplate")}
                found = await connection.execute(select(CONTENTS).where(CONTENTS.c.key.in_(keys)))
                bodies = {row.key: unpack(row.body) for row in found}
            return [_stored(row, bodies) for row in rows]
        except (SQLAlchemyError, OSError, ValueError, KeyError) as error:
            raise JournalError(f"journal {self._shown()} cannot be read: {_first_line(error)}") from error

    async def _probe(self) -> None:
        """Open and close an SQLite file once before the pool does: a pool that fails leaves its thread behind."""
        path = self._sqlite_path()
        if path is None:
            return
        try:
            await asyncio.to_thread(_open_once, path)
        except sqlite3.Error as error:
            raise JournalError(f"journal {path} cannot be opened: {error}") from error

    def _sqlite_path(self) -> str | None:
        path = self._url.removeprefix("sqlite+aiosqlite:///")
        return None if path in (self._url, "", ":memory:") else path

    async def _create_tables(self) -> None:
        assert self._engine is not None  # noqa: S101  open() has just made it
        try:
            async with self._engine.begin() as connection:
                await connection.run_sync(METADATA.create_all)
        except SQLAlchemyError as error:
            # A full disk must not keep a controller down whose journal already has its tables.
            try:
                async with self._engine.connect() as connection:
                    await connection.execute(select(DECISIONS.c.n).limit(1))
            except SQLAlchemyError:
                raise error from None

    async def _pump(self) -> None:
        """Move rows from the queue to the database until cancelled."""
        while True:
            if not self._batch:
                await self._wake.wait()
                await asyncio.sleep(_LINGER_S)
                self._take_batch()
            began_s = asyncio.get_running_loop().time()
            try:
                await self._commit(self._batch)
            except (IntegrityError, ProgrammingError) as error:
                # A row the database will never take: keep it from blocking all others.
                self._failed(f"rows refused: {_first_line(error)}")
                self._drop_batch()
            except (SQLAlchemyError, OSError) as error:
                self._failed(_first_line(error))
                await asyncio.sleep(self._retry_s)
            else:
                self._commit_s = asyncio.get_running_loop().time() - began_s
                self._landed()

    def _take_batch(self) -> None:
        while self._queue and len(self._batch) < _BATCH:
            row = self._queue.popleft()
            self._queue_bytes -= row.size
            self._batch.append(row)
        if not self._queue:
            self._wake.clear()

    async def _commit(self, batch: Sequence[Row]) -> None:
        assert self._engine is not None  # noqa: S101  the pump lives between open and close
        async with self._engine.begin() as connection:
            by_table: dict[Any, list[dict[str, Any]]] = {}
            for row in batch:
                by_table.setdefault(row.table, []).append(row.values)
            for table, values in by_table.items():
                await _insert(connection, table, values)

    def _landed(self) -> None:
        self._written += len(self._batch)
        self._finish_batch()
        if self._fault is not None:
            _LOG.info("journal %s: well again", self._shown())
            self._fault = None
            lost, self._dropped_told = self._dropped - self._dropped_told, self._dropped
            self.write(EventRecord(self._now_ms, "journal_recovered", None, f"{lost} records were lost meanwhile"))

    def _drop_batch(self) -> None:
        for row in self._batch:
            if row.table is CONTENTS:
                self._maker.forget(row.values["key"])
        self._dropped += len(self._batch)
        self._finish_batch()

    def _finish_batch(self) -> None:
        self._done += len(self._batch)
        self._batch = []
        self._settled.set()

    def _failed(self, why: str) -> None:
        self._failures += 1
        if self._fault is None:
            _LOG.error("journal %s: %s; decisions go on, records wait in a bounded queue", self._shown(), why)
        self._fault = why
        self._settled.set()

    def _shown(self) -> str:
        """The URL without a password."""
        return self._url.rpartition("@")[2] if "@" in self._url else self._url


def _open_once(path: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA schema_version")


def _size(path: str | None) -> int | None:
    """Of a file, with what waits in its write-ahead log."""
    if path is None:
        return None
    found = [each.stat().st_size for each in (Path(path), Path(f"{path}-wal")) if each.is_file()]
    return sum(found) if found else None


def _make_engine(url: str, max_mb: int | None) -> AsyncEngine:
    try:
        engine = create_async_engine(url, pool_pre_ping=not url.startswith("sqlite"))
    except (SQLAlchemyError, ImportError) as error:
        raise JournalError(f"the journal's URL is of no use: {_first_line(error)}") from error
    if url.startswith("sqlite"):

        @event.listens_for(engine.sync_engine, "connect")
        def _prepare(connection: Any, _record: Any) -> None:
            cursor = connection.cursor()
            cursor.execute("PRAGMA journal_mode=WAL")
            cursor.execute("PRAGMA synchronous=FULL")
            cursor.execute("PRAGMA busy_timeout=5000")
            if max_mb is not None:
                cursor.execute(f"PRAGMA max_page_count={max_mb * 2**20 // _SQLITE_PAGE_BYTES}")
            cursor.close()

    return engine


async def _insert(connection: AsyncConnection, table: Any, values: list[dict[str, Any]]) -> None:
    if table is not CONTENTS:
        await connection.execute(insert(table), values)
    elif connection.dialect.name == "postgresql":
        await connection.execute(postgresql.insert(table).on_conflict_do_nothing(), values)
    else:
        await connection.execute(sqlite.insert(table).on_conflict_do_nothing(), values)


def _stored(row: Any, bodies: dict[str, bytes]) -> StoredDecision:
    return StoredDecision(
        n=row["n"],
        id=row["id"],
        site=row["site"],
        at_ms=row["at_ms"],
        trigger=row["trigger"],
        engine=row["engine"],
        params=bodies[row["params"]],
        snapshot=join(unpack(row["snapshot"]), bodies[row["nameplate"]]),
        decision=unpack(row["decision"]),
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
