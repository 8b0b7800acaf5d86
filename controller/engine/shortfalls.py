"""What cannot be met, said before it is due. A decision is never silent about a limit, an obligation or firm work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from contract.messages import JobState
from contract.units import POWER_W_MAX
from controller.engine.economics import Dispatch
from controller.engine.facts import MW_PER_W, Site, Steering
from controller.engine.model import Shortfall
from controller.engine.rules import Envelope

ORDER: Final = ("feeder", "cooling", "site_cap", "firm_load", "obligation", "award", "floor", "deadline")
"""The priority of soft constraints; a shortfall of an earlier kind explains those of the later ones."""


def shortfalls(site: Site, envelope: Envelope, chosen: Dispatch) -> tuple[Shortfall, ...]:
    """All that falls short of the dispatch chosen, gravest first."""
    found = [*_limits(site, envelope, chosen), *_firm_load(site, chosen), *_upcoming(site, envelope, chosen)]
    found.extend(_awards(envelope, chosen))
    found.extend(_floors(envelope, chosen))
    found.extend(
        Shortfall(kind="deadline", id=late.job.id, short_w=late.job.power_w, detail=late.detail) for late in chosen.late
    )
    return tuple(sorted(found, key=lambda s: (ORDER.index(s.kind), s.id)))


def least_w(site: Site, chosen: Dispatch) -> int:
    """The least the main meter can show without touching firm work, from what the dispatch knows of it."""
    firm_mw = 0
    for bank, outcome in zip(site.banks, chosen.outcomes, strict=True):
        firm_mw += sum(job.power_w for job in outcome.jobs.values() if job.firm) * bank.plate.pue_milli
    return -(-(chosen.idle_mw[site.root] + firm_mw) // MW_PER_W)


def _limits(site: Site, envelope: Envelope, chosen: Dispatch) -> Iterator[Shortfall]:
    """Limits and obligations in force that the plan breaks, or that a site which does not follow may break."""
    deaf = site.steering is not Steering.AUTO
    held_mw = _held_mw(site) if deaf else chosen.used_mw
    for i, limits in enumerate(envelope.limits):
        for limit in limits:
            over_w = _watts_over(chosen.used_mw[i], limit.watts)
            detail = "overheads, idle power and protected work alone draw more"
            if over_w <= 0 and deaf:
                over_w = _watts_over(held_mw[i], limit.watts)
            if deaf:
                detail = f"the site is {_state(site)} and does not follow orders"
            if over_w > 0:
                yield Shortfall(kind=limit.kind, id=limit.id, short_w=over_w, detail=detail)


def _firm_load(site: Site, chosen: Dispatch) -> Iterator[Shortfall]:
    for bank, outcome in zip(site.banks, chosen.outcomes, strict=True):
        if outcome.kept_off:
            running = sum(job.state is JobState.RUNNING for job in outcome.kept_off)
            short_w = sum(job.power_w for job in outcome.kept_off)
            waiting = len(outcome.kept_off) - running
            detail = f"running firm jobs cut: {running}, waiting ones not started: {waiting}"
            yield Shortfall(kind="firm_load", id=bank.id, short_w=_clip(short_w), detail=detail)


def _upcoming(site: Site, envelope: Envelope, chosen: Dispatch) -> Iterator[Shortfall]:
    """Obligations not yet in force that even the least the site can draw will exceed."""
    in_force = {obligation.id for obligation in envelope.obligations}
    follows = site.steering is Steering.AUTO
    floor_w = least_w(site, chosen) if follows else -(-_held_mw(site)[site.root] // MW_PER_W)
    bare_w = -(-chosen.idle_mw[site.root] // MW_PER_W)
    for obligation in site.obligations:
        if obligation.id in in_force:
            continue
        over_w = (bare_w if follows and obligation.firm_too else floor_w) - obligation.target_w
        if over_w > 0:
            detail = "when it is due: overheads, idle power and protected work alone draw more"
            if not follows:
                detail = f"when it is due: the site is {_state(site)} and does not follow orders"
            yield Shortfall(kind="obligation", id=obligation.id, short_w=_clip(over_w), detail=detail)


def _floors(envelope: Envelope, chosen: Dispatch) -> Iterator[Shortfall]:
    for floor in envelope.floors:
        reached_w = chosen.used_mw[floor.node] // MW_PER_W
        if floor.bank is not None:
            reached_w = chosen.outcomes[floor.bank].target_w
        if reached_w < floor.watts:
            detail = "stronger rules, or what the banks can draw, leave less"
            yield Shortfall(kind="floor", id=floor.id, short_w=_clip(floor.watts - reached_w), detail=detail)


def _awards(envelope: Envelope, chosen: Dispatch) -> Iterator[Shortfall]:
    """Reserves that are not armed; but while a curtailment is in force they are being delivered."""
    short_w = envelope.reserve_w - chosen.armed_mw // MW_PER_W
    if envelope.awards and short_w > 0 and not envelope.obligations:
        ids = "+".join(award.id for award in envelope.awards)[:200]
        detail = "limits and stronger rules, or what the banks can draw, leave less that could be shed"
        yield Shortfall(kind="award", id=ids, short_w=_clip(short_w), detail=detail)


def _held_mw(site: Site) -> list[int]:
    """What each node carries if every bank goes on as it is."""
    held_mw = [node.overhead_w * MW_PER_W for node in site.nodes]
    for bank in site.banks:
        power_w = bank.reading.power_w if bank.reading else None
        held_w = max(bank.held_w or 0, power_w or 0, bank.plate.idle_w)
        for node in bank.path:
            held_mw[node] += held_w * site.factor(node, bank)
    return held_mw


def _watts_over(carried_mw: int, limit_w: int) -> int:
    return _clip(-(-carried_mw // MW_PER_W) - limit_w)


def _clip(power_w: int) -> int:
    return min(power_w, POWER_W_MAX)


def _state(site: Site) -> str:
    return "in local control" if site.steering is Steering.LOCAL else "offline"
