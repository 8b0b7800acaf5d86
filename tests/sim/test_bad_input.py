"""Bad input and broken parts in a whole world: real controller, real agent, broker and plant; power is the plant's own.

What one daemon does by itself with bad input is proven with its own tests (`tests/agent`, `tests/controller`). Here is
what shows only where all of them meet. Every history also passes under all twelve checkers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from random import Random

import pytest

from controller.engine.model import OverrideKind
from controller.overrides import OverrideAsk
from controller.signals import SignalAsk
from sim.faults import FaultKind
from sim.jobs import JobPhase, JobSpec
from sim.plant import Plant
from sim.ports import DeviceFault
from sim.recorder import TapBus
from sim.simulation import Ask, Outcome, Scene, Simulation, simulate
from sim.simulation.daemons import AgentProcess
from sim.virtual import run_virtual
from tests.sim.scenes import DEAR, fault, scene
from tests.sim.test_broken_guard import twins

SITE = "brazos"
TARGET_W = 22_000
"""Of the scenes' site some 60 % of what it draws, and more than its firm work."""


def play(of: Scene, story: Callable[[Simulation], Awaitable[None]], *, but: frozenset[int] = frozenset()) -> Outcome:
    """Tell a story in a world, and find no invariant violated at its end, `but` those left out."""

    async def main() -> Outcome:
        async with Simulation(of) as world:
            await story(world)
            return world.finish()

    outcome = run_virtual(main(), seed=of.seed, limit_s=20_000)
    assert {violation.invariant for violation in outcome.violations} <= but, str(outcome)
    return outcome


async def until(world: Simulation, at_s: float) -> None:
    """Let the world run to so many seconds after its beginning."""
    await world.run(world.scene.begin_ms + round(at_s * 1_000))


async def kept(world: Simulation, from_s: int, to_s: int) -> None:
    """Watch the main meter at or below the target all along, but for excursions as when a job starts: seen, and shed
    for within half a minute. While no agent runs nobody sees or sheds; then what runs may drift, by no more than a
    twentieth."""
    over_s = 0
    for at_s in range(from_s, to_s, 5):
        await until(world, at_s)
        power_w = plant(world).main_power_w
        dead = world.truths[SITE].agent_since_ms is None
        assert not dead or power_w <= 1.05 * TARGET_W, f"{power_w:.0f} W at {at_s} s with no agent"
        over_s = over_s + 5 if power_w > 1.01 * TARGET_W and not dead else 0
        assert over_s <= 30, f"{power_w:.0f} W at {at_s} s"


def plant(world: Simulation) -> Plant:
    return world.sites[SITE].plant


def with_jobs(of: Scene, count: int, *, firm: bool = False) -> Scene:
    """The same with `count` jobs of a node each and no other, `9000` the first: minutes long, or hours where firm."""
    work_s = 7_200.0 if firm else 240.0
    jobs = tuple(JobSpec(f"{9_000 + place}", of.begin_ms, 1, work_s, 7_500.0, firm, 8.0) for place in range(count))
    site = dataclasses.replace(of.sites[0], jobs=lambda _start_ms: iter(jobs))
    return dataclasses.replace(of, sites=(site,))


def curtail(at_s: float, lasts_s: float) -> Ask:
    """The main meter at or below `TARGET_W`, at once."""
    ask = SignalAsk(site=SITE, target_w=TARGET_W, duration_ms=round(lasts_s * 1_000), id="curtail")
    return Ask(round(at_s * 1_000), ask)


def safe_w(world: Simulation) -> dict[str, int]:
    """What hash banks may draw in their fail-safe, the spread of their devices included."""
    plate = world.truths[SITE].plate
    return {bank.id: round(1.05 * max(bank.fail_safe_w, bank.idle_w)) for bank in plate.banks if bank.id != "gpu"}


