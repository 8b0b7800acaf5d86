"""The journal: what is written comes back as it was, a restart finds what was in force, and a full disk is survived."""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.schema import CreateIndex, CreateTable

from controller.engine.model import (
    Decision,
    EnergyPrice,
    HashPrice,
    Obligation,
    Override,
    OverrideKind,
    Params,
    SiteSnapshot,
    Snapshot,
)
from controller.journal.base import (
    DecisionRecord,
    EventRecord,
    Journal,
    JournalError,
    OrderRecord,
    OverrideRecord,
    Record,
    SignalRecord,
)
from controller.journal.codec import join, plate_body, snapshot_rest
from controller.journal.memory import MemoryJournal
from controller.journal.replay import first_difference, replay
from controller.journal.restore import raise_epoch
from controller.journal.sql import SqlJournal
from controller.journal.tables import METADATA
from tests.controller.kit import WALL_MS, level_decide, plate, report, until

PARAMS = Params()


def snapshot(site: str = "alpha", n: int = 0) -> SiteSnapshot:
    return SiteSnapshot(
        site=site,
        nameplate=plate(site),
        online=True,
        report=report(site, seq=n, bank_w=(900_000 + n, 1_000_000)),
        report_age_ms=n % 5_000,
        energy=EnergyPrice(usd_per_mwh=0.1 + n / 3, age_ms=0, feed="rt"),
        hashprice=HashPrice(usd_per_ph_day=55.123456789, feed="hp"),
    )


def decided(n: int, sites: tuple[str, ...] = ("alpha",)) -> list[DecisionRecord]:
    frozen = Snapshot(at_ms=WALL_MS + n, sites=tuple(snapshot(site, n) for site in sites))
    decision = level_decide(frozen, PARAMS)
    return [
        DecisionRecord(f"1-{n}", WALL_MS + n, "tick", "test/1", PARAMS, one, two)
        for one, two in zip(frozen.sites, decision.sites, strict=True)
    ]


def obligation(key: str, ends_at_ms: int = WALL_MS + 60_000) -> Obligation:
    return Obligation(
        id=key, site="alpha", target_w=1, received_at_ms=WALL_MS, starts_at_ms=WALL_MS, ends_at_ms=ends_at_ms
    )


def override(key: str, ends_at_ms: int | None = None) -> Override:
    return Override(
        id=key,
        kind=OverrideKind.LOCKOUT,
        site="alpha",
        starts_at_ms=WALL_MS,
        ends_at_ms=ends_at_ms,
        reason="works",
        created_at_ms=WALL_MS,
    )


def url(folder: Path) -> str:
    return f"sqlite+aiosqlite:///{folder}/journal.sqlite3"


@asynccontextmanager
async def opened(folder: Path, **more: Any) -> AsyncIterator[SqlJournal]:
    journal = SqlJournal(url(folder), **more)
    await journal.open(WALL_MS)
    try:
        yield journal
    finally:
        await journal.close()


@pytest.fixture(params=["sql", "memory"])
async def journal(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Journal]:
    made: Journal = SqlJournal(url(tmp_path)) if request.param == "sql" else MemoryJournal()
    await made.open(WALL_MS)
    yield made
    await made.close()


