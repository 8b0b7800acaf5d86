"""A Slurm partition whose site gives the driver `scontrol`: what REST v0.0.38 has no write for.

* admission the partition is set DOWN, which blocks every new start in one command, of jobs submitted later too, and
            opened as it was found. A slurmctld that restarts or is reconfigured forgets it, unless it has
            `ReconfigFlags=KeepPartState`: the agent asserts it again at every look. A
            partition that somebody else closed is left as found
* in part   a reservation `wattshift_PARTITION` over the other nodes, which lets go on what runs there (IGNORE_JOBS) and
            anybody else reserve them too (OVERLAP); one command creates, resizes or deletes it, and it outlives a
            restart of slurmctld. Only where no node is in another partition
* requeue   `scontrol requeuehold`, so that no restart of anything can start the job before admission is opened. When
            a released job starts is slurmctld's own business: it waits until its old credential has expired
            (`cred_expire`, 120 s by default), and is never hurried, for forcing its start has lost a job
* nodes     POWER_DOWN of idle nodes only: on a busy one Slurm would wait for the job, and power it down when nobody
            expects it
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Final

from agent.drivers.base import Applied, Outcome, Refused, Unreachable
from agent.drivers.schedulers._batch import BATCH_DEADLINES
from agent.drivers.schedulers._slurm_control import Control
from agent.drivers.schedulers._slurm_facts import jobs_of, may_requeue
from agent.drivers.schedulers._slurm_ledger import is_job
from agent.drivers.schedulers._slurm_link import SlurmLink
from agent.drivers.schedulers._slurm_options import SlurmOptions
from agent.drivers.schedulers._slurm_partition import FEW, SlurmPartition, worst
from agent.drivers.schedulers._slurm_records import SlurmJob
from agent.drivers.schedulers._slurm_steps import StepSignals
from contract.clock import Clock

Act = Callable[[Sequence[str], str | None], Awaitable[Mapping[str, Outcome]]]

CLOSED: Final = "DOWN"
_OPEN: Final = frozenset({"UP", "DRAIN"})
"""States in which jobs start."""
_IDLE: Final = "idle"


def slurm_partition(
    options: SlurmOptions, link: Callable[[], SlurmLink], *, deadline_s: float, clock: Clock
) -> SlurmPartition:
    """The driver that can do what these options allow."""
    if options.scontrol is None:
        return SlurmPartition(options, link, deadline_s=deadline_s, clock=clock)
    kind = ManagedSlurm if options.node_off_w is None else PoweredSlurm
    return kind(options, link, deadline_s=deadline_s, clock=clock)


class ManagedSlurm(SlurmPartition):
    """Implements `Partition`, `Remembers`, `CountsFaults`, `Requeues` and `AdmitsPart`."""

    def __init__(
        self, options: SlurmOptions, link: Callable[[], SlurmLink], *, deadline_s: float, clock: Clock
    ) -> None:
        super().__init__(options, link, deadline_s=deadline_s, clock=clock)
        assert options.scontrol is not None  # noqa: S101  looked at by `slurm_partition`
        assert options.scancel is not None  # noqa: S101  the options see to it
        self._control = Control(options.scontrol, options.slurm_conf)
        self._warnings = StepSignals(options.scancel, options.slurm_conf)

    async def set_admission(self, admitting: bool) -> Outcome:
        """Close the partition, or open it as it was found on all its nodes and release the jobs that we hold."""
        self._ledger.admitting = admitting
        if not admitting:
            return await self._close_down()
        return worst((await self._unbar(), await self._open_up()))

    async def admit_on(self, nodes: Collection[str]) -> Outcome:
        """A reservation keeps jobs from the other nodes. Where it grows, the partition is closed while it does, so that
        nothing starts there in the meantime."""
        by_s = asyncio.get_running_loop().time() + self._deadline_s
        listing = await self._bounded(self._listed(), by_s)
        if isinstance(listing, Unreachable):
            return listing
        mine = [node for node in listing.nodes if self._site.partition in node.partitions]
        if any(len(node.partitions) > 1 for node in mine):
            return Refused("a node is in another partition too, whose jobs are not ours to keep from it")
        barred = {node.name for node in mine} - set(nodes)
        if not barred:
            return await self.set_admission(True)
        self._ledger.admitting = False
        if not barred <= self._ledger.barred:
            closed = await self._close_down()
            if not isinstance(closed, Applied):
                return closed
        reserved = await self._bar(barred)
        if not isinstance(reserved, Applied):
            return reserved
        self._ledger.admitting = True
        return await self._open_up()

    async def warn(self, jobs: Sequence[str]) -> Mapping[str, Outcome]:
        """The site's checkpoint signal to the batch script alone, as `sbatch --signal=B:` sends it."""
        named = [job for job in jobs if is_job(job)]
        return await self._by_control(
            named, partial(self._warnings.send, self._options.checkpoint_signal, how="--batch")
        )

    async def requeue(self, jobs: Sequence[str]) -> Mapping[str, Outcome]:
        """Only batch jobs that Slurm may requeue, by a listing of now; all others answer Refused and go on."""
        by_s = asyncio.get_running_loop().time() + self._deadline_s
        listing = await self._bounded(self._listed(), by_s)
        if isinstance(listing, Unreachable):
            return dict.fromkeys(jobs, listing)
        known = {job.key: job for job in jobs_of(listing, self._site.partition)}
        outcomes: dict[str, Outcome] = {job: _unfit(known.get(job)) for job in jobs}
        fit = [job for job in jobs if job in known and may_requeue(known[job]) and is_job(job)]
        before = self._ledger.holding(fit, self._now_s())
        outcomes |= await self._by_control(fit, self._control.requeue_held)
        self._ledger.done([job for job in fit if isinstance(outcomes[job], Applied)], before)
        self._ledger.unheld(job for job in fit if isinstance(outcomes[job], Refused))
        return outcomes

    async def _signal_plain(self, jobs: Sequence[str], signal: str) -> Mapping[str, Outcome]:
        """A few by the link, which takes 16 ms where `scancel` takes 26; many by `scancel`: for 256 jobs it takes two
        thirds of the time that as many requests take slurmrestd."""
        if len(jobs) <= FEW:
            return await self._signal_scripts(jobs, signal)
        return await self._signal_by_scancel(jobs, signal, full=True)

    async def _keep_up(self, mine: Sequence[SlurmJob]) -> None:
        await super()._keep_up(mine)
        if self._ledger.admitting and self._ledger.closed_from is not None:
            await self._open_up()

    async def _release_all(self) -> Outcome:
        outcomes = await self._by_control(sorted(self._ledger.held), self._control.release)
        gone = [job for job, outcome in outcomes.items() if isinstance(outcome, Applied) and outcome.detail]
        self._ledger.held.difference_update(gone)
        return worst(outcomes.values())

    async def _close_down(self) -> Outcome:
        state = await self._partition_state()
        if isinstance(state, Unreachable):
            return state
        if state not in _OPEN:
            return Applied("closed" if self._ledger.closed_from else "closed by somebody else")
        self._ledger.closed_from = state
        return await self._set_partition(CLOSED)

    async def _open_up(self) -> Outcome:
        """What somebody else has set meanwhile stays."""
        released = await self._release_all() if self._ledger.held else Applied()
        if self._ledger.closed_from is None:
            return released
        state = await self._partition_state()
        if isinstance(state, Unreachable):
            return state
        outcome: Outcome = Applied("set by somebody else meanwhile")
        if state == CLOSED:
            outcome = await self._set_partition(self._ledger.closed_from)
        if isinstance(outcome, Applied):
            self._ledger.closed_from = None
        return worst((released, outcome))

    async def _bar(self, nodes: set[str]) -> Outcome:
        """Keep jobs from these nodes and from no others. They are in the ledger before the command is sent."""
        before, self._ledger.barred = self._ledger.barred, self._ledger.barred | nodes
        outcome = await self._write(lambda token: self._control.reserve(self._reservation, sorted(nodes), token))
        if isinstance(outcome, Applied):
            self._ledger.barred = nodes
        elif isinstance(outcome, Refused):
            self._ledger.barred = before
        return outcome

    async def _unbar(self) -> Outcome:
        if not self._ledger.barred:
            return Applied()
        outcome = await self._write(lambda token: self._control.unreserve(self._reservation, token))
        if isinstance(outcome, Applied):
            self._ledger.barred = set()
        return outcome

    @property
    def _reservation(self) -> str:
        return f"wattshift_{self._site.partition}"

    async def _partition_state(self) -> str | Unreachable:
        by_s = asyncio.get_running_loop().time() + self._deadline_s
        listing = await self._bounded(self._listed(), by_s)
        if isinstance(listing, Unreachable):
            return listing
        return next(part.state for part in listing.partitions if part.name == self._site.partition)

    async def _set_partition(self, state: str) -> Outcome:
        return await self._write(lambda token: self._control.set_partition(self._site.partition, state, token))

    async def _write(self, act: Callable[[str | None], Awaitable[Outcome]]) -> Outcome:
        """One command, within the deadline."""
        token = self._open().token()
        if isinstance(token, Unreachable):
            return token
        by_s = asyncio.get_running_loop().time() + self._deadline_s
        with self._open().command():
            return await self._bounded(act(token), by_s)

    async def _by_control(self, jobs: Sequence[str], act: Act) -> Mapping[str, Outcome]:
        """One act on many jobs, within the deadlines of a batch."""
        if not jobs:
            return {}
        token = self._open().token()
        if isinstance(token, Unreachable):
            return dict.fromkeys(jobs, token)
        by_s = asyncio.get_running_loop().time() + BATCH_DEADLINES * self._deadline_s
        with self._open().command():
            done = await self._bounded(act(jobs, token), by_s)
        return dict.fromkeys(jobs, done) if isinstance(done, Unreachable) else done


