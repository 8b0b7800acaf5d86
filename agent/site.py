"""The site agent: reports, obeys under the guard's eye, and proves what came of it.

Everything runs in one event loop and nothing waits for a device. An order acts the moment it arrives: admit, step,
allocate, first command. Beside that a control loop looks at the whole site at least once a second, states every bank's
target again, and reports at its tick whatever is known by then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random
from typing import Final

from agent.answers import Bands, ReceiptBook
from agent.bank import Survey
from agent.build import DriverRegistry, build
from agent.compiled import guard_plan, nameplate
from agent.config import AgentConfig
from agent.guard import admit, adopt, mode_of, set_local, step
from agent.guard_model import BankFacts, Facts, GuardPlan, GuardState, Verdict
from agent.keeper import Keeper
from agent.link import SiteLink
from agent.measure import Measure, Measurer
from agent.persist import Now, restore_guard, restore_machinery
from agent.report import build_report
from agent.rounds import gauge_round, poll_round
from agent.stall import Stall
from agent.state import StateStore
from agent.together import run_together
from agent.twin import TwinWatch
from contract.bus import Bus
from contract.clock import Clock
from contract.messages import Mode, Order

_LOG = logging.getLogger(__name__)
JOBS_TOLD: Final = 2_500
"""Jobs in one report: about half of what one message may hold."""
TURN_DEVICES: Final = 500
"""Devices whose targets are worked out in one turn of the loop: about a millisecond."""
STALL_PERIODS: Final = 2
"""A control step this many periods late was kept by the machine, and readings with it."""
TICKS_LATE: Final = 5
"""A control loop this many periods behind is not healthy."""


class SiteAgent:
    """One site. `run` until cancelled; the properties may be read at any time, from the same loop.

    Raises `agent.config_rules.ConfigError` for a driver or an option that cannot be used.
    """

    def __init__(
        self,
        config: AgentConfig,
        *,
        bus: Bus,
        clock: Clock,
        rng: Random,
        state: StateStore,
        registry: DriverRegistry | None = None,
        on_tick: Callable[[], None] | None = None,
    ) -> None:
        self.config = config
        self.plan: GuardPlan = guard_plan(config)
        self._clock, self._rng, self._store = clock, rng, state
        self._on_tick = on_tick
        loaded = state.load()
        saved_boot_ms = loaded.state.boot_ms if loaded.state is not None else 0
        self._boot_ms = max(clock.wall_ms(), saved_boot_ms + 1)
        self.boot = f"{self._boot_ms:013x}-{rng.getrandbits(32):08x}"
        """This incarnation; a later one sorts after an earlier one."""
        self.machinery = build(
            config,
            registry or DriverRegistry.installed(),
            clock=clock,
            rng=rng,
            on_reading=self._on_gauge,
            on_partition=self._on_partition,
        )
        restore_machinery(self.machinery, loaded)
        self._guard = restore_guard(self.plan, loaded, self._now())
        self._found_as_is = loaded.state is None and not loaded.corrupt
        self.plate = nameplate(config, self.boot)
        self.link = SiteLink(
            self.plate,
            self.boot,
            bus=bus,
            clock=clock,
            on_order=self._on_order,
            on_yield=self._on_yield,
            on_up=self._report_soon,
        )
        self._measurer = Measurer(config, self.plan, self.machinery.gauges.by_name)
        start_delays_ms = [bank.start_delay_ms for bank in config.banks.values()]
        bands = Bands(config.tolerance, config.timing)
        self.book = ReceiptBook(config.site.id, self.boot, self.plan.banks, start_delays_ms, bands)
        self._surveys: list[Survey] = [bank.survey(clock.mono_ms()) for bank in self.machinery.banks]
        self._measure: Measure = self._measurer.measure(self._surveys, clock.mono_ms())
        self._verdict: Verdict = self._step()
        self._order: Order | None = None
        self._keeper = Keeper(state, self.plan, self.machinery, self._boot_ms, self._now, lambda: self._guard)
        self._report_due_ms = clock.mono_ms()
        self._sighted = False
        self._started_ms: int | None = None
        self._dies = False
        self.ticked_ms: int | None = None
        self.late_ms = 0
        """How late the last control step began."""
        self._stall = Stall(STALL_PERIODS * config.timing.guard_every_ms, config.timing.device_stale_ms)

    # what others may read

    @property
    def mode(self) -> Mode:
        return mode_of(self.plan, self._guard, self._clock.mono_ms())

    @property
    def guard_state(self) -> GuardState:
        return self._guard

    @property
    def verdict(self) -> Verdict:
        """What the site is held at."""
        return self._verdict

    @property
    def measure(self) -> Measure:
        """What was last measured."""
        return self._measure

    @property
    def last_order(self) -> Order | None:
        """The last one accepted by this incarnation."""
        return self._order

    @property
    def setpoints(self) -> Mapping[str, int | None]:
        """What each bank is held at; None where hands are off."""
        return {bank.id: hold.setpoint_w for bank, hold in zip(self.plan.banks, self._verdict.banks, strict=True)}

    @property
    def now_ms(self) -> int:
        """This moment on the agent's monotonic clock."""
        return self._clock.mono_ms()

    @property
    def bus(self) -> Bus:
        return self.link.bus

    @property
    def twin(self) -> TwinWatch:
        """Another agent of this site, if there is one."""
        return self.link.twin

    @property
    def events(self) -> Counter[tuple[str, str]]:
        """Orders, messages and losses of the link, by what became of them."""
        return self.link.events

    @property
    def saves(self) -> Mapping[str, int]:
        """State saves by outcome."""
        return self._keeper.saves

    @property
    def store(self) -> StateStore:
        return self._store

    def health(self) -> tuple[bool, Mapping[str, object]]:
        """Whether the control loop ticks and speaks for its site, and the particulars."""
        now_ms = self._clock.mono_ms()
        age_ms = None if self.ticked_ms is None else now_ms - self.ticked_ms
        ticking = age_ms is not None and age_ms <= TICKS_LATE * self.config.timing.guard_every_ms
        return ticking and self.link.speaks, {
            "site": self.config.site.id,
            "boot": self.boot,
            "ticking": ticking,
            "tick_age_ms": age_ms,
            "mode": str(self.mode),
            "broker": self.bus.connected,
            "twin": self.twin.master,
            "state_save_failures": self._store.failures,
            "driver_faults": self.machinery.contain.faults,
            "interlocks": sorted(
                f"{bank.id}: {lock.kind}"
                for bank, hold in zip(self.plan.banks, self._verdict.banks, strict=True)
                for lock in hold.interlocks
            ),
        }

    # what a person on site may do

    def set_local(self, *, local: bool) -> None:
        """Take the site out of, or back into, the controller's hands."""
        if local != self._guard.local:
            _LOG.warning("%s: local control %s", self.config.site.id, "taken" if local else "given back")
            facts = self._measure.facts
            self._guard = set_local(self.plan, self._guard, facts, self._clock.mono_ms(), local=local)
            self._obey()

    def set_lockouts(self, banks: frozenset[str]) -> None:
        """The banks that a person on site keeps down."""
        if banks != self._guard.lockouts:
            _LOG.warning("%s: locked out: %s", self.config.site.id, ", ".join(sorted(banks)) or "none")
            self._guard = replace(self._guard, lockouts=banks)
            self._obey()

    # life

    async def run(self) -> None:
        """Run until cancelled, then end cleanly: banks to their fail-safe if so configured, and an `offline` said."""
        self._started_ms = self._report_due_ms = self._clock.mono_ms()
        jobs = [
            self.link.run(),
            self._control_loop(),
            poll_round(self.machinery, self._clock, self.config.timing.poll_every_ms),
            gauge_round(self.machinery, self._clock, self.config.timing.meter_every_ms),
            *(bank.run() for bank in self.machinery.hpc_banks),
        ]
        try:
            await run_together(jobs, self._end)
        finally:
            await self.machinery.fleet.close()
            if not self._dies:
                self._keeper.save_state()
                self._keeper.save_memory()

    def die(self) -> None:
        """From here a cancelled `run` ends as a killed process does: nothing is commanded, said or saved any more.

        For simulations; its bus may still take leave of the broker, so cut the link first.
        """
        self._dies = True

    async def _control_loop(self) -> None:
        due_ms = self._clock.mono_ms()
        while True:
            now_ms = self._clock.mono_ms()
            self.late_ms = max(now_ms - due_ms, 0)
            self._stall.note(self.late_ms, now_ms)
            await self._look_at_banks()
            self._control()
            if self.machinery.fleet.crash is not None:
                raise self.machinery.fleet.crash
            period_ms = min(self.config.timing.guard_every_ms, self._report_every_ms)
            due_ms = max(due_ms + period_ms, now_ms)
            await self._clock.sleep_ms(due_ms - self._clock.mono_ms())

    async def _look_at_banks(self) -> None:
        """Survey bank by bank; whatever else is ready runs between two of them."""
        for place, bank in enumerate(self.machinery.banks):
            now_ms = self._clock.mono_ms()
            self._surveys[place] = bank.survey(now_ms - self._stall.lost_ms(now_ms))
            await asyncio.sleep(0)

    def _control(self) -> None:
        """One control step: look, guard, obey, answer, report, remember."""
        now_ms = self._clock.mono_ms()
        self._measure = self._measurer.measure(self._surveys, now_ms)
        if not self._sighted:
            self._first_sight(now_ms)
        for place, bank in enumerate(self.machinery.banks):
            if (metered := self._measurer.metered(place, now_ms)) is not None:
                power_w, read_ms = metered
                limits = self.plan.banks[place]
                setpoint_w = self._verdict.banks[place].setpoint_w or 0
                source = self._measure.banks[place].power.source
                bank.correct(power_w, read_ms, self.book.bands.tolerance_w(limits, setpoint_w, source))
        self._obey()
        self._answer()
        if self._sighted and now_ms >= self._report_due_ms:
            self._report(now_ms)
        self._keeper.tick(now_ms)
        self.ticked_ms = now_ms
        if self._on_tick is not None:
            self._on_tick()

    def _first_sight(self, now_ms: int) -> None:
        """Reports begin when every device has been looked at once, or has had the time for it."""
        looked = all(device.reading is not None or device.fails for device in self.machinery.devices)
        waited_ms = now_ms - (now_ms if self._started_ms is None else self._started_ms)
        if looked or waited_ms >= self.config.timing.device_stale_ms:
            self._sighted = True
            for limits, seen in zip(self.plan.banks, self._measure.banks, strict=True):
                if limits.max_inlet_mc is not None and seen.inlet_mc is None:
                    _LOG.warning("%s: %s has a max_inlet_mc and nothing tells its inlet", self.plan.site, limits.id)
            if self._found_as_is:
                self._guard = adopt(self.plan, self._guard, self._measure.facts, now_ms)

    async def _end(self) -> None:
        """A clean end, while everything still runs."""
        if self._dies:
            return
        self.link.ending = True
        if self.config.fail_safe.on_end == "fail_safe" and not self._guard.local:
            self._guard = replace(self._guard, lease_until_ms=None, hold_until_ms=None)
            self._obey()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.config.fail_safe.end_within_s):
                    while not self._settled():
                        await self._clock.sleep_ms(20)
        await self.machinery.close()
        if self.link.speaks:
            self._report(self._clock.mono_ms())
            self.link.leave()

    def _settled(self) -> bool:
        return self.machinery.fleet.idle and all(bank.settled for bank in self.machinery.hpc_banks)

    # guard

    def _obey(self) -> None:
        """Ask the guard what the site is to do now, and have every bank do it, those that are shed first first."""
        before = self._verdict
        verdict = self._step()
        self._hold_from(verdict, 0)
        if verdict.mode is not before.mode:
            _LOG.warning("%s: mode %s -> %s", self.config.site.id, before.mode, verdict.mode)
            if verdict.order is None:
                self.book.close()
        changed = [
            new for new, old in zip(verdict.banks, before.banks, strict=True) if new.interlocks != old.interlocks
        ]
        if changed or verdict.mode is not before.mode:
            self._report_due_ms = self._clock.mono_ms()
        if any(new.on != old.on for new, old in zip(verdict.banks, before.banks, strict=True)) or changed:
            self._keeper.touch()

    def _hold_from(self, verdict: Verdict, first: int) -> None:
        """Hold the banks from a place in the shed order on. A large site takes several turns of the loop, so that the
        first bank's commands go out while the last one's are worked out."""
        if verdict is not self._verdict:
            return  # a later verdict has begun anew
        devices = 0
        for index in range(first, len(verdict.shed_first)):
            place = verdict.shed_first[index]
            hold, bank = verdict.banks[place], self.machinery.banks[place]
            if self._sighted or not hold.setpoint_w:  # before the first look, a part load has no known parts
                bank.hold(hold, self._measure.banks[place].unread_w)
            devices += self.plate.banks[place].devices
            if devices >= TURN_DEVICES:
                asyncio.get_running_loop().call_soon(self._hold_from, verdict, index + 1)
                return

    def _step(self) -> Verdict:
        chances = [self._rng.random() for _ in self.plan.banks]
        facts = self._facts()
        self._guard, self._verdict = step(self.plan, self._guard, facts, self._clock.mono_ms(), chances)
        return self._verdict

    def _facts(self) -> Facts:
        """What is measured, and what banks have been told by this moment: the one may be a second older."""
        now_ms, measured = self._clock.mono_ms(), self._measure.facts

        def told(place: int, seen: BankFacts) -> BankFacts:
            bank, state = self.machinery.banks[place], self._guard.banks[place]
            young = state.on and now_ms - state.since_ms < self.plan.banks[place].min_up_ms
            keeps_w = bank.keeps_w(self._measure.banks[place].unread_w) if young else None
            return replace(seen, runs=bank.turn.runs, turned_ms=bank.turn.turned_ms, keeps_w=keeps_w)

        return replace(measured, banks=tuple(told(place, seen) for place, seen in enumerate(measured.banks)))

    # what the link brings, and what goes out

    def _on_order(self, order: Order) -> None:
        """Judge an order and, where it may act, act at once."""
        if self.link.ending:
            self.events["order", "ending"] += 1
            return
        now_ms = self._clock.mono_ms()
        basis_ms = self.link.sent.sent_ms(order.based_on_seq) if order.based_on_boot == self.boot else None
        self._guard, admission = admit(self.plan, self._guard, order, basis_ms, now_ms)
        if admission.duplicate:
            self.events["order", "duplicate"] += 1
            self.link.answer(self.book.now())
            return
        if not admission.accepted:
            self.events["order", str(admission.reason)] += 1
            if self.link.speaks:
                self.link.answer(self.book.refuse(order, admission))
            return
        self.events["order", "accepted"] += 1
        self._order = order
        for bank in self.machinery.banks:
            bank.new_order(order)
        self._obey()
        self.book.begin(order, self._verdict, now_ms)
        self.link.answer(self.book.now())
        self._report_due_ms = min(self._report_due_ms, now_ms + self._report_every_ms)
        self._keeper.touch()

    def _on_yield(self) -> None:
        """Another agent begins, or ceases, to speak for this site."""
        self._guard = replace(self._guard, yielded=not self.link.speaks, lease_until_ms=None, hold_until_ms=None)
        self.book.close()
        self._obey()

    def _report_soon(self) -> None:
        self._report_due_ms = self._clock.mono_ms()

    def _on_gauge(self) -> None:
        """A meter was read: where a receipt waits for power, look at once rather than at the next tick."""
        if self.book.waiting:
            self._measure = self._measurer.measure(self._surveys, self._clock.mono_ms())
            self._answer()

    def _on_partition(self) -> None:
        """A partition was looked at or acted upon."""
        self._keeper.partitions_changed()

    def _answer(self) -> None:
        """A receipt where a bank's part of the order has changed."""
        first_commands = [bank.first_command_ms for bank in self.machinery.banks]
        now_ms = self._clock.mono_ms()
        self.link.answer(self.book.look(self._verdict, self._measure.banks, first_commands, now_ms))

    def _report(self, now_ms: int) -> None:
        self._report_due_ms = max(self._report_due_ms + self._report_every_ms, now_ms)
        if not self.link.speaks:
            return
        hpc_banks = self.machinery.hpc_banks
        jobs_max = JOBS_TOLD // max(len(hpc_banks), 1)
        partitions = [reading for bank in hpc_banks if (reading := bank.reading(now_ms, jobs_max)) is not None]
        report = build_report(
            site=self.config.site.id,
            boot=self.boot,
            seq=self.link.sent.next_seq,
            wall_ms=self._clock.wall_ms(),
            feeder_ids=self.plan.tree.ids,
            limits=self.plan.banks,
            state=self._guard,
            verdict=self._verdict,
            measure=self._measure,
            partitions=partitions,
            now_ms=now_ms,
        )
        self.link.report(report, now_ms)

    @property
    def _report_every_ms(self) -> int:
        timing = self.config.timing
        order = self._verdict.order
        open_obligation = order is not None and order.obligation is not None
        return timing.obligation_report_every_ms if open_obligation else timing.report_every_ms

    # helpers

    def _now(self) -> Now:
        return Now(self._clock.wall_ms(), self._clock.mono_ms())
