"""One Slurm partition through slurmrestd, OpenAPI v0.0.38 (Slurm 22.05; shapes recorded from 22.05.8).

What REST can do there, and what this driver does with it:

* read      `GET /jobs` and `GET /nodes`
* freeze    `DELETE /job/{id}?signal=STOP`; the job turns STOPPED and keeps its nodes, so nothing backfills
* thaw      `DELETE /job/{id}?signal=CONT`
* admission `POST /job/{id}` with `{"hold": true|false}` on the pending jobs; REST has no partition writes

Slurm does not say who stopped or held a job, so the driver remembers what it froze and what it held (`memory` carries
that over a restart of the agent) and undoes only that: a job an operator held stays held.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Self, TypeVar

import aiohttp
from pydantic import BaseModel, ConfigDict, Field

from agent.drivers.base import Applied, Failure, Outcome, PartitionFacts, Refused, Unreachable
from agent.drivers.schedulers.job_terms import JobTerms, ValueMap
from contract.clock import Clock
from contract.messages import MAX_JOBS, Job, JobState

T = TypeVar("T")

MAX_ANSWER_BYTES: Final = 64 * 1_048_576
IN_FLIGHT: Final = 16
"""Writes at once; slurmctld serves them one after another anyway."""

_UP_STATES: Final = frozenset({"idle", "allocated", "mixed", "completing", "planned", "reserved"})
_OUT_FLAGS: Final = frozenset({"DRAIN", "NOT_RESPONDING", "POWERED_DOWN", "POWERING_DOWN", "FAIL", "MAINTENANCE"})
_RUNNING: Final = frozenset({"RUNNING", "COMPLETING", "CONFIGURING"})
_STOPPED: Final = frozenset({"STOPPED", "SUSPENDED"})


class SlurmRestOptions(BaseModel):
    """`[banks.scheduler]` of a bank whose driver is `slurm_rest`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: Annotated[str, Field(pattern=r"^(http://|https://|unix:/)")]
    """`http://host:6820`, or `unix:/run/slurmrestd/slurmrestd.sock`."""
    partition: Annotated[str, Field(min_length=1, max_length=200)]
    user: str | None = None
    token_file: Path | None = None
    """Holds the user's JWT; read at every request, so that a renewed token needs no restart."""
    node_busy_w: Annotated[int, Field(gt=0, le=1_000_000)]
    node_idle_w: Annotated[int, Field(ge=0, le=1_000_000)]
    values: ValueMap = ValueMap()