class PoweredSlurm(ManagedSlurm):
    """Implements `NodePower` besides."""

    @property
    def node_off_w(self) -> int:
        """What a node draws that is powered down."""
        return self._options.node_off_w or 0

    async def power_down(self, nodes: Sequence[str]) -> Outcome:
        """Those of these nodes that are idle, by a listing of now, and only while the partition is closed."""
        by_s = asyncio.get_running_loop().time() + self._deadline_s
        listing = await self._bounded(self._listed(), by_s)
        if isinstance(listing, Unreachable):
            return listing
        if any(part.name == self._site.partition and part.state in _OPEN for part in listing.partitions):
            return Refused("the partition is open: a job may start on the node")
        idle = {node.name for node in listing.nodes if node.state == _IDLE and not node.state_flags}
        fit = [node for node in nodes if node in idle]
        if not fit:
            return Refused("no longer idle")
        self._ledger.powering_down(fit, self._now_s())
        return await self._set_nodes(fit, "POWER_DOWN")

    async def power_up(self, nodes: Sequence[str]) -> Outcome:
        """Those of these nodes that we had powered down."""
        ours = [node for node in nodes if node in self._ledger.off]
        return await self._set_nodes(ours, "POWER_UP") if ours else Applied("not ours")

    async def _set_nodes(self, nodes: Sequence[str], state: str) -> Outcome:
        return await self._write(lambda token: self._control.set_nodes(nodes, state, token))


def _unfit(job: SlurmJob | None) -> Outcome:
    if job is None:
        return Applied("no longer there")
    return Applied("waits already") if job.pending else Refused("Slurm may not requeue it")