def test_a_controller_gone_past_the_lease_leaves_every_bank_at_its_fail_safe_until_another_leads() -> None:
    """And what the new one orders, with its higher epoch, is obeyed and confirmed."""
    history = scene(14, faults=(fault(FaultKind.CONTROLLER_CRASH, 130, 420, None),))

    async def story(world: Simulation) -> None:
        await until(world, 125)
        running_w = {bank: plant(world).bank_power_w(bank) for bank in safe_w(world)}
        assert any(running_w[bank] > 2 * most_w for bank, most_w in safe_w(world).items())
        await until(world, 200)
        assert plant(world).main_power_w > 20_000, "the lease is not over yet"
        await until(world, 400)
        for bank, most_w in safe_w(world).items():
            assert plant(world).bank_power_w(bank) <= most_w, bank
        await until(world, 820)
        process = world.agents[SITE].agent
        assert process is not None
        assert process.guard_state.epoch == 2
        assert plant(world).main_power_w > 20_000

    assert play(history, story).receipts["confirmed"] > 0


@pytest.mark.parametrize("at_s", [124, 140, 170, 248, 300])
def test_an_agent_killed_in_the_middle_of_a_curtailment_goes_on_with_it(at_s: float) -> None:
    """Whether it dies as the shed begins, in its settled middle or near its end: power stays down while it is dead and
    when it is back; when all is over, the site runs as before."""
    history = scene(14, faults=(fault(FaultKind.AGENT_CRASH, at_s, at_s + 45),), asks=(curtail(120, 240),))

    async def story(world: Simulation) -> None:
        await until(world, 115)
        assert plant(world).main_power_w > 1.2 * TARGET_W
        await kept(world, 165, 355)
        await until(world, 830)
        assert plant(world).main_power_w > 1.2 * TARGET_W

    assert play(history, story).asks_taken == 1


def test_jobs_held_by_an_agent_that_dies_are_let_go_by_the_next() -> None:
    """What a scheduler's driver has done is written down as it is done, not at a clean end."""
    ask = OverrideAsk(site=SITE, kind=OverrideKind.LOCKOUT, bank="gpu", reason="work", duration_ms=170_000, id="lock")
    crash = fault(FaultKind.AGENT_CRASH, 150, 160)
    history = with_jobs(scene(9, faults=(crash,), asks=(Ask(90_000, ask),)), 12)

    async def story(world: Simulation) -> None:
        await until(world, 145)
        partition = plant(world).partitions["gpu"]
        waiting = {run.spec.id for run in partition.jobs if run.phase is JobPhase.PENDING}
        assert waiting
        assert all(run.held for run in partition.jobs if run.spec.id in waiting)
        await until(world, 530)
        assert {run.spec.id for run in partition.jobs if run.phase is JobPhase.RUNNING} & waiting

    play(history, story)


def test_a_broker_that_dies_during_a_curtailment_ends_neither_it_nor_what_comes_after() -> None:
    """The lease carries the site through; orders flow again when it is back, with nothing retained."""
    history = scene(12, faults=(fault(FaultKind.BROKER_DOWN, 180.001, 240, None),), asks=(curtail(120, 240),))

    async def story(world: Simulation) -> None:
        await kept(world, 165, 355)
        linked_ms = world.truths[SITE].linked_since_ms
        assert linked_ms is None or linked_ms > world.scene.begin_ms
        await until(world, 700)
        assert plant(world).main_power_w > 1.2 * TARGET_W

    play(history, story)


def test_an_order_of_a_replaced_leader_that_comes_late_is_refused_and_moves_nothing() -> None:
    """It was under way on a line that was cut and healed; the receipt says why."""
    outcome = simulate(twins())
    assert outcome.violations == []
    assert outcome.receipts["refused: epoch_old"] == 1


