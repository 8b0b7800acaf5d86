"""A controller comes back from yesterday's backup of its journal, by the steps of docs/operations.md, word for word.

Real daemons, a real broker, the copy made while the controller runs.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import sqlite3
import subprocess
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest
from aiohttp import ClientSession

from contract.bus_mqtt import MqttBus
from contract.clock import SystemClock
from sim.broker import LocalBroker
from tests.controller.kit import SmallAgent, stop, until
from tests.controller.test_daemon import TOKEN, configure, running

DOCS: Final = Path(__file__).parents[2] / "docs/operations.md"
JOURNAL: Final = "journal.sqlite3"


def told(word: str) -> str:
    """The one line of the docs that holds a word."""
    found = [line.strip() for line in DOCS.read_text().splitlines() if line.startswith("    ") and word in line]
    assert len(found) == 1, word
    return found[0]


def carried_out(line: str, folder: Path) -> None:
    """Run a line of the docs on this folder."""
    for theirs, ours in (
        ("/var/lib/wattshift/wattshift-journal", f"{folder}/journal"),
        ("/var/lib/wattshift", str(folder)),
        ("/backup/", f"{folder}/backup/"),
    ):
        line = line.replace(theirs, ours)
    assert "/var" not in line
    done = subprocess.run(["sh", "-euc", line], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.mosquitto
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="no sqlite3 on this machine: install the package sqlite3")
async def test_a_restored_journal_has_its_overrides_in_force_and_nothing_twice(tmp_path: Path) -> None:
    (tmp_path / "backup").mkdir()
    async with LocalBroker() as broker, ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session:
        settings = broker.settings("agent-under-test")
        agent = SmallAgent(MqttBus(settings, Random(1)), SystemClock(), "alpha", every_ms=100)
        task = asyncio.ensure_future(agent.run())
        path = configure(tmp_path, settings.port, more="tick_s = 1")

        async def ask(method: str, url: str, body: Any = None, **headers: str) -> Any:
            async with session.request(method, url, json=body, headers=headers) as response:
                return await response.json()

        lock = {"target": {"site": "alpha", "bank": "bank-0"}, "kind": "lockout", "reason": "a fan is changed"}
        keyed = {"Idempotency-Key": "desk-1"}
        async with running(path) as base:
            await until(lambda: agent.order is not None)
            kept = (await ask("POST", f"{base}/v1/overrides", lock, **keyed))["override"]["id"]
            signal = {"site": "alpha", "target_w": 0, "duration_s": 3_600, "id": "grid-1"}
            assert (await ask("POST", f"{base}/v1/signals", signal))["journalled"]
            carried_out(told(".backup"), tmp_path)
            await ask("POST", f"{base}/v1/overrides", lock | {"target": {"site": "alpha", "bank": "bank-1"}})
        for _ in range(2):  # two starts after the backup: the agents have seen epochs that it knows nothing of
            async with running(path):
                await until(lambda seen=agent.epoch: agent.epoch > seen)  # type: ignore[misc]
        (tmp_path / JOURNAL).write_bytes(b"lost")

        carried_out(told("rm -f /var/lib/wattshift/"), tmp_path)
        carried_out(told("cp /backup/").replace("journal-DATE", _backup(tmp_path)), tmp_path)
        carried_out(told("chown --reference"), tmp_path)
        async with running(path) as base:
            leading: dict[str, Any] = {"ok": True}
            async with asyncio.timeout(60):
                while leading["ok"]:
                    found = (await ask("GET", f"{base}/readyz"))["checks"]
                    leading = next(check for check in found if check["name"] == "leading")
        floor = re.search(r"\[journal\] epoch_floor = (\d+)", leading["detail"])
        assert floor is not None
        assert int(floor[1]) == agent.epoch
        assert agent.order is not None
        assert agent.order.epoch == agent.epoch, "nothing of the older epoch was obeyed"

        path.write_text(path.read_text().replace("[journal]", f"[journal]\nepoch_floor = {floor[1]}"))
        epoch = agent.epoch
        async with running(path) as base:
            await until(lambda: agent.epoch > epoch)
            await until(
                lambda: agent.bank_w == [0, 0] and agent.order is not None and agent.order.obligation == "grid-1"
            )
            standing = (await ask("GET", f"{base}/v1/overrides"))["overrides"]
            assert [(each["id"], each["state"], each["version"]) for each in standing] == [(kept, "active", 1)]
            signals = (await ask("GET", f"{base}/v1/signals"))["signals"]
            assert [each["id"] for each in signals] == ["grid-1"]
            again = await ask("POST", f"{base}/v1/overrides", lock, **keyed)
            assert again["override"]["id"] == kept, "a request from before the loss does nothing twice"
        await stop(task)
    with sqlite3.connect(tmp_path / JOURNAL) as journal:
        assert journal.execute("pragma integrity_check").fetchone() == ("ok",)


def _backup(folder: Path) -> str:
    (made,) = (folder / "backup").iterdir()
    assert re.fullmatch(r"journal-\d{4}-\d\d-\d\d\.sqlite3", made.name)
    return made.name.removesuffix(".sqlite3")
