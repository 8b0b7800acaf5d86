"""A peer is timed in a process of its own, and whatever becomes of it the bench is told in a plain word."""

from __future__ import annotations

import os

import psutil
import pytest

from bench.peers import GIB, Peer, peers
from bench.problems import hard_problem

PATIENCE_S = 120.0


def test_a_peer_that_does_not_end_in_time_is_stopped_and_leaves_no_process() -> None:
    """The limit counts from the start of the process: an interpreter alone takes longer than this one."""
    here = psutil.Process(os.getpid())
    before = set(here.children(recursive=True))
    found = _tried(limit_s=0.05)
    assert {(peer.sites, peer.seconds) for peer in found} == {(1, None)}
    assert all("did not end within 0.05 s" in str(peer) for peer in found)
    assert set(here.children(recursive=True)) <= before


def test_a_peer_that_exhausts_its_memory_is_said_to_have_and_does_not_end_the_bench() -> None:
    """So little that nothing can be allocated once the interpreter stands."""
    found = _tried(limit_s=PATIENCE_S, memory_b=GIB // 64)
    assert {peer.seconds for peer in found} == {None}
    assert all("want of memory" in peer.note for peer in found), found


def test_a_peer_that_is_not_installed_is_said_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """And how to install it."""
    monkeypatch.setattr("bench.peers.PEERS", (("Other", "no_such_solver", "other"),))
    [found] = peers(hard_problem(1, banks=3, jobs=1))
    assert str(found) == "Other: skipped; no_such_solver is not installed: pip install 'wattshift[bench]'"


def test_a_peer_that_fails_is_said_to_have_failed_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that bench/peer.py does not know stands for any error of theirs."""
    monkeypatch.setattr("bench.peers.PEERS", (("Other", "json", "other"),))
    [found] = peers(hard_problem(1, banks=3, jobs=1), limit_s=PATIENCE_S)
    assert found == Peer("Other", 1, None, "failed (code 1): KeyError: 'other'")


@pytest.mark.slow
def test_the_peers_that_solve_the_same_problem_earn_the_same() -> None:
    """HiGHS on the referee's model and linopy's, each to within a thousandth; the relaxation is above both."""
    found = _tried(limit_s=PATIENCE_S)
    usd = {peer.name: float(peer.note.removesuffix(" USD")) for peer in found if peer.note.endswith("USD")}
    assert all(peer.seconds is not None and 0 < peer.seconds < PATIENCE_S for peer in found)
    assert usd["HiGHS, relaxation"] >= (1 - 1e-3) * usd["HiGHS, exact"]
    if "linopy + HiGHS" in usd:
        assert usd["linopy + HiGHS"] == pytest.approx(usd["HiGHS, exact"], rel=3e-3)


def _tried(*, limit_s: float, memory_b: int = 8 * GIB) -> list[Peer]:
    """The peers that are installed, HiGHS's own two at least: linopy and PyPSA are an extra."""
    found = list(peers(hard_problem(1, banks=3, jobs=1), limit_s=limit_s, memory_b=memory_b))
    assert len(found) == 4
    tried = [peer for peer in found if "is not installed" not in peer.note]
    assert {"HiGHS, relaxation", "HiGHS, exact"} <= {peer.name for peer in tried}
    return tried
