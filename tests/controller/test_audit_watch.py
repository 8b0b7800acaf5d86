"""The audit log is walked again while it is written: what was altered, cut off or exchanged on the disk is found."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from controller.api.app import WATCH
from controller.audit import AuditLog
from controller.audit_watch import AuditWatch
from tests.controller.api.stand import GOOD, Stand, standing
from tests.controller.kit import StubClock


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[AuditLog]:
    made = AuditLog(tmp_path / "audit.jsonl", lambda: 5)
    await made.open()
    for place in range(450):  # more than two slices
        assert made.add("ops", f"change {place}")
    assert await made.flush(10.0)
    yield made
    await made.close()


async def test_a_whole_chain_is_found_whole_and_what_is_written_meanwhile_does_not_matter(log: AuditLog) -> None:
    watch = AuditWatch(log, StubClock())
    assert log.add("ops", "not on the disk yet")
    found = await watch.verify()
    assert found.fault is None
    assert found.head.lines in (450, 451)


@pytest.mark.parametrize("spoil", ["altered", "its end was cut off", "the log was exchanged", "cannot be read"])
async def test_what_became_of_the_file_is_told(log: AuditLog, tmp_path: Path, spoil: str) -> None:
    lines = log.path.read_bytes().splitlines(keepends=True)
    match spoil:
        case "altered":
            lines[300] = lines[300].replace(b'"ops"', b'"eve"')
        case "its end was cut off":
            del lines[440:]
        case "cannot be read":
            log.path.unlink()
        case _:
            other = AuditLog(tmp_path / "other.jsonl", lambda: 6)
            await other.open()
            for _ in range(450):
                other.add("ops", "what should have been")
            assert await other.flush(10.0)
            await other.close()
            lines = other.path.read_bytes().splitlines(keepends=True)
    if spoil != "cannot be read":
        log.path.write_bytes(b"".join(lines))
    watch = AuditWatch(log, StubClock())
    found = await watch.verify()
    assert found.fault is not None
    assert spoil in found.fault


async def test_metrics_and_doctor_tell_how_long_the_chain_is_and_that_it_is_broken(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    async with standing(http={"audit_file": str(path)}) as stand:
        stand.join("alpha")
        await stand.override()
        await stand.override(kind="hold")
        watch = stand.app[WATCH]
        await watch.verify()
        told = await _metrics(stand)
        assert told["wattshift_controller_audit_entries"] == 2.0
        assert told["wattshift_controller_audit_verified_entries"] == 2.0
        assert told["wattshift_controller_audit_chain_ok"] == 1.0
        assert (
            told["wattshift_controller_audit_failures_total"] == told["wattshift_controller_audit_dropped_total"] == 0.0
        )
        path.write_bytes(path.read_bytes().replace(b"lockout", b"hold"))
        await watch.verify()
        assert (await _metrics(stand))["wattshift_controller_audit_chain_ok"] == 0.0
        _, doctor, _ = await stand.call("GET", "/v1/doctor")
        (found,) = (each for each in doctor["findings"] if each["check"] == "audit")
        assert not found["ok"]
        assert "line 1 was altered" in found["detail"]


async def _metrics(stand: Stand) -> dict[str, float]:
    _, text, _ = await stand.call("GET", "/metrics", headers=GOOD)
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}
