"""What is written to an object to do a thing or to undo it, decided by how the object is now. Pure.

A decision is the patch to make, its annotations alone under `metadata`, or the outcome where there is nothing to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from agent.drivers.base import Applied, Outcome, Refused, Unreachable
from agent.drivers.schedulers._kube_facts import ADMISSION, HELD, NODE, SUSPENDED
from agent.drivers.schedulers._kube_records import KubeJob, Node, Queue, Workload

Change = dict[str, Any] | Outcome
HOLD: Final = "Hold"
NONE: Final = "None"
GONE: Final = Applied("no longer there")
STOPPED: Final = Applied("has ended, or was suspended by somebody else, meanwhile")
UNMARKED: Final = Applied("not ours")


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """One outcome for many: unreachable before refused before applied."""
    found: Outcome = Applied()
    for outcome in outcomes:
        if isinstance(outcome, Unreachable):
            return outcome
        if isinstance(outcome, Refused):
            found = outcome
    return found


def hold(now: Queue) -> Change:
    """What somebody else holds or drains is closed as well as ours would be, and stays theirs."""
    if now.policy != NONE:
        return Applied("held already" if HELD in now.metadata.annotations else "held by somebody else")
    return {"metadata": {HELD: now.spec.stopPolicy or NONE}, "spec": {"stopPolicy": HOLD}}


def unhold(now: Queue) -> Change:
    """What somebody else has set meanwhile stays; only our mark goes."""
    before = now.metadata.annotations.get(HELD)
    if before is None:
        return Applied("not held by us")
    mine = {"metadata": {HELD: None}}
    return {**mine, "spec": {"stopPolicy": before}} if now.policy == HOLD else mine


def cordon(now: Node, at_s: int) -> Change:
    """So that nothing starts there. What somebody else has cordoned stays theirs."""
    if now.spec.unschedulable:
        return Applied("cordoned already")
    return {"metadata": {NODE: f"{ADMISSION} {at_s}"}, "spec": {"unschedulable": True}}


def uncordon(now: Node) -> Change:
    """A mark on a node that somebody has uncordoned is left over, and goes."""
    if NODE not in now.metadata.annotations:
        return Applied("not cordoned by us")
    return {"metadata": {NODE: None}, "spec": {"unschedulable": None}}


def unmark_node(now: Node) -> Change:
    is_stale = not now.spec.unschedulable and NODE in now.metadata.annotations
    return {"metadata": {NODE: None}} if is_stale else UNMARKED


def unmark_queue(now: Queue) -> Change:
    is_stale = now.policy != HOLD and HELD in now.metadata.annotations
    return {"metadata": {HELD: None}} if is_stale else UNMARKED


def suspend(now: KubeJob | Workload, at_s: int) -> Change:
    """Of a Job itself, or by what Kueue holds of it."""
    mark = {SUSPENDED: str(at_s)}
    if isinstance(now, Workload):
        return {"metadata": mark, "spec": {"active": False}} if now.spec.active else STOPPED
    return STOPPED if now.spec.suspend or now.ended else {"metadata": mark, "spec": {"suspend": True}}


def resume(now: KubeJob | Workload) -> Change:
    if SUSPENDED not in now.metadata.annotations:
        return UNMARKED
    spec = {"active": True} if isinstance(now, Workload) else {"suspend": False}
    return {"metadata": {SUSPENDED: None}, "spec": spec}


def unmark_job(now: KubeJob | Workload) -> Change:
    goes_on = now.spec.active if isinstance(now, Workload) else not now.spec.suspend
    return {"metadata": {SUSPENDED: None}} if goes_on and SUSPENDED in now.metadata.annotations else UNMARKED