class SlurmRestPartition:
    """Implements `agent.drivers.base.Partition`."""

    def __init__(self, options: SlurmRestOptions, *, deadline_s: float, clock: Clock) -> None:
        self._options = options
        self._deadline_s = deadline_s
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None
        self._frozen: set[str] = set()
        self._held: set[str] = set()
        self._admitting = True

    @classmethod
    def from_options(cls, options: Mapping[str, Any], *, deadline_s: float, clock: Clock) -> Self:
        """The registry's factory."""
        return cls(SlurmRestOptions.model_validate(dict(options)), deadline_s=deadline_s, clock=clock)

    @property
    def memory(self) -> dict[str, str]:
        """What must survive a restart of the agent: the jobs frozen and held by us."""
        return {
            "frozen": ",".join(sorted(self._frozen)),
            "held": ",".join(sorted(self._held)),
            "admitting": "1" if self._admitting else "0",
        }

    @memory.setter
    def memory(self, saved: Mapping[str, str]) -> None:
        self._frozen = {job for job in saved.get("frozen", "").split(",") if job}
        self._held = {job for job in saved.get("held", "").split(",") if job}
        self._admitting = saved.get("admitting", "1") == "1"

    async def read(self) -> PartitionFacts | Unreachable:
        """Jobs and nodes of the partition, both within one deadline."""
        try:
            async with asyncio.timeout(self._deadline_s):
                jobs, nodes = await asyncio.gather(self._get("jobs"), self._get("nodes"))
        except TimeoutError:
            return Unreachable(Failure.TIMEOUT, "slurmrestd did not answer in time")
        if isinstance(jobs, Unreachable):
            return jobs
        if isinstance(nodes, Unreachable):
            return nodes
        try:
            return self._facts(jobs, nodes)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            return Unreachable(Failure.GARBAGE, f"answer not in the v0.0.38 form: {type(error).__name__}: {error}")

    async def set_admission(self, admitting: bool) -> Outcome:
        """Hold every pending job that is not held, or release those that we held. Re-assert it each tick: jobs come."""
        self._admitting = admitting
        if admitting:
            outcomes = await self._each(sorted(self._held), lambda job: self._write("POST", job, {"hold": False}))
            self._held -= {job for job, outcome in outcomes.items() if isinstance(outcome, Applied) or _gone(outcome)}
            return _worst(outcomes.values())
        listing = await self._bounded(self._get("jobs"))
        if not isinstance(listing, list):
            return listing
        waiting = [
            str(job["job_id"])
            for job in listing
            if job.get("partition") == self._options.partition
            and job.get("job_state") == "PENDING"
            and not _is_held(job)
        ]
        outcomes = await self._each(waiting, lambda job: self._write("POST", job, {"hold": True}))
        self._held |= {job for job, outcome in outcomes.items() if isinstance(outcome, Applied)}
        return _worst(outcomes.values())

    async def freeze(self, jobs: Sequence[str]) -> Mapping[str, Outcome]:
        """Signal STOP to every process of the jobs. A job that has ended answers Applied: it draws nothing."""
        outcomes = await self._each(jobs, lambda job: self._write("DELETE", job, None, signal="STOP"))
        self._frozen |= {job for job, outcome in outcomes.items() if isinstance(outcome, Applied)}
        return {job: Applied("no longer there") if _gone(outcome) else outcome for job, outcome in outcomes.items()}

    async def thaw(self, jobs: Sequence[str]) -> Mapping[str, Outcome]:
        """Signal CONT, only to jobs that this driver froze."""
        ours = [job for job in jobs if job in self._frozen]
        outcomes = await self._each(ours, lambda job: self._write("DELETE", job, None, signal="CONT"))
        self._frozen -= {job for job, outcome in outcomes.items() if isinstance(outcome, Applied) or _gone(outcome)}
        settled: dict[str, Outcome] = {job: Applied("was not frozen by us") for job in jobs}
        settled.update(
            (job, Applied("no longer there") if _gone(outcome) else outcome) for job, outcome in outcomes.items()
        )
        return settled

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    # facts

    def _facts(self, jobs: list[Any], nodes: list[Any]) -> PartitionFacts:
        ours = [node for node in nodes if self._options.partition in node["partitions"]]
        up = {str(node["name"]) for node in ours if _is_up(node)}
        mine = [job for job in jobs if job.get("partition") == self._options.partition]
        live = [fact for job in mine if (fact := self._job(job)) is not None]
        alive = {job.id for job in live}
        self._frozen &= alive
        self._held &= alive
        busy = sum(job.nodes for job in live if job.state is not JobState.PENDING)
        return PartitionFacts(
            nodes_up=len(up),
            nodes_busy=min(busy, len(ours)),
            admitting=self._admitting,
            jobs=tuple(live[:MAX_JOBS]),
        )

    def _job(self, raw: Mapping[str, Any]) -> Job | None:
        state = raw["job_state"]
        job_id = str(raw["job_id"])
        if state == "PENDING":
            if _is_held(raw) and job_id not in self._held:
                return None  # held by its owner or an operator: it cannot start, so it wants no power
            phase = JobState.PENDING
        elif state in _RUNNING:
            phase = JobState.RUNNING
        elif state in _STOPPED:
            phase = JobState.FROZEN
        else:
            return None
        nodes = max(1, int(raw.get("node_count") or 1))
        terms = JobTerms.of(raw, self._options.values)
        now_ms = self._clock.wall_ms()
        limit_min = raw.get("time_limit")
        remaining_ms = limit_min * 60_000 if limit_min else None
        if remaining_ms is not None and phase is not JobState.PENDING and raw.get("end_time"):
            remaining_ms = max(0, int(raw["end_time"]) * 1_000 - now_ms)
        deadline_s = terms.deadline_s or raw.get("deadline") or None
        return Job(
            id=job_id,
            state=phase,
            nodes=nodes,
            power_w=nodes * max(0, self._options.node_busy_w - self._options.node_idle_w),
            value_usd_per_node_h=terms.value_usd_per_node_h,
            firm=terms.firm,
            remaining_ms=remaining_ms,
            deadline_ms=int(deadline_s) * 1_000 if deadline_s else None,
            checkpoint_every_ms=terms.checkpoint_every_ms,
            restart_cost_usd=terms.restart_cost_usd,
            notice_ms=terms.notice_ms,
        )

    # requests

    async def _each(self, jobs: Iterable[str], act: Callable[[str], Awaitable[Outcome]]) -> dict[str, Outcome]:
        """Run one write per job, a bounded number at once, each within the deadline."""
        gate = asyncio.Semaphore(IN_FLIGHT)

        async def one(job: str) -> tuple[str, Outcome]:
            async with gate:
                return job, await self._bounded(act(job))

        return dict(await asyncio.gather(*(one(job) for job in dict.fromkeys(jobs))))

    async def _bounded(self, work: Awaitable[T]) -> T | Unreachable:
        try:
            async with asyncio.timeout(self._deadline_s):
                return await work
        except TimeoutError:
            return Unreachable(Failure.TIMEOUT, "slurmrestd did not answer in time")

    async def _get(self, what: str) -> list[Any] | Unreachable:
        answer = await self._request("GET", what)
        if isinstance(answer, Unreachable):
            return answer
        if answer.get("errors"):
            return Unreachable(Failure.GARBAGE, _error_text(answer))
        listing = answer.get(what)
        return (
            listing if isinstance(listing, list) else Unreachable(Failure.GARBAGE, f"no list of {what} in the answer")
        )

    async def _write(self, method: str, job: str, body: Mapping[str, Any] | None, **query: str) -> Outcome:
        if not job.isdigit():
            return Refused(f"not a Slurm job id: {job}")
        answer = await self._request(method, f"job/{job}", body, query)
        if isinstance(answer, Unreachable):
            return answer
        return Refused(_error_text(answer)) if answer.get("errors") else Applied()

    async def _request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, query: Mapping[str, str] | None = None
    ) -> dict[str, Any] | Unreachable:
        url = f"{self._base}/slurm/v0.0.38/{path}"
        headers = self._headers()
        if isinstance(headers, Unreachable):
            return headers
        try:
            async with self._client().request(method, url, json=body, params=query, headers=headers) as response:
                raw = await response.content.read(MAX_ANSWER_BYTES + 1)
                while not response.content.at_eof() and len(raw) <= MAX_ANSWER_BYTES:
                    raw += await response.content.read(MAX_ANSWER_BYTES)
        except aiohttp.ClientConnectorError as error:
            return Unreachable(Failure.CONNECT, str(error)[:200])
        except (aiohttp.ClientError, OSError) as error:
            return Unreachable(Failure.CLOSED, str(error)[:200])
        if len(raw) > MAX_ANSWER_BYTES:
            return Unreachable(Failure.OVERSIZED, f"{url}: over {MAX_ANSWER_BYTES} bytes")
        if response.status in {401, 403} or b"uthentication" in raw[:200]:
            return Unreachable(Failure.AUTH, "slurmrestd refused the token; renew it with `scontrol token`")
        try:
            answer = json.loads(raw)
        except ValueError:
            return Unreachable(Failure.GARBAGE, f"HTTP {response.status}, not JSON")
        return answer if isinstance(answer, dict) else Unreachable(Failure.GARBAGE, "not a JSON object")

    @property
    def _base(self) -> str:
        return "http://localhost" if self._options.url.startswith("unix:") else self._options.url.rstrip("/")

    def _headers(self) -> dict[str, str] | Unreachable:
        headers = {}
        if self._options.user:
            headers["X-SLURM-USER-NAME"] = self._options.user
        if self._options.token_file is not None:
            try:
                headers["X-SLURM-USER-TOKEN"] = self._options.token_file.read_text(encoding="utf-8").strip()
            except OSError as error:
                return Unreachable(Failure.AUTH, f"token_file {self._options.token_file}: {error.strerror}")
        return headers

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            unix = self._options.url.removeprefix("unix:") if self._options.url.startswith("unix:") else None
            connector = aiohttp.UnixConnector(path=unix) if unix else aiohttp.TCPConnector(limit=IN_FLIGHT)
            self._session = aiohttp.ClientSession(connector=connector)
        return self._session


def _is_held(job: Mapping[str, Any]) -> bool:
    return job.get("priority") == 0 or str(job.get("state_reason", "")).startswith("JobHeld")


def _is_up(node: Mapping[str, Any]) -> bool:
    return node["state"] in _UP_STATES and not _OUT_FLAGS & set(node.get("state_flags", ()))


def _gone(outcome: Outcome) -> bool:
    """Whether Slurm says that the job has ended (error 2017 invalid id, 2021 already done)."""
    return isinstance(outcome, Refused) and ("Invalid job id" in outcome.detail or "already" in outcome.detail)


def _error_text(answer: Mapping[str, Any]) -> str:
    first = answer["errors"][0]
    return str(first.get("description") or first.get("error") or first)[:200]


def _worst(outcomes: Iterable[Outcome]) -> Outcome:
    """One outcome for many: unreachable before refused before applied."""
    worst: Outcome = Applied()
    for outcome in outcomes:
        if isinstance(outcome, Unreachable):
            return outcome
        if isinstance(outcome, Refused) and not _gone(outcome):
            worst = outcome
    return worst
