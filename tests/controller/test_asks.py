"""Signals and overrides: what is not possible is refused with its field and its remedy, before it is in force."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from contract.messages import BankPlate, Feeder, Nameplate, Workload
from contract.units import POWER_W_MAX
from controller.asks import Rejected
from controller.engine.model import OverrideKind
from controller.overrides import OverrideAsk, Overrides, OverrideSet
from controller.signals import Accepted, SignalAsk, Signals
from controller.state import SiteState
from tests.controller.kit import WALL_MS, plate

DAY_MS = 86_400_000
MONO_MS = 77_000_000


def site(*, power_w: int | None = 2_000_000) -> SiteState:
    state = SiteState("alpha", boot="b1", nameplate=plate())
    if power_w is not None:
        state.power.add(MONO_MS - 1_000, power_w)
    return state


def signal(**ask: Any) -> Accepted | Rejected:
    fields: dict[str, Any] = {"site": "alpha", "target_w": 1_000, "duration_ms": 60_000} | ask
    return Signals(Random(1)).accept(SignalAsk(**fields), site(), WALL_MS, MONO_MS)


class TestSignals:
    def test_a_reduction_is_counted_from_the_baseline_when_the_signal_came(self) -> None:
        taken = signal(target_w=None, reduce_w=750_000)
        assert isinstance(taken, Accepted)
        assert (taken.obligation.baseline_w, taken.obligation.target_w) == (2_000_000, 1_250_000)
        assert taken.baseline is not None
        assert taken.baseline.readings == 1

    def test_a_reduction_beyond_the_baseline_asks_for_nothing_left(self) -> None:
        taken = signal(target_w=None, reduce_w=3_000_000)
        assert isinstance(taken, Accepted)
        assert (taken.obligation.target_w, taken.obligation.reduce_w) == (0, 3_000_000)

    def test_a_reserve_awarded_curtails_nothing_and_is_no_open_obligation(self) -> None:
        signals, state = Signals(Random(1)), site()
        ask = SignalAsk(site="alpha", award_w=700_000, duration_ms=60_000, id="ecrs-1")
        taken = signals.accept(ask, state, WALL_MS, MONO_MS)
        assert isinstance(taken, Accepted)
        assert (taken.obligation.award_w, taken.obligation.target_w) == (700_000, POWER_W_MAX)
        assert signals.open_at("alpha", WALL_MS) is None
        assert (signals.awarded_w("alpha", WALL_MS), signals.awarded_w("alpha", WALL_MS + 60_000)) == (700_000, 0)
        again = signals.accept(ask, state, WALL_MS, MONO_MS)
        assert isinstance(again, Accepted)
        assert not again.created

    def test_times_and_notice_follow_from_what_is_given(self) -> None:
        taken = signal(starts_at_ms=WALL_MS + 600_000)
        assert isinstance(taken, Accepted)
        assert taken.obligation.ends_at_ms == WALL_MS + 660_000
        assert taken.obligation.notice_ms == 600_000
        late = signal(starts_at_ms=WALL_MS - 20_000, ends_at_ms=WALL_MS + 1_000, duration_ms=None, notice_ms=5)
        assert isinstance(late, Accepted)
        assert (late.obligation.starts_at_ms, late.obligation.notice_ms) == (WALL_MS, 5)

    @pytest.mark.parametrize(
        ("ask", "kind", "field"),
        [
            ({"starts_at_ms": WALL_MS - DAY_MS}, "invalid", "starts_at"),
            ({"starts_at_ms": WALL_MS + 400 * DAY_MS}, "invalid", "starts_at"),
            ({"duration_ms": None, "ends_at_ms": WALL_MS - 1}, "invalid", "ends_at"),
            ({"duration_ms": None, "starts_at_ms": WALL_MS + 9, "ends_at_ms": WALL_MS + 9}, "invalid", "ends_at"),
            ({"duration_ms": 400 * DAY_MS}, "invalid", "ends_at"),
            ({"duration_ms": 0}, "invalid", "ends_at"),
            ({"duration_ms": None}, "invalid", "ends_at"),
            ({"ends_at_ms": WALL_MS + 5}, "invalid", "ends_at"),
            ({"target_w": None}, "invalid", "reduce_w"),
            ({"reduce_w": 5}, "invalid", "reduce_w"),
            ({"award_w": 5}, "invalid", "reduce_w"),
            ({"target_w": None, "award_w": POWER_W_MAX + 1}, "invalid", "award_w"),
            ({"target_w": -1}, "invalid", "target_w"),
            ({"target_w": POWER_W_MAX + 1}, "invalid", "target_w"),
            ({"target_w": None, "reduce_w": -1}, "invalid", "reduce_w"),
            ({"notice_ms": -1}, "invalid", "notice_s"),
        ],
    )
    def test_impossible_asks_are_refused(self, ask: dict[str, Any], kind: str, field: str) -> None:
        refused = signal(**ask)
        assert isinstance(refused, Rejected)
        assert (refused.kind, refused.field) == (kind, field)
        assert refused.fix

    def test_unknown_sites_and_sites_without_a_baseline_are_refused(self) -> None:
        signals = Signals(Random(1))
        unknown = signals.accept(SignalAsk(site="x", target_w=1, duration_ms=1), None, WALL_MS, MONO_MS)
        assert isinstance(unknown, Rejected)
        assert (unknown.kind, unknown.field) == ("unknown", "site")
        ask = SignalAsk(site="alpha", reduce_w=1, duration_ms=1)
        silent = signals.accept(ask, site(power_w=None), WALL_MS, MONO_MS)
        assert isinstance(silent, Rejected)
        assert "target_w" in silent.fix
        old = signals.accept(ask, site(), WALL_MS, MONO_MS + 310_000)
        assert isinstance(old, Rejected), "power of more than five minutes ago is no baseline"

    def test_asking_the_same_again_changes_nothing_and_another_thing_is_a_conflict(self) -> None:
        signals, state = Signals(Random(1)), site()
        ask = SignalAsk(site="alpha", reduce_w=500_000, duration_ms=60_000, id="grid-7")
        first = signals.accept(ask, state, WALL_MS, MONO_MS)
        state.power.add(MONO_MS, 100)
        again = signals.accept(ask, state, WALL_MS + 5_000, MONO_MS + 5_000)
        assert isinstance(first, Accepted)
        assert isinstance(again, Accepted)
        assert (again.created, again.obligation) == (False, first.obligation), "the baseline is fixed when it came"
        other = SignalAsk(site="alpha", reduce_w=600_000, duration_ms=60_000, id="grid-7")
        refused = signals.accept(other, state, WALL_MS, MONO_MS)
        assert isinstance(refused, Rejected)
        assert refused.kind == "conflict"

    def test_signals_per_site_are_bounded(self) -> None:
        signals, state = Signals(Random(1)), site()
        ask = SignalAsk(site="alpha", target_w=1, duration_ms=1_000)
        outcomes = [signals.accept(ask, state, WALL_MS, MONO_MS) for _ in range(101)]
        assert [isinstance(each, Rejected) for each in outcomes] == [False] * 100 + [True]

    def test_begin_and_end_are_crossed_once_and_what_is_long_over_is_dropped(self) -> None:
        signals, state = Signals(Random(1)), site()
        ask = SignalAsk(site="alpha", target_w=1, starts_at_ms=WALL_MS + 1_000, duration_ms=1_000)
        signals.accept(ask, state, WALL_MS, MONO_MS)
        assert signals.crossed(WALL_MS, WALL_MS + 999) == set()
        assert signals.crossed(WALL_MS + 999, WALL_MS + 1_500) == {"alpha"}
        assert signals.open_at("alpha", WALL_MS + 1_500) is not None
        assert signals.crossed(WALL_MS + 1_500, WALL_MS + 9_000) == {"alpha"}
        assert signals.all(WALL_MS + 9_000) == []
        assert signals.crossed(WALL_MS + 9_000, WALL_MS + 24 * 3_600_000 + 9_000) == set()
        assert signals.all(WALL_MS) == []

    def test_a_clock_that_jumps_ahead_and_is_set_right_finds_what_it_had_been_asked(self) -> None:
        signals, overrides, state = Signals(Random(1)), Overrides(Random(2)), site()
        signals.accept(SignalAsk(site="alpha", target_w=1, duration_ms=600_000), state, WALL_MS, MONO_MS)
        overrides.impose(
            OverrideAsk(site="alpha", kind=OverrideKind.LOCKOUT, reason="work", duration_ms=600_000), state, WALL_MS
        )
        ahead_ms = WALL_MS + 3_600_000
        assert signals.crossed(WALL_MS, ahead_ms) == overrides.crossed(WALL_MS, ahead_ms) == {"alpha"}
        assert not signals.of("alpha", ahead_ms)
        assert not overrides.active("alpha", ahead_ms)
        assert len(signals.of("alpha", WALL_MS + 60_000)) == len(overrides.active("alpha", WALL_MS + 60_000)) == 1

    def test_what_is_over_takes_nobody_s_place_and_no_room_without_bound(self) -> None:
        signals, overrides, state = Signals(Random(1)), Overrides(Random(2)), site()
        for turn in range(1_200):
            now_ms = WALL_MS + 2_000 * turn
            ask = SignalAsk(site="alpha", target_w=turn, duration_ms=1_000, id="again")
            taken = signals.accept(ask, state, now_ms, MONO_MS)
            assert isinstance(taken, Accepted)
            assert taken.created, "one that is over answers for no new one of its id"
            other = SignalAsk(site="alpha", target_w=1, duration_ms=1_000)
            assert isinstance(signals.accept(other, state, now_ms, MONO_MS), Accepted)
            lockout = OverrideAsk(site="alpha", kind=OverrideKind.LOCKOUT, reason="work", duration_ms=1_000)
            assert isinstance(overrides.impose(lockout, state, now_ms), OverrideSet)
            assert signals.crossed(now_ms - 2_000, now_ms) <= {"alpha"}
        assert len(signals.all(0)) <= 2 * 100 + 1
        assert len(overrides.all(0)) <= 2 * 500 + 1


def test_a_restart_with_the_same_seed_takes_no_id_that_stands() -> None:
    first = Signals(Random(1))
    ask = SignalAsk(site="alpha", target_w=1, duration_ms=60_000)
    before = first.accept(ask, site(), WALL_MS, MONO_MS)
    assert isinstance(before, Accepted)
    second = Signals(Random(1))
    second.restore([before.obligation])
    after = second.accept(ask, site(), WALL_MS, MONO_MS)
    assert isinstance(after, Accepted)
    assert after.obligation.id != before.obligation.id
    assert len(second.all(WALL_MS)) == 2


def hybrid() -> SiteState:
    banks = (
        BankPlate(id="asics", feeder="main", workload=Workload.HASH, model="S21", devices=10, rated_w=35_000),
        BankPlate(id="part", feeder="hall", workload=Workload.HPC, model="H100", devices=4, rated_w=40_000),
    )
    feeders = (Feeder(id="main", limit_w=100_000), Feeder(id="hall", parent="main", limit_w=50_000))
    return SiteState("alpha", boot="b1", nameplate=Nameplate(site="alpha", boot="b1", feeders=feeders, banks=banks))


def override(state: SiteState | None = None, **ask: Any) -> OverrideSet | Rejected:
    fields: dict[str, Any] = {"site": "alpha", "kind": OverrideKind.HOLD, "reason": "works"} | ask
    if not {"ends_at_ms", "duration_ms"} & set(ask):
        fields["duration_ms"] = 60_000
    return Overrides(Random(1)).impose(OverrideAsk(**fields), state or hybrid(), WALL_MS)


class TestOverrides:
    def test_one_without_an_end_stands_until_it_is_lifted(self) -> None:
        overrides = Overrides(Random(1))
        done = overrides.impose(OverrideAsk(site="alpha", kind=OverrideKind.LOCKOUT, reason="works"), hybrid(), WALL_MS)
        assert isinstance(done, OverrideSet)
        assert [each.id for each in overrides.active("alpha", WALL_MS + 9 * DAY_MS)] == [done.override.id]
        revoked = overrides.revoke(done.override.id, WALL_MS + 5, by="ops", reason="works are over")
        assert revoked is not None
        assert (revoked.revoked_by, revoked.revoke_reason, revoked.version) == ("ops", "works are over", 2)
        assert overrides.active("alpha", WALL_MS + 5) == ()
        assert overrides.revoke(done.override.id, WALL_MS + 5) is None

    @pytest.mark.parametrize("kind", [kind for kind in OverrideKind if kind is not OverrideKind.LOCKOUT])
    def test_no_other_may_be_without_an_end(self, kind: OverrideKind) -> None:
        watts = 5_000 if kind in (OverrideKind.CAP, OverrideKind.FLOOR) else None
        refused = override(kind=kind, value_w=watts, duration_ms=None)
        assert isinstance(refused, Rejected)
        assert (refused.kind, refused.field) == ("invalid", "ends_at")

    @pytest.mark.parametrize(
        ("ask", "kind", "field"),
        [
            ({"kind": OverrideKind.CAP}, "invalid", "value_w"),
            ({"kind": OverrideKind.FLOOR, "value_w": -1}, "invalid", "value_w"),
            ({"kind": OverrideKind.CAP, "value_w": POWER_W_MAX + 1}, "invalid", "value_w"),
            ({"value_w": 5}, "invalid", "value_w"),
            ({"reason": "  "}, "invalid", "reason"),
            ({"bank": "ghost"}, "unknown", "bank"),
            ({"feeder": "ghost"}, "unknown", "feeder"),
            ({"bank": "asics", "feeder": "main"}, "invalid", "bank"),
            ({"kind": OverrideKind.FORCE_HPC, "bank": "asics"}, "invalid", "bank"),
            ({"kind": OverrideKind.FORCE_HASH, "bank": "part"}, "invalid", "bank"),
            ({"starts_at_ms": WALL_MS - DAY_MS}, "invalid", "starts_at"),
            ({"ends_at_ms": WALL_MS - 5}, "invalid", "ends_at"),
            ({"starts_at_ms": WALL_MS + 60_000, "ends_at_ms": WALL_MS + 30_000}, "invalid", "ends_at"),
            ({"ends_at_ms": WALL_MS + 5, "duration_ms": 5}, "invalid", "ends_at"),
        ],
    )
    def test_impossible_asks_are_refused(self, ask: dict[str, Any], kind: str, field: str) -> None:
        refused = override(**ask)
        assert isinstance(refused, Rejected)
        assert (refused.kind, refused.field) == (kind, field)
        assert refused.fix

    def test_a_site_can_be_stopped_before_it_has_sent_a_nameplate_but_not_a_bank_of_it(self) -> None:
        bare = SiteState("alpha")
        assert isinstance(override(bare, kind=OverrideKind.EMERGENCY_STOP), OverrideSet)
        refused = override(bare, kind=OverrideKind.EMERGENCY_STOP, bank="asics")
        assert isinstance(refused, Rejected)
        assert refused.kind == "conflict"

    def test_asking_the_same_again_changes_nothing(self) -> None:
        overrides = Overrides(Random(1))
        ask = OverrideAsk(site="alpha", kind=OverrideKind.CAP, value_w=5, duration_ms=9_000, reason="r", id="o")
        first = overrides.impose(ask, hybrid(), WALL_MS)
        again = overrides.impose(ask, hybrid(), WALL_MS + 1_000)
        assert isinstance(first, OverrideSet)
        assert isinstance(again, OverrideSet)
        assert (again.created, again.override) == (False, first.override)
        other = OverrideAsk(site="alpha", kind=OverrideKind.CAP, value_w=6, duration_ms=9_000, reason="r", id="o")
        assert isinstance(overrides.impose(other, hybrid(), WALL_MS), Rejected)
