"""`wattshift demo --slurm`: one hybrid site whose HPC side is a real Slurm with real processes, in real time.

The site's grid connection does not carry all of it at once. At first no job waits and the halls hash on what there is;
then a queue grows, and the halls give megawatts up before the nodes are let take them; when it is empty they get them
back.

Jobs shaped like those of NREL's Eagle (`sim/samples`: nodes asked for, wall time asked for and used; times and sizes
scaled down to the demo's) run on virtual nodes beside simulated ASICs, through a price spike and a grid event.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import math
import secrets
import tempfile
from collections.abc import Coroutine, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any, Final

import aiohttp

from agent.config import AgentConfig
from agent.site import SiteAgent
from agent.state import FileStateStore
from contract.bus_mqtt import MqttBus
from contract.clock import SystemClock
from controller.app import Controller
from controller.config import ControllerConfig
from controller.daemon import make_journal, serve
from controller.feeds.settings import build_feeds
from sim.broker import LocalBroker
from sim.demo.run import SAMPLES, DemoEvent, Tell
from sim.process_meter import ProcessMeter, Seen
from sim.slurm import SlurmCluster
from sim.slurm_site import CPUS, HybridSite, agent_tables, hybrid_site

TRACE: Final = SAMPLES / "nrel_eagle_jobs_2019.csv"
NODES: Final = 8
ASICS: Final = 12
SITE: Final = "brazos"
SPAN_S: Final = 320.0
PRICES: Final = (20.0, 20.0, 1_200.0, 20.0)
"""USD/MWh, minute by minute of the clock, so that the spike begins one to two minutes on; the last stays."""
EVENT_AT_S: Final = 190.0
EVENT_S: Final = 40.0
EVENT_SHARE: Final = 0.55
CAP_SHARE: Final = 0.7
"""Of the site's full load, what its grid connection carries."""
CAP_SLACK: Final = 0.02
"""Above the cap, for what a meter takes to follow."""
SETTLED_S: Final = 12.0
QUEUE_FROM_S: Final = 20.0
QUEUE_UNTIL_S: Final = 235.0
STEP_S: Final = 0.05
WORK: Final = f"""\
import os, signal, sys, time
path, steps = sys.argv[1], int(sys.argv[2])
n, i = map(int, open(path + ".saved").read().split()) if os.path.exists(path + ".saved") else (0, 0)
def save(*_):
    open(path + ".saved", "w").write(f"{{n}} {{i}}")
    os._exit(1)
signal.signal(signal.SIGTERM, save)
while i < steps:
    time.sleep({STEP_S})
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    n, i = n + i, i + 1
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
open(path, "w").write(str(n))
"""
"""A job's work: a sum that is right only if nothing of it was lost or done twice."""


@dataclass(frozen=True, slots=True)
class SlurmSummary:
    """What the run came to."""

    decisions: int
    jobs: int
    jobs_done: int
    jobs_wrong: int
    """Ended, without the right result."""
    jobs_frozen_most: int
    firm_touched: int
    event_met: bool | None
    """None where the run ended before it."""
    cap_w: int
    over_cap_s: float
    """How long the plant drew more than that."""
    hall_empty_queue_w: int | None
    """What the halls drew while no job was there, once they had settled; None where the run was too short."""
    hall_full_queue_w: int | None
    """The least that they drew while jobs ran and waited, outside the price spike and the event."""
    hall_given_back_w: int | None
    """The most that they drew after the queue had emptied."""
    cap_used_milli: int | None
    """Of the cap, in thousandths, what the plant drew on average while jobs ran and waited."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class TraceJob:
    """A job of the trace, at the demo's size."""

    cpus: int
    work_s: float
    limit_min: int


def trace_jobs(path: Path = TRACE) -> list[TraceJob]:
    """In order of submission: a job of one node takes half a node here and a wider one a whole, run times from seconds
    to days go onto 12 to 60 s, and the time limit is as much too long as there, ten times at most."""
    jobs = []
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            cpus = CPUS if int(row["nodes_req"]) > 1 else CPUS // 2
            ran_s = max(int(row["run_time_s"]), 10)
            work_s = min(8.0 * ran_s**0.175, 60.0)
            over = min(max(int(row["wallclock_req_s"]) / ran_s, 1.1), 10.0)
            jobs.append(TraceJob(cpus, work_s, 1 + math.ceil(work_s * over / 60)))
    return jobs