class TestBoth:
    """SQL and memory keep the same promises."""

    async def test_a_decision_comes_back_as_the_very_bytes(self, journal: Journal) -> None:
        records = [record for n in range(5) for record in decided(n, ("alpha", "beta"))]
        for record in records:
            assert journal.write(record)
        assert await journal.flush(5.0)
        stored = [each async for each in journal.decisions()]
        assert [(each.id, each.site) for each in stored] == [(r.id, r.snapshot.site) for r in records]
        for record, each in zip(records, stored, strict=True):
            assert each.decision == record.decision.model_dump_json().encode()
            assert SiteSnapshot.model_validate_json(each.snapshot) == record.snapshot
            assert Params.model_validate_json(each.params) == record.params

    async def test_the_newest_come_first_and_one_site_alone(self, journal: Journal) -> None:
        for n in range(4):
            for record in decided(n, ("alpha", "beta")):
                journal.write(record)
        await journal.flush(5.0)
        assert [each.id for each in await journal.recent("beta", 3)] == ["1-3", "1-2", "1-1"]
        assert [each.site for each in await journal.recent(None, 2)] == ["beta", "alpha"]
        assert [each.id async for each in journal.decisions(site="beta")] == ["1-0", "1-1", "1-2", "1-3"]

    async def test_replay_reproduces_every_decision_byte_for_byte(self, journal: Journal) -> None:
        for n in range(30):
            for record in decided(n, ("alpha", "beta", "gamma")):
                journal.write(record)
        await journal.flush(5.0)
        result = await replay(journal, level_decide)
        assert (result.decisions, result.sites, result.different, result.first) == (30, 90, 0, None)

    async def test_replay_names_the_first_field_that_differs(self, journal: Journal) -> None:
        for n in range(6):
            for record in decided(n, ("alpha", "beta")):
                journal.write(record)
        await journal.flush(5.0)

        def changed(frozen: Snapshot, params: Params) -> Decision:
            decision = level_decide(frozen, params)
            if frozen.at_ms < WALL_MS + 3:
                return decision
            beta = decision.sites[1]
            bank = beta.banks[1].model_copy(update={"target_w": 7})
            return decision.model_copy(
                update={"sites": (decision.sites[0], beta.model_copy(update={"banks": (beta.banks[0], bank)}))}
            )

        result = await replay(journal, changed, stop_at_first=False)
        assert (result.decisions, result.different) == (6, 3)
        assert result.first is not None
        assert (result.first.id, result.first.site, result.first.field) == ("1-3", "beta", "banks.1.target_w")
        assert (result.first.journalled, result.first.replayed) == ("1000000", "7")
        only = await replay(journal, changed, site="alpha")
        assert only.first is None

    async def test_the_epoch_rises_at_every_start_and_what_is_in_force_is_found_again(self, journal: Journal) -> None:
        records: list[Record] = [
            SignalRecord(WALL_MS, "accept", obligation("stands")),
            SignalRecord(WALL_MS, "accept", obligation("withdrawn")),
            SignalRecord(WALL_MS, "withdraw", obligation("withdrawn")),
            SignalRecord(WALL_MS, "accept", obligation("over", WALL_MS + 5)),
            OverrideRecord(WALL_MS, "set", override("stands")),
            OverrideRecord(WALL_MS, "set", override("lifted")),
            OverrideRecord(WALL_MS, "lift", override("lifted")),
            OverrideRecord(WALL_MS, "set", override("again")),
            OverrideRecord(WALL_MS, "lift", override("again")),
            OverrideRecord(WALL_MS, "set", override("again")),
            OverrideRecord(WALL_MS, "set", override("over", WALL_MS + 5)),
            *decided(1),
            *decided(2),
        ]
        for record in records:
            journal.write(record)
        await journal.flush(5.0)
        await journal.close()
        restored = await journal.open(WALL_MS + 1_000)
        assert (restored.epoch, restored.epoch_durable) == (2, True)
        assert [each.id for each in restored.obligations] == ["stands"]
        assert [each.id for each in restored.overrides] == ["stands", "again", "over"], "what is over is kept for a day"
        assert restored.decisions == {"alpha": decided(2)[0].decision}


