"""The audit log: a chain that any change breaks, kept on disk without the event loop waiting for it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from controller.audit import GENESIS, LINE_MAX, AuditError, AuditLog, Head, verify


async def write(path: Path, *actions: str) -> Head:
    log = AuditLog(path, lambda: 5)
    await log.open()
    for action in actions:
        assert log.add("ops", action, site="alpha", status=201)
    assert await log.flush(10.0)
    await log.close()
    return log.head


def read(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


async def test_what_was_written_verifies_and_a_second_start_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    await write(path, "override.impose", "override.revoke")
    head = await write(path, "signal.accept")
    lines = read(path)
    assert verify(lines) == head
    first, _, third = (json.loads(line) for line in lines)
    assert (first["prev"], first["actor"], first["action"], first["site"]) == (
        GENESIS, "ops", "override.impose", "alpha",
    )  # fmt: skip
    assert third["n"] == 3


@pytest.mark.parametrize("spoil", ["alter", "take out", "put in", "swap", "cut short", "renumber"])
async def test_a_line_that_is_not_as_it_was_breaks_the_chain_and_is_named(tmp_path: Path, spoil: str) -> None:
    path = tmp_path / "audit.jsonl"
    await write(path, "a", "b", "c", "d")
    lines = read(path)
    match spoil:
        case "alter":
            lines[1] = lines[1].replace(b'"ops"', b'"eve"')
        case "take out":
            del lines[1]
        case "put in":
            lines.insert(1, lines[0])
        case "swap":
            lines[1], lines[2] = lines[2], lines[1]
        case "cut short":
            lines[3] = lines[3][:-10]
        case _:
            lines[1] = lines[1].replace(b'"n":2', b'"n":9')
    with pytest.raises(AuditError, match="line 4" if spoil == "cut short" else "line 2"):
        verify(lines)


async def test_an_entry_a_crash_cut_short_is_taken_off_and_the_chain_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    await write(path, "a", "b")
    with path.open("ab") as file:
        file.write(b'{"n":3,"at_ms":5,"ac')
    await write(path, "c")
    assert verify(read(path)).lines == 3


async def test_a_log_that_does_not_end_with_an_entry_is_not_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_text("somebody's notes\n")
    with pytest.raises(AuditError, match="move it away"):
        await AuditLog(path, lambda: 5).open()
    assert path.read_text() == "somebody's notes\n"


async def test_a_disk_that_fails_loses_nothing_that_fits_the_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from controller import audit

    monkeypatch.setattr(audit, "_RETRY_S", 0.01)
    good, full = audit._append, True

    def append(fd: int, data: bytes) -> None:
        if full:
            raise OSError(28, "No space left on device")
        good(fd, data)

    monkeypatch.setattr(audit, "_append", append)
    log = AuditLog(tmp_path / "audit.jsonl", lambda: 5)
    await log.open()
    log.add("ops", "a")
    assert not await log.flush(5.0)
    assert log.fault == "No space left on device"
    log.add("ops", "b")
    full = False
    async with asyncio.timeout(20):
        while not await log.flush(5.0):  # noqa: ASYNC110  the disk is well again when it is
            await asyncio.sleep(0.01)
    await log.close()
    assert verify(read(tmp_path / "audit.jsonl")).lines == 2


async def test_the_queue_is_bounded_and_says_what_it_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from controller import audit

    monkeypatch.setattr(audit, "QUEUE_MAX", 3)
    log = AuditLog(tmp_path / "audit.jsonl", lambda: 5)
    await log.open()
    assert [log.add("ops", "a") for _ in range(5)] == [True, True, True, False, False]
    assert await log.flush(10.0)
    log.add("ops", "b")
    log.add("ops", "long", detail="x" * 2 * LINE_MAX)
    log.add("ops", "c")
    await log.close()
    lines = read(tmp_path / "audit.jsonl")
    assert verify(lines).lines == 6
    assert all(len(line) < LINE_MAX + 100 for line in lines)
    assert json.loads(lines[3])["lost_before"] == 2
    assert json.loads(lines[4])["cut"] is True