class SlurmDemo:
    """One run. `async with SlurmDemo(...) as demo: await demo.until_done()`, then `demo.summary()`."""

    def __init__(self, tell: Tell, *, for_s: float | None = None, seed: int = 1) -> None:
        self.tell = tell
        self.clock = SystemClock()
        self.url = ""
        self.token_file = Path()
        self._for_s = for_s or SPAN_S
        self._rng = Random(seed)
        self._stack = contextlib.AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self._seen = Seen((), ())
        self._firm: set[int] = set()
        self._frozen_most = 0
        self._steps: dict[str, int] = {}
        self._sentences: set[str] = set()
        self._decisions = 0
        self._event_met: bool | None = None
        self._cap_w = 0
        self._over_cap_s = 0.0
        self._usd: float | None = None
        self._in_event = False
        self._full_queue_w: list[int] = []
        self._empty_queue_w: list[int] = []
        self._given_back_w: list[int] = []
        self._used_w: list[float] = []
        self._cluster: SlurmCluster
        self._controller: Controller
        self._site: HybridSite

    async def __aenter__(self) -> SlurmDemo:
        try:
            await self._start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in reversed(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stack.aclose()

    async def until_done(self) -> None:
        done, _ = await asyncio.wait(self._tasks, timeout=self._for_s, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    def summary(self) -> SlurmSummary:
        """The run so far."""
        results = {name: self._result(name) for name in self._steps}
        done = {name: text for name, text in results.items() if text is not None}
        wrong = [name for name, text in done.items() if text != str(sum(range(self._steps[name])))]
        return SlurmSummary(
            self._decisions,
            len(results),
            len(done),
            len(wrong),
            self._frozen_most,
            len(self._firm),
            self._event_met,
            self._cap_w,
            round(self._over_cap_s, 1),
            max(self._empty_queue_w, default=None),
            min(self._full_queue_w, default=None),
            max(self._given_back_w, default=None),
            round(1e3 * fmean(self._used_w) / self._cap_w) if self._used_w else None,
        )

    # -- start -------------------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="wattshift-demo-")))
        broker = await self._stack.enter_async_context(LocalBroker())
        self._cluster = await self._stack.enter_async_context(SlurmCluster(nodes=NODES, cpus=CPUS))
        (self._cluster.folder / "out").mkdir()
        (self._cluster.folder / "work.py").write_text(WORK)
        self._say("slurm", f"Slurm runs with {NODES} virtual nodes of its own; its jobs are processes of this machine.")
        self._tasks.append(asyncio.create_task(self._watch_processes(ProcessMeter(self._cluster.folder))))
        nodes = frozenset(f"node{number}" for number in range(1, NODES + 1))
        time_s = asyncio.get_running_loop().time
        self._site = await self._stack.enter_async_context(
            hybrid_site(SITE, "hpc", nodes, ASICS, lambda: self._seen, time_s)
        )
        await self._start_controller(folder, broker)
        tables = agent_tables(
            self._site,
            self._cluster,
            broker.settings(f"wattshift-agent-{SITE}").model_dump(),
            str(folder / "agent.json"),
        )
        config = AgentConfig.model_validate(tables)
        agent = SiteAgent(
            config,
            bus=MqttBus(config.mqtt, self._rng),
            clock=self.clock,
            rng=self._rng,
            state=FileStateStore(config.state_file),
        )
        self._cap_w = round(CAP_SHARE * self._site.full_w)
        jobs: Sequence[Coroutine[Any, Any, None]] = (
            self._controller.run(),
            agent.run(),
            self._cap(),
            self._watch_power(),
            self._submit(),
            self._narrate(),
            self._event(),
        )
        self._tasks += [asyncio.create_task(job) for job in jobs]
        self._say("ready", f"The API listens on {self.url}; its token is in {self.token_file}.")

    async def _start_controller(self, folder: Path, broker: LocalBroker) -> None:
        self.token_file = folder / "token"
        self.token_file.touch(mode=0o600)
        token = secrets.token_hex(16)
        self.token_file.write_text(token, encoding="utf-8")
        (folder / "prices.csv").write_text(self._prices(), encoding="utf-8")
        config = ControllerConfig.model_validate(
            {
                "mqtt": broker.settings("wattshift-controller").model_dump(),
                "http": {"listen": "127.0.0.1:0", "token_file": str(self.token_file)},
                "journal": {"url": f"sqlite+aiosqlite:///{folder / 'journal.sqlite3'}"},
                "tick_s": 5,
                "feeds": {
                    "prices": {"demo": {"kind": "csv", "path": str(folder / "prices.csv"), "interval_s": 60}},
                    "hashprices": {"given": {"kind": "given", "usd_per_ph_day": 55.0}},
                },
                "price": "demo",
                "hashprice": "given",
            }
        )
        self._controller = Controller(
            config,
            bus=MqttBus(config.mqtt, self._rng),
            clock=self.clock,
            rng=self._rng,
            journal=make_journal(config),
            feeds=build_feeds(config.feeds.prices, config.feeds.hashprices, self.clock, self._rng),
        )
        runner, port = await serve(self._controller, token)
        self._stack.push_async_callback(runner.cleanup)
        self.url = f"http://127.0.0.1:{port}"

    def _prices(self) -> str:
        first_s = self.clock.wall_ms() // 60_000 * 60
        rows = [f"{_moment(first_s + 60 * at)},{PRICES[min(at, len(PRICES) - 1)]}" for at in range(24 * 60)]
        return "\n".join(["interval_start_utc,rt_usd_per_mwh", *rows]) + "\n"

    # -- what happens ------------------------------------------------------------------------------------------------

    async def _watch_processes(self, meter: ProcessMeter) -> None:
        while True:
            self._seen = meter.look()
            self._frozen_most = max(self._frozen_most, len({worker.job for worker in self._seen.stopped}))
            self._firm |= {worker.pid for worker in self._seen.stopped if worker.name.startswith("firm")}
            await asyncio.sleep(0.05)

    async def _submit(self) -> None:
        """Jobs of the trace, so many that some always wait for as long as there is a queue; every sixth is firm."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        await asyncio.sleep(QUEUE_FROM_S)
        self._say("queue", "Jobs are submitted: the queue grows.")
        for number, job in enumerate(trace_jobs() * 20):
            while await self._waiting() >= 4:  # noqa: ASYNC110  another process's state
                await asyncio.sleep(0.5)
            if loop.time() - began_s > QUEUE_UNTIL_S:
                self._say("queue", "No more jobs come: the queue empties.")
                await asyncio.Event().wait()
            firm = number % 6 == 5
            name = f"{'firm' if firm else 'flex'}-{number}"
            value = "value=6 firm" if firm else f"value={self._rng.uniform(0.2, 3.0):.2f}"
            self._steps[name] = round(job.work_s / STEP_S)
            script = (
                f"exec python3 {self._cluster.folder}/work.py {self._cluster.folder}/out/{name} {self._steps[name]}"
            )
            size = ("-N1", f"--ntasks={job.cpus}")
            await self._cluster.submit(script, *size, f"--time={job.limit_min}", f"--comment=wattshift {value}")

    async def _waiting(self) -> int:
        return len((await self._cluster.command("squeue", "--noheader", "--states=PENDING", "--format=%i")).split())

    async def _cap(self) -> None:
        """What the grid connection carries, as operations impose it over HTTP once the site has reported."""
        while not any(state.decided is not None for state in self._controller.fleet):  # noqa: ASYNC110  another task's
            await asyncio.sleep(0.1)
        cap = {"target": {"site": SITE}, "kind": "cap", "value_w": self._cap_w, "duration_s": 3_600}
        await self._post("overrides", cap | {"reason": "what the grid connection carries"})
        self._say("signal", f"The grid connection carries {self._cap_w / 1e3:.1f} of {self._site.full_w / 1e3:.1f} kW.")
        await asyncio.Event().wait()

    async def _watch_power(self) -> None:
        """What the halls draw by how long the queue is, and whether the cap holds. Counted once the cap has come down
        on what was found at the start."""
        loop = asyncio.get_running_loop()
        began_s = seen_s = loop.time()
        while True:
            await asyncio.sleep(0.1)
            now_s = loop.time()
            passed_s, seen_s = now_s - seen_s, now_s
            if now_s - began_s < SETTLED_S:
                continue
            if self._site.power_w > (1.0 + CAP_SLACK) * self._cap_w:
                self._over_cap_s += passed_s
            if self._in_event or self._usd != PRICES[0]:
                continue
            hall_w, busy = round(self._site.hash_w), len(self._seen.running)
            if not self._steps:
                self._empty_queue_w.append(hall_w)
            elif now_s - began_s < QUEUE_UNTIL_S and busy >= NODES // 2:
                self._full_queue_w.append(hall_w)
                self._used_w.append(self._site.power_w)
            elif now_s - began_s > QUEUE_UNTIL_S and not busy:
                self._given_back_w.append(hall_w)

    async def _event(self) -> None:
        """A grid operator's signal, over HTTP; and whether the plant met it."""
        await asyncio.sleep(EVENT_AT_S)
        before_w = self._site.power_w
        target_w = round((1.0 - EVENT_SHARE) * before_w)
        self._say("signal", f"The grid operator asks for {EVENT_SHARE:.0%} less at once: {target_w / 1e3:.1f} kW.")
        self._in_event = True
        await self._post(
            "signals", {"id": "grid-event", "site": SITE, "target_w": target_w, "duration_s": EVENT_S, "notice_s": 0}
        )
        loop = asyncio.get_running_loop()
        asked_s = loop.time()
        while self._site.power_w > target_w + 0.02 * before_w and loop.time() - asked_s < EVENT_S:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        took_s = loop.time() - asked_s
        self._event_met = took_s < EVENT_S
        told = f"The site is at {self._site.power_w / 1e3:.1f} kW after {took_s:.1f} s, {self._jobs_told()}."
        self._say("obligation_met" if self._event_met else "refused", told)
        await asyncio.sleep(max(EVENT_S - took_s, 0.0))
        self._in_event = False
        await asyncio.Event().wait()

    async def _post(self, what: str, body: dict[str, Any]) -> None:
        headers = {"Authorization": f"Bearer {self.token_file.read_text(encoding='utf-8')}"}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.post(f"{self.url}/v1/{what}", json=body) as answer,
        ):
            if answer.status >= 400:
                self._say("refused", f"The API refused it: {await answer.text()}")

    async def _narrate(self) -> None:
        """New decisions in their own sentence, prices, and every ten seconds the whole picture."""
        last: str | None = None
        price: float | None = None
        loop = asyncio.get_running_loop()
        due_s = loop.time() + 5.0
        while True:
            usd = self._controller.feeds.prices["demo"].price_at(self.clock.wall_ms()).usd_per_mwh
            if usd != price and usd is not None:
                price = self._usd = usd
                self._say("price", f"The price is {usd:,.2f} USD/MWh.")
            for state in self._controller.fleet:
                if state.decided is not None and state.decided.id != last:
                    last = state.decided.id
                    self._decisions += 1
                    if state.decided.decision.sentence not in self._sentences:
                        self._sentences.add(state.decided.decision.sentence)
                        self._say("decision", state.decided.decision.sentence)
            if loop.time() >= due_s:
                due_s += 10.0
                parts = f"hall {self._site.hash_w / 1e3:.1f}, HPC {self._site.hpc_w / 1e3:.1f}"
                self._say("picture", f"{self._site.power_w / 1e3:.1f} kW at the meter ({parts}); {self._jobs_told()}.")
            await asyncio.sleep(0.2)

    def _jobs_told(self) -> str:
        done = sum(self._result(name) is not None for name in self._steps)
        return f"{len(self._seen.running)} jobs run, {len(self._seen.stopped)} stand still, {done} are done"

    def _result(self, name: str) -> str | None:
        path = self._cluster.folder / "out" / name
        return path.read_text() if path.exists() else None

    def _say(self, kind: str, text: str) -> None:
        self.tell(DemoEvent(kind, SITE, self.clock.wall_ms(), text))


def _moment(time_s: int) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%MZ")
