"""One Slurm partition, whatever carries what is asked of it: slurmrestd (`slurm_rest`) or Slurm's programs (`slurm`).

* freeze    STOP to the batch script and what it runs itself by the link, to what `srun` launched by `scancel`; the job
            turns STOPPED and keeps its nodes, so nothing backfills
* thaw      the same with CONT; and the time limit, which runs on while a job stands still, is moved by as much
* admission a hold on each pending job; a site that gives the driver `scontrol` closes the partition instead, and may
            have jobs requeued and nodes powered down (`_slurm_managed`)

Slurm does not say who stopped or held a job, so the driver keeps a ledger (`memory` carries it over a restart of the
agent) and undoes only what is in it: a job an operator held or stopped stays as found, and is not reported, for it
wants no power. Signals and limits of other users' jobs need the rights of root, SlurmUser or an operator.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeVar

from agent.drivers.base import Applied, Failure, Outcome, PartitionFacts, Refused, Unreachable
from agent.drivers.schedulers._batch import bounded, each
from agent.drivers.schedulers._slurm_api import GONE
from agent.drivers.schedulers._slurm_facts import SIGNALING, Site, is_live, jobs_of, partition_facts, stopped_by_others
from agent.drivers.schedulers._slurm_ledger import Ledger, is_job
from agent.drivers.schedulers._slurm_link import SlurmLink
from agent.drivers.schedulers._slurm_options import SlurmOptions
from agent.drivers.schedulers._slurm_records import MAX_TASKS, Listing, SlurmJob, tasks
from agent.drivers.schedulers._slurm_steps import StepSignals
from agent.drivers.schedulers._slurm_turns import Turns
from contract.clock import Clock

T = TypeVar("T")
_LOG = logging.getLogger(__name__)

MAX_LIMITS: Final = 64
"""Time limits set after one reading."""
MAX_SAID: Final = 50
"""Things said once each."""
_RUNNING: Final = "RUNNING"
_STOP: Final = "STOP"
_CONT: Final = "CONT"
_LATE: Final = Unreachable(Failure.TIMEOUT, "Slurm did not answer in time")
_SIGNAL_LOOKS: Final = 4
_SIGNAL_LOOK_S: Final = 0.05
_SIGNAL_S: Final = 0.2
"""After so long the last signal to a job is through (20 to 80 ms were seen), and `scancel` does not stumble over it."""
_REFUSED_MS: Final = 600_000
"""How long no time limit is tried after one was refused."""
FEW: Final = 8
"""So many jobs are signalled one by one over the link, which needs no program to be started."""


class SlurmPartition:
    """Implements `agent.drivers.base.Partition` and `Remembers`."""

    def __init__(
        self, options: SlurmOptions, link: Callable[[], SlurmLink], *, deadline_s: float, clock: Clock
    ) -> None:
        """`link` opens one; it is closed with this."""
        self._options = options
        self._make_link = link
        self._deadline_s = deadline_s
        self._clock = clock
        self._site = Site(
            options.partition,
            options.node_busy_w - options.node_idle_w,
            options.values,
            managed=options.scontrol is not None,
            powers=options.node_off_w is not None,
        )
        self._ledger = Ledger()
        self._offset_ms = clock.wall_ms() - clock.mono_ms()
        """The wall clock's, against the monotonic one."""
        self._link: SlurmLink | None = None
        self._steps = StepSignals(options.scancel, options.slurm_conf) if options.scancel is not None else None
        self._others: frozenset[str] = frozenset()
        """Jobs that somebody else has stopped, at the last reading."""
        self._turns = Turns()
        self._stepped: frozenset[str] = frozenset()
        """Jobs that ran steps when that was last looked at ..."""
        self._looked_at: frozenset[str] = frozenset()
        """... and jobs that ran then."""
        self._signalled_s: dict[str, float] = {}
        self._listing: Listing | None = None
        """The one that was read last."""
        self._limits_from_ms = 0
        self._failing: Failure | None = None
        self._unchecked: set[str] = set()
        """Jobs that were frozen as ones without steps."""
        self._said: set[str] = set()
        self._faults: Counter[str] = Counter()
        self._unmapped: frozenset[str] = frozenset()

    @property
    def faults(self) -> Mapping[str, int]:
        """What was put up with, by kind: `unmapped_qos` counts jobs, each once; the others readings."""
        return self._faults

    @property
    def memory(self) -> dict[str, str]:
        """What must survive a restart of the agent: the jobs frozen and held by us."""
        return self._ledger.save()

    @memory.setter
    def memory(self, saved: Mapping[str, str]) -> None:
        self._ledger = Ledger.load(saved)

    async def read(self) -> PartitionFacts | Unreachable:
        """Jobs and nodes of the partition. What our freezes and thaws left to do is done then, in what is left of the
        deadline; it changes nothing of the facts."""
        by_s = asyncio.get_running_loop().time() + self._deadline_s
        listing = await self._bounded(self._listed_anew(), by_s)
        self._note(listing)
        if isinstance(listing, Unreachable):
            return listing
        now_s, wall_ms = self._now_s(), self._clock.wall_ms()
        listing = replace(listing, jobs=tuple(job for job in listing.jobs if not job.is_over(now_s)))
        mine = jobs_of(listing, self._site.partition)
        if listing.settled:
            self._ledger.observe(mine, now_s)
            self._ledger.observe_nodes(listing.nodes, now_s)
        self._note_others(stopped_by_others(mine, self._ledger))
        self._note_unmapped(mine)
        facts = partition_facts(listing, self._site, self._ledger, wall_ms)
        if listing.settled:
            await self._bounded(self._keep_up(mine), by_s)
        return facts

    async def set_admission(self, admitting: bool) -> Outcome:
        """Hold every pending job that is not held, or release those that we held. Re-assert it each tick: jobs come."""
        self._ledger.admitting = admitting
        if admitting:
            return await self._release_all()
        by_s = asyncio.get_running_loop().time() + self._deadline_s
        listing = await self._bounded(self._listed(), by_s)
        if isinstance(listing, Unreachable):
            return listing
        holds = _to_hold(jobs_of(listing, self._site.partition), self._ledger)
        return worst((await self._each(holds, lambda key: self._hold(key, holds[key]))).values())

    async def freeze(self, jobs: Sequence[str]) -> Mapping[str, Outcome]:
        """Signal STOP to every process of the jobs. A job that has ended answers Applied: it draws nothing. One that
        somebody else has stopped does too, and stays theirs."""
        if self._steps is None:
            self._say_once(
                "no scancel is set: what jobs launch with srun goes on when they are frozen", level=logging.INFO
            )
        outcomes: dict[str, Outcome] = {job: Applied("stopped by somebody else") for job in jobs if job in self._others}
        outcomes |= await self._signal_all([job for job in jobs if job not in outcomes], _STOP)
        return outcomes

    async def thaw(self, jobs: Sequence[str]) -> Mapping[str, Outcome]:
        """Signal CONT, only to jobs that this driver froze."""
        outcomes: dict[str, Outcome] = {
            job: Refused("stopped by somebody else: left as found")
            if job in self._others
            else Applied("was not frozen")
            for job in jobs
            if job not in self._ledger.frozen
        }
        outcomes |= await self._signal_all([job for job in jobs if job not in outcomes], _CONT)
        return outcomes

    async def close(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    # -- one job -----------------------------------------------------------------------------------------------------

    async def _hold(self, key: str, covers: Sequence[str]) -> Outcome:
        before = self._ledger.holding(covers, self._now_s())
        outcome = await self._open().update(key, {"hold": True})
        if isinstance(outcome, Applied):
            self._ledger.done(covers, before)
        return outcome

    async def _release_all(self) -> Outcome:
        return worst((await self._each(sorted(self._ledger.held), self._release)).values())

    async def _release(self, key: str) -> Outcome:
        """It counts as held until a listing shows that it is not."""
        outcome = await self._open().update(key, {"hold": False})
        if outcome is GONE:
            self._ledger.held.discard(key)
        return outcome

    async def _set_limit(self, job: str, limit_min: int) -> None:
        outcome = await self._open().update(job, {"time_limit": limit_min})
        if isinstance(outcome, Applied):
            self._ledger.owed_min.pop(job, None)
        if isinstance(outcome, Refused):
            self._ledger.unpaid(job)
            self._limits_from_ms = self._clock.mono_ms() + _REFUSED_MS
            self._say_once("Slurm moves no time limit for us, so frozen jobs may reach theirs", outcome.detail)

    # -- many jobs ---------------------------------------------------------------------------------------------------

    async def _signal_all(self, jobs: Sequence[str], signal: str) -> dict[str, Outcome]:
        """A job's signals go out one after another; different jobs do not wait for each other."""
        named = [job for job in dict.fromkeys(jobs) if is_job(job)]
        before: Mapping[str, int] = {}
        async with self._turns.of(named):
            if signal == _STOP:
                before = self._ledger.freezing(named, self._now_s())
            else:
                self._ledger.stopping.difference_update(named)
                self._ledger.waking.update(named)
            outcomes, stepped = await self._signal_parts(named, signal)
        done = [job for job in named if isinstance(outcomes[job], Applied)]
        if signal == _STOP:
            self._ledger.done(done, before)
            self._ledger.stopping.difference_update(done)
            self._unchecked |= {job for job in done if job not in stepped}
        else:
            self._ledger.waking.difference_update(done)
        return {job: outcomes.get(job, Refused(f"not a Slurm job: {job[:40]}")) for job in jobs}

    async def _signal_parts(self, jobs: Sequence[str], signal: str) -> tuple[dict[str, Outcome], frozenset[str]]:
        """Outcomes, and the jobs whose steps were signalled. Of a job with steps those go first, by one `scancel` where
        that is set, then the script: the other way about, `scancel` would wait seconds for a signal still under way.
        Jobs without go at once."""
        stepped = await self._with_steps(jobs, anew=signal == _CONT)

        async def with_steps() -> tuple[Mapping[str, Outcome], Mapping[str, Outcome]]:
            steps = await self._signal_by_scancel(stepped, signal)
            return steps, await self._signal_scripts(stepped, signal)

        (steps, scripts), plain = await asyncio.gather(
            with_steps(), self._signal_plain([job for job in jobs if job not in set(stepped)], signal)
        )
        scripts = {**scripts, **plain}
        now_s = asyncio.get_running_loop().time()
        self._signalled_s = {job: at_s for job, at_s in self._signalled_s.items() if now_s - at_s < _SIGNAL_S}
        self._signalled_s.update(dict.fromkeys(jobs, now_s))
        return {job: _both(scripts[job], steps.get(job)) for job in jobs}, frozenset(steps)

    async def _with_steps(self, jobs: Sequence[str], *, anew: bool = False) -> list[str]:
        """Those jobs that run steps; all of them where that is not known. To signal steps that are not there takes
        slurmctld as long as to signal those that are, and holds up the signal to the script. A job that was looked at
        since it runs is not looked at again, unless `anew`: a step launched since is found after the signal."""
        if self._steps is None or not jobs:
            return []
        if anew or not self._looked_at.issuperset(jobs):
            found = await self._look_at_steps(self._steps)
            if found is None:
                return list(jobs)
        return [job for job in jobs if job in self._stepped]

    async def _look_at_steps(self, steps: StepSignals) -> frozenset[str] | None:
        token = self._open().token()
        if isinstance(token, Unreachable):
            return None
        by_s = asyncio.get_running_loop().time() + self._deadline_s
        found = await self._bounded(steps.running(self._site.partition, token), by_s)
        if isinstance(found, Unreachable) or found is None:
            return None
        self._stepped = found
        return found

    async def _signal_plain(self, jobs: Sequence[str], signal: str) -> Mapping[str, Outcome]:
        """The scripts of jobs without steps."""
        return await self._signal_scripts(jobs, signal)

    async def _signal_scripts(self, jobs: Sequence[str], signal: str) -> Mapping[str, Outcome]:
        """By the link, a job at a time; by `scancel` where the link cannot."""
        by_scancel: list[str] = []

        async def one(job: str) -> Outcome:
            outcome = await self._open().signal(job, signal)
            if outcome is None:
                by_scancel.append(job)
            return outcome or _LATE

        outcomes = await self._each(jobs, one)
        now_s = asyncio.get_running_loop().time()
        self._signalled_s.update(dict.fromkeys(by_scancel, now_s) if self._steps else {})
        return outcomes | dict(await self._signal_by_scancel(by_scancel, signal, full=True))

    async def _signal_by_scancel(
        self, jobs: Sequence[str], signal: str, *, full: bool = False
    ) -> Mapping[str, Outcome]:
        """The steps of these jobs, or with `full` their batch scripts and what those started."""
        if self._steps is None or not jobs:
            return {}
        token = self._open().token()
        if isinstance(token, Unreachable):
            return dict.fromkeys(jobs, token)
        by_s = asyncio.get_running_loop().time() + self._deadline_s
        with self._open().command():
            sent = await self._bounded(self._send_steps(jobs, signal, token, full=full), by_s)
        return dict.fromkeys(jobs, sent) if isinstance(sent, Unreachable) else sent

    async def _send_steps(
        self, jobs: Sequence[str], signal: str, token: str | None, *, full: bool
    ) -> Mapping[str, Outcome]:
        assert self._steps is not None  # noqa: S101  looked at by the caller
        now_s = asyncio.get_running_loop().time()
        through_s = max((self._signalled_s.get(job, 0.0) for job in jobs), default=0.0) + _SIGNAL_S
        if now_s < through_s:
            await asyncio.sleep(through_s - now_s)
        return await self._steps.send(signal, jobs, token, how="--full" if full else None)

    async def _each(self, jobs: Iterable[str], act: Callable[[str], Awaitable[Outcome]]) -> dict[str, Outcome]:
        return await each(jobs, act, self._deadline_s, _LATE)

    async def _keep_up(self, mine: Sequence[SlurmJob]) -> None:
        """What is left to do of earlier commands. What there is no time for, the next reading does."""
        if stopping := self._turns.free(self._ledger.stopping):
            await self._signal_all(stopping, _STOP)
        if waking := self._turns.free(self._ledger.waking):
            await self._signal_all(waking, _CONT)
        await self._check_steps()
        await self._look_at_new(mine)
        if self._ledger.admitting and self._ledger.held:
            await self._release_all()
        if self._options.extend_limits and self._clock.mono_ms() >= self._limits_from_ms:
            due = self._ledger.limits_due(mine, self._now_s())
            for job, limit_min in list(due.items())[:MAX_LIMITS]:
                await self._set_limit(job, limit_min)

    async def _check_steps(self) -> None:
        """A step that was launched while its script was being stopped had no signal: look once, and send it."""
        unchecked, self._unchecked = self._turns.free(self._unchecked & self._ledger.frozen.keys()), set()
        if unchecked and self._steps is not None:
            stepped = await self._with_steps(unchecked, anew=True)
            outcomes = await self._signal_by_scancel(stepped, _STOP)
            self._unchecked |= {job for job, outcome in outcomes.items() if isinstance(outcome, Unreachable)}

    async def _look_at_new(self, mine: Sequence[SlurmJob]) -> None:
        """Which jobs have steps is known before they are to be frozen."""
        running = frozenset(job.key for job in mine if job.job_state == _RUNNING)
        if self._steps is not None and running - self._looked_at and await self._look_at_steps(self._steps) is not None:
            self._looked_at = running
        self._looked_at &= running

    async def _listed_anew(self) -> Listing | Unreachable:
        """A listing that this driver has not read yet, once the signals of a moment ago are through."""
        for _ in range(_SIGNAL_LOOKS):
            listing = await self._listed(but=self._listing)
            if isinstance(listing, Unreachable):
                return listing
            self._listing = listing
            if all(job.job_state != SIGNALING for job in jobs_of(listing, self._site.partition)):
                break
            await asyncio.sleep(_SIGNAL_LOOK_S)
        return listing

    async def _listed(self, but: Listing | None = None) -> Listing | Unreachable:
        listing = await self._open().listing(but)
        if isinstance(listing, Unreachable):
            return listing
        if all(partition.name != self._site.partition for partition in listing.partitions):
            return Unreachable(Failure.GARBAGE, f"Slurm has no partition {self._site.partition}")
        return listing

    async def _bounded(self, work: Awaitable[T], by_s: float) -> T | Unreachable:
        return await bounded(work, by_s, _LATE)

    def _now_s(self) -> int:
        """Of the wall clock. Where it was stepped since it was last asked for, the ledger's times go along."""
        wall_ms = self._clock.wall_ms()
        stepped_s = round((wall_ms - self._clock.mono_ms() - self._offset_ms) / 1_000)
        if stepped_s:
            self._offset_ms += stepped_s * 1_000
            self._ledger.shift(stepped_s)
        return wall_ms // 1_000

    def _open(self) -> SlurmLink:
        if self._link is None:
            self._link = self._make_link()
        return self._link

    # -- what is said ------------------------------------------------------------------------------------------------

    def _note(self, listing: Listing | Unreachable) -> None:
        failure = listing.failure if isinstance(listing, Unreachable) else None
        if failure is not None:
            self._faults[failure] += 1
        if failure is self._failing:
            return
        self._failing = failure
        if isinstance(listing, Unreachable):
            _LOG.warning("partition %s cannot be read: %s", self._site.partition, listing.detail)
        else:
            _LOG.info("partition %s is read again", self._site.partition)

    def _note_others(self, others: frozenset[str]) -> None:
        if new := others - self._others:
            _LOG.info(
                "partition %s: stopped by somebody else, left as found: %s", self._site.partition, sorted(new)[:20]
            )
        self._others = others

    def _note_unmapped(self, jobs: Sequence[SlurmJob]) -> None:
        values = self._options.values
        found = {
            raw.key: raw.qos or raw.account or "none"
            for raw in jobs
            if is_live(raw) and not values.maps(raw.qos, raw.account)
        }
        self._faults["unmapped_qos"] += len(found.keys() - self._unmapped)
        self._unmapped = frozenset(found)
        for name in sorted(set(found.values()))[:MAX_SAID]:
            self._say_once(f"QOS or account {name} is in no map: its jobs take the default value and are not firm")

    def _say_once(self, text: str, detail: str = "", *, level: int = logging.WARNING) -> None:
        if text not in self._said and len(self._said) < MAX_SAID:
            self._said.add(text)
            _LOG.log(level, "partition %s: %s %s", self._site.partition, text, detail)


def _to_hold(jobs: Sequence[SlurmJob], ledger: Ledger) -> dict[str, list[str]]:
    """What to name in a request for a hold, each with the jobs it then covers. An array is held as one; but to release
    it would release what somebody else holds of it, so then its waiting tasks are held one by one."""
    held_by_others = {job.array for job in jobs if job.pending and job.held and not ledger.holds(job)}
    holds: dict[str, list[str]] = {}
    for job in jobs:
        if not job.pending or job.held or job.is_component:
            continue
        text = (job.array_task_string or "").partition("%")[0] if job.array in held_by_others else ""
        covers = [(part, tasks(part, MAX_TASKS)) for part in text.split(",")]
        if text and all(numbers for _, numbers in covers):
            for part, numbers in covers:
                holds[f"{job.array}_[{part}]"] = [f"{job.array}_{number}" for number in numbers]
        else:
            holds[job.key] = [job.key]
    return holds


def _both(script: Outcome, steps: Outcome | None) -> Outcome:
    """One outcome for a job's batch script and the steps it launched."""
    if script is GONE or steps is None or isinstance(steps, Applied) or not isinstance(script, Applied):
        return script
    return steps


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """One outcome for many: unreachable before refused before applied."""
    worst: Outcome = Applied()
    for outcome in outcomes:
        if isinstance(outcome, Unreachable):
            return outcome
        if isinstance(outcome, Refused):
            worst = outcome
    return worst