class TestSql:
    async def test_a_nameplate_is_kept_once_however_many_decisions_name_it(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as journal:
            frozen = snapshot()
            decision = level_decide(Snapshot(at_ms=WALL_MS, sites=(frozen,)), PARAMS).sites[0]
            for n in range(50):
                other = frozen.model_copy(update={"nameplate": plate()})
                journal.write(DecisionRecord(f"1-{n}", WALL_MS, "tick", "t", PARAMS, other, decision))
            assert await journal.flush(5.0)
        assert await _scalar(tmp_path, "select count(*) from contents") == 2
        assert await _scalar(tmp_path, "select count(*) from decisions") == 50

    async def test_a_thousand_sites_a_minute_take_about_a_kilobyte_each(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as journal:
            for n in range(1_000):
                journal.write(decided(n, (f"site-{n % 100}",))[0])
            assert await journal.flush(20.0)
        stored = await _scalar(tmp_path, "select sum(length(snapshot) + length(decision)) from decisions")
        assert stored / 1_000 < 1_200

    async def test_two_controllers_never_get_one_epoch(self, tmp_path: Path) -> None:
        first = SqlJournal(url(tmp_path))
        await first.open(WALL_MS)
        await first.close()
        journals = [SqlJournal(url(tmp_path)) for _ in range(4)]
        restored = await asyncio.gather(*(journal.open(WALL_MS) for journal in journals))
        assert sorted(each.epoch for each in restored) == [2, 3, 4, 5]
        for journal in journals:
            await journal.close()

    async def test_a_reader_beside_a_running_controller_leaves_no_trace(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as journal:
            journal.write(decided(1)[0])
            assert await journal.flush(5.0)
            reader = SqlJournal(url(tmp_path))
            await reader.open_to_read()
            assert [each.id async for each in reader.decisions()] == ["1-1"]
            assert not reader.write(decided(2)[0])
            await reader.close()
        assert await _scalar(tmp_path, "select count(*) from epochs") == 1
        with pytest.raises(JournalError, match="no such file"):
            await SqlJournal(url(tmp_path / "elsewhere")).open_to_read()

    async def test_the_epoch_stands_above_the_floor(self, tmp_path: Path) -> None:
        journal = SqlJournal(url(tmp_path), epoch_floor=41)
        assert (await journal.open(WALL_MS)).epoch == 42
        await journal.close()

    def test_the_tables_are_valid_for_postgresql(self) -> None:
        dialect = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy's own
        made = [str(CreateTable(table).compile(dialect=dialect)) for table in METADATA.sorted_tables]
        made += [
            str(CreateIndex(i).compile(dialect=dialect)) for table in METADATA.sorted_tables for i in table.indexes
        ]
        assert len(made) == 11
        assert "BIGSERIAL" in "".join(made)
        assert "BYTEA" in "".join(made)

    async def test_a_journal_that_cannot_be_opened_says_which_and_why(self, tmp_path: Path) -> None:
        for address in (f"sqlite+aiosqlite:///{tmp_path}/no/such/folder/j.sqlite3", "nonsense://x"):
            with pytest.raises(JournalError, match="journal"):
                await SqlJournal(address).open(WALL_MS)
        (tmp_path / "journal.sqlite3").write_bytes(b"this is no database" * 100)
        with pytest.raises(JournalError, match="not a database"):
            await SqlJournal(url(tmp_path)).open(WALL_MS)

    async def test_a_damaged_row_is_told_and_not_believed(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as journal:
            journal.write(decided(1)[0])
            await journal.flush(5.0)
            await _execute(tmp_path, "update decisions set snapshot = x'00ff'")
            with pytest.raises(JournalError, match="damaged"):
                await journal.recent(None, 5)

    async def test_a_full_queue_drops_bulk_but_keeps_room_for_operators(self, tmp_path: Path) -> None:
        async with opened(tmp_path, queue_records=100) as journal:
            taken = [journal.write(EventRecord(WALL_MS, "e", None, "x")) for _ in range(100)]
            bulk = journal.write(OrderRecord(WALL_MS, "alpha", 1, 1, "1-1", "b1", 1, 1, True))
            assert all(taken)
            assert not bulk
            assert journal.write(OverrideRecord(WALL_MS, "set", override("kept")))
            assert journal.health.dropped == 1
            assert await journal.flush(5.0)
        assert await _scalar(tmp_path, "select count(*) from overrides") == 1


class TestFullDisk:
    async def test_a_full_database_is_told_once_survived_and_made_good(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """SQLite really answers SQLITE_FULL: its page limit is the journal's `max_mb`."""
        async with opened(tmp_path, max_mb=1, retry_s=0.02, queue_records=400) as journal:
            with caplog.at_level(logging.INFO, logger="controller.journal.sql"):
                n = 0
                async with asyncio.timeout(60):
                    while journal.health.ok:
                        n += 1
                        journal.write(decided(n)[0])
                        await asyncio.sleep(0)
                        if n % 50 == 0:
                            await journal.flush(0.5)
                assert "full" in journal.health.detail
                failures = journal.health.failures
                await until(lambda: journal.health.failures > failures + 3)
                assert not await journal.flush(5.0)
                written = journal.health.written
                assert journal.write(SignalRecord(WALL_MS, "accept", obligation("during")))
                for more in range(10_000):
                    if not journal.write(decided(n + more + 1)[0]):
                        break
                assert journal.health.dropped == 1
                await _execute(tmp_path, "delete from decisions")
                await _execute(tmp_path, "vacuum")
                await until(lambda: journal.health.ok)
                assert await journal.flush(10.0)
                assert journal.health.written > written
            levels = [record.levelname for record in caplog.records]
            assert levels == ["ERROR", "INFO"], "told once when it began and once when it was over"
        assert await _scalar(tmp_path, "select count(*) from signals where id = 'during'") == 1
        assert await _scalar(tmp_path, "select count(*) from events where kind = 'journal_recovered'") == 1

    async def test_a_file_system_that_takes_no_more_is_survived(self, tmp_path: Path) -> None:
        """The kernel itself refuses to let the file grow (RLIMIT_FSIZE), then lets it again."""
        async with opened(tmp_path, retry_s=0.02) as journal:
            journal.write(decided(1)[0])
            assert await journal.flush(5.0)
            with _file_size_limit(200_000):
                n = 1
                async with asyncio.timeout(60):
                    while journal.health.ok:
                        n += 1
                        journal.write(decided(n)[0])
                        await journal.flush(0.5)
                assert not await journal.flush(1.0)
            assert await _well_again(journal)
            assert journal.health.dropped == 0
            stored = [each async for each in journal.decisions()]
            assert [each.id for each in stored] == [f"1-{i}" for i in range(1, n + 1)], (
                "nothing was lost, nothing twice"
            )

    async def test_a_controller_starts_on_a_nearly_full_disk_and_keeps_its_overrides(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as journal:
            journal.write(OverrideRecord(WALL_MS, "set", override("stands")))
            for n in range(700):
                journal.write(decided(n)[0])
            assert await journal.flush(20.0)
        full = SqlJournal(url(tmp_path), retry_s=0.02)
        with _file_size_limit(40_000):
            restored = await full.open(WALL_MS)
            assert restored.epoch == 2
            assert [each.id for each in restored.overrides] == ["stands"]
            for n in range(100):
                full.write(decided(n)[0])
            await until(lambda: not full.health.ok)
        assert await _well_again(full)
        await full.close()

    async def test_an_epoch_that_cannot_be_written_is_told_as_such(self, tmp_path: Path) -> None:
        async with opened(tmp_path):
            pass
        engine = create_async_engine(url(tmp_path))
        event.listen(engine.sync_engine, "connect", lambda connection, _: connection.execute("PRAGMA query_only=ON"))
        assert await raise_epoch(engine, 0, WALL_MS) == (2, False)
        await engine.dispose()

    async def test_a_disk_too_full_to_open_the_journal_is_an_error_for_lockouts_must_not_be_forgotten(
        self, tmp_path: Path
    ) -> None:
        async with opened(tmp_path):
            pass
        with _file_size_limit(1_000), pytest.raises(JournalError, match="disk"):
            await SqlJournal(url(tmp_path)).open(WALL_MS)


async def _well_again(journal: SqlJournal) -> bool:
    await until(lambda: journal.health.ok)
    return await journal.flush(10.0)


@contextmanager
def _file_size_limit(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def _execute(folder: Path, statement: str) -> None:
    engine = create_async_engine(url(folder), isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        await connection.execute(text(statement))
    await engine.dispose()


async def _scalar(folder: Path, query: str) -> Any:
    engine = create_async_engine(url(folder))
    async with engine.connect() as connection:
        found = (await connection.execute(text(query))).scalar()
    await engine.dispose()
    return found


def test_a_snapshot_taken_apart_and_joined_is_the_same() -> None:
    whole = snapshot(n=3)
    again = SiteSnapshot.model_validate_json(join(snapshot_rest(whole), plate_body(whole.nameplate)))
    assert again == whole
    assert again.model_dump_json() == whole.model_dump_json()


def test_the_first_difference_is_found_by_path() -> None:
    assert first_difference({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}) == ("a.1.b", "2", "3")
    assert first_difference({"a": 1}, {"a": 1, "b": 2}) == ("b", '"(absent)"', "2")
    assert first_difference([1], [1, 2]) == ("1", '"(absent)"', "2")
    assert first_difference({"a": 1}, {"a": 1.0}) == ("a", "1", "1.0")
    assert first_difference({"a": [None]}, {"a": [None]}) is None