def test_a_link_that_loses_repeats_and_reorders_costs_time_and_nothing_else() -> None:
    """Repeated orders are answered again, overtaken ones refused; the curtailment is met, said and over."""
    lossy = fault(FaultKind.LINK_LOSS, 60, 420, amount=0.5)
    history = dataclasses.replace(scene(16, faults=(lossy,), asks=(curtail(120, 240),)), seed=11)

    async def story(world: Simulation) -> None:
        await until(world, 345)
        assert plant(world).main_power_w <= 1.01 * TARGET_W
        broker = world.broker
        assert min(broker.lost, broker.duplicated, broker.reordered) > 10
        await until(world, 940)
        assert plant(world).main_power_w > 1.2 * TARGET_W

    play(history, story)


def test_a_leader_whose_clock_jumps_an_hour_ahead_and_back_still_knows_its_obligation() -> None:
    """While its clock is wrong it takes the curtailment for over. Once it is right, the site is down again."""
    jump = fault(FaultKind.CLOCK_JUMP, 200, 260, target="controller", amount=3_600_000)
    history = scene(8, faults=(jump,), asks=(curtail(120, 300),))

    async def story(world: Simulation) -> None:
        await until(world, 330)
        assert plant(world).main_power_w <= 1.01 * TARGET_W
        await until(world, 415)
        assert plant(world).main_power_w <= 1.01 * TARGET_W

    play(history, story)


def test_a_lockout_takes_firm_work_off_too() -> None:
    """People work on it: running firm jobs stop, and stay stopped at every order that repeats the lockout."""
    locked = OverrideAsk(
        site=SITE, kind=OverrideKind.LOCKOUT, bank="gpu", reason="work", duration_ms=300_000, id="lock"
    )
    history = scene(6, asks=(Ask(60_000, locked),))
    history = with_jobs(history, 1, firm=True)

    async def story(world: Simulation) -> None:
        await until(world, 55)
        run = plant(world).partitions["gpu"].job("9000")
        assert run is not None
        phases = [run.phase]
        for at_s in range(90, 350, 10):
            await until(world, at_s)
            phases.append(run.phase)
        assert phases == [JobPhase.RUNNING] + [JobPhase.FROZEN] * 26

    play(history, story)


@pytest.mark.parametrize("how", list(DeviceFault), ids=str)
def test_one_device_that_lies_stalls_or_breaks_keeps_no_site_from_its_obligation(how: DeviceFault) -> None:
    """Whatever it answers, the meter tells; the other devices carry what it does not."""
    base = scene(6)
    bank = base.sites[0].kit.plan.banks[0].id
    broken = fault(FaultKind.DEVICE, 60, 350, target=bank, device=0, device_fault=how)
    history = scene(6, faults=(broken,), asks=(curtail(120, 200),))

    async def story(world: Simulation) -> None:
        await until(world, 115)
        assert plant(world).main_power_w > 1.2 * TARGET_W
        await kept(world, 180, 315)

    play(history, story)


def test_a_second_agent_with_the_same_site_id_is_an_alarm_and_two_masters_never_act() -> None:
    """The later one goes on, the earlier yields and obeys nothing, until the later one is gone."""
    history = scene(9, prices=(DEAR,))

    async def story(world: Simulation) -> None:
        await until(world, 60)
        first = world.agents[SITE].agent
        assert first is not None
        other = AgentProcess(
            history.sites[0], world.sites[SITE], world.broker, world.recorder, Random(99), link="other"
        )
        second = other.start()
        await until(world, 180)
        masters = [first.twin.master, second.twin.master]
        assert world.leader is not None
        state = world.leader.controller.fleet.get(SITE)
        assert state is not None
        assert state.boot == second.boot
        assert isinstance(second.bus, TapBus)
        refused = first.events["order", "accepted"]
        await until(world, 300)
        assert first.events["order", "accepted"] == refused, "the one that yields obeys nothing"
        assert second.events["order", "accepted"] > 0
        await other.stop()
        await until(world, 420)
        masters.append(first.twin.master)
        assert masters == [second.boot, None, None], "the other gone, the first speaks for the site again"
        assert first.events["order", "accepted"] > refused

    # Each knows of its own commands alone: together they keep no minimum time. That is what the alarm is for.
    play(history, story, but=frozenset({7}))
