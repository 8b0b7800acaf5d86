"""The state survives restarts, power cuts and bad disks: what is lost is said, and what is safe is assumed."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from random import Random

import pytest

from agent.daemon import BackgroundStore
from agent.guard import mode_of, step
from agent.guard_model import BankFacts, Facts, FeederFacts
from agent.persist import Now, restore_guard, state_to_save
from agent.state import AgentState, FileStateStore, Loaded, SavedBank, SavedTrip
from contract.messages import Mode
from contract.reasons import InterlockKind
from tests.agent.guarding import A, B, Site, held, plan

SAVED = AgentState(
    boot_ms=7,
    epoch=3,
    seq=41,
    saved_wall_ms=1_000_000,
    lease_left_ms=50_000,
    banks={
        "a": SavedBank(level_w=400, on=True, since_wall_ms=900_000),
        "b": SavedBank(
            level_w=0,
            on=False,
            since_wall_ms=970_000,
            trips=(SavedTrip(kind=InterlockKind.OVER_TEMPERATURE, detail="inlet"),),
        ),
        "hpc": SavedBank(level_w=500, on=True, since_wall_ms=0, frozen=("7", "9"), admission_closed=True),
    },
)


def test_what_is_saved_is_found(tmp_path: Path) -> None:
    store = FileStateStore(tmp_path / "state.json")
    assert store.load() == Loaded(None, {})
    assert store.save(SAVED)
    assert store.save_memory({"a/10.1.0.10": {"mode": "eco"}})
    again = FileStateStore(tmp_path / "state.json").load()
    assert again == Loaded(SAVED, {"a/10.1.0.10": {"mode": "eco"}})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state.json", "state.json.memory"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\x00" * 300,
        b"[]",
        b'{"version": 99}',
        b'{"epoch": -1}',
        b'{"banks": {"a": {"level_w": "x"}}}',
        b"\xff\xfe",
    ],
)
def test_a_broken_file_is_kept_aside_and_said_once(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(content)
    with caplog.at_level(logging.ERROR):
        loaded = FileStateStore(path).load()
    assert (loaded.state, loaded.corrupt) == (None, True)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "broken" in caplog.text
    assert (tmp_path / "state.json.corrupt").read_bytes() == content
    assert FileStateStore(path).load() == Loaded(None, {}), "the next start is a first start"


def test_every_cut_of_a_state_file_is_either_whole_or_corrupt(tmp_path: Path) -> None:
    whole = SAVED.model_dump_json().encode()
    path = tmp_path / "state.json"
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        assert FileStateStore(path).load().corrupt


def test_a_full_disk_is_counted_said_once_and_the_old_state_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """/dev/full refuses every write with `no space left on device`, as a full disk does."""
    path = tmp_path / "state.json"
    store = FileStateStore(path)
    assert store.save(SAVED)
    (tmp_path / "state.json.new").symlink_to("/dev/full")
    with caplog.at_level(logging.WARNING):
        for turn in range(3):
            assert not store.save(SAVED.model_copy(update={"epoch": 9}))
            assert store.failures == turn + 1
            (tmp_path / "state.json.new").symlink_to("/dev/full")
        assert len(caplog.records) == 1
        assert FileStateStore(path).load().state == SAVED
        (tmp_path / "state.json.new").unlink()
        assert store.save(SAVED)
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


def test_a_store_beside_the_loop_writes_the_newest_and_all_of_it_by_its_end(tmp_path: Path) -> None:
    store = BackgroundStore(FileStateStore(tmp_path / "state.json"))
    for epoch in range(50):
        store.save(SAVED.model_copy(update={"epoch": epoch}))
    store.save_memory({"x": {"a": "1"}})
    store.close()
    loaded = FileStateStore(tmp_path / "state.json").load()
    assert loaded.state is not None
    assert (loaded.state.epoch, loaded.memory) == (49, {"x": {"a": "1"}})


# what is made of it

UNKNOWN = Facts(banks=(BankFacts(),) * 3, feeders=(FeederFacts(),) * 3)


def restored(loaded: Loaded, wall_ms: int = 1_010_000, mono_ms: int = 500) -> Site:
    site = Site(plan(b={"min_down_ms": 120_000, "max_inlet_mc": 40_000}))
    site.at = mono_ms
    site.state = restore_guard(site.plan, loaded, Now(wall_ms, mono_ms))
    site.facts = UNKNOWN
    return site


def test_a_restart_keeps_fencing_levels_dwell_and_trips_and_holds_for_the_rest_of_the_lease() -> None:
    site = restored(Loaded(SAVED, {}))
    assert (site.state.epoch, site.state.seq) == (3, 41)
    verdict = site.step()
    assert (verdict.mode, held(verdict)) == (Mode.AUTO, [400, 0, 500])
    assert not any(hold.may_raise for hold in verdict.banks)
    assert [site.at - hold.since_ms for hold in verdict.banks[:2]] == [110_000, 40_000]
    assert verdict.banks[B].interlocks[0].kind is InterlockKind.OVER_TEMPERATURE
    assert site.step(39_999).mode is Mode.AUTO
    assert site.step(1).mode is Mode.SAFE


def test_dwell_counts_on_over_a_restart() -> None:
    site = restored(
        Loaded(
            SAVED.model_copy(
                update={
                    "banks": SAVED.banks
                    | {"b": SAVED.banks["a"].model_copy(update={"level_w": 0, "on": False, "since_wall_ms": 950_000})}
                }
            ),
            {},
        )
    )
    site.see(B, inlet_mc=20_000, upper_w=10)
    site.see(A, upper_w=400)
    site.see(2, upper_w=500)
    site.seq = 100
    assert held(site.tell(a=400, b=900, hpc=500, epoch=3))[B] == 0
    assert held(site.step(59_999))[B] == 0, "60 s passed before the restart"
    site.tell(a=400, b=900, hpc=500, epoch=3)
    assert held(site.step(1))[B] == 900


def test_an_older_epoch_is_refused_after_a_restart() -> None:
    site = restored(Loaded(SAVED, {}))
    assert not site.admit(site.order(epoch=2, seq=10**6)).accepted


@pytest.mark.parametrize("wall_ms", [10, 1_010_000, 10**13])
def test_a_wall_clock_that_jumped_never_lengthens_the_hold(wall_ms: int) -> None:
    site = restored(Loaded(SAVED, {}), wall_ms=wall_ms)
    assert mode_of(site.plan, site.state, site.at + SAVED.lease_left_ms) is Mode.SAFE
    assert all(bank.since_ms <= site.at for bank in site.state.banks)


def test_a_lost_state_starts_in_the_fail_safe_with_every_bank_just_changed() -> None:
    site = restored(Loaded(None, {}, corrupt=True))
    verdict = site.step()
    assert (verdict.mode, held(verdict)) == (Mode.SAFE, [0, 0, 1_000])
    assert all(hold.since_ms == site.at for hold in verdict.banks)


def test_a_first_start_holds_the_site_as_found_for_the_handover() -> None:
    site = restored(Loaded(None, {}))
    verdict = site.step()
    assert (verdict.mode, held(verdict)) == (Mode.AUTO, [1_000, 1_000, 1_000])
    assert site.step(site.plan.handover_ms).mode is Mode.SAFE


def test_what_is_saved_of_a_guard_is_what_is_restored() -> None:
    site = Site(plan(a={"min_down_ms": 60_000}))
    site.tell(a=700, b=300, hpc=100, epoch=8)
    site.step(5_000)
    saved = state_to_save(site.plan, site.state, [], 11, Now(2_000_000, site.at))
    assert json.loads(saved.model_dump_json())["lease_left_ms"] == 55_000
    state = restore_guard(site.plan, Loaded(saved, {}), Now(2_003_000, 50))
    assert [bank.level_w for bank in state.banks] == [700, 300, 100]
    assert state.hold_until_ms == 50 + 52_000
    chances = (Random(1).random(),) * 3
    _, verdict = step(site.plan, state, UNKNOWN, 50, chances)
    assert [50 - hold.since_ms for hold in verdict.banks] == [8_000] * 3
