"""Work cut into lots: the pieces that economics v1 takes in merit order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from contract.messages import Job, JobState
from controller.engine import value
from controller.engine.facts import Bank, Site, Work
from controller.engine.model import Stance
from controller.engine.rules import Bounds
from controller.engine.wish import Ahead, AheadKind, BankWish, JobWish, Wish


class Class(IntEnum):
    """The order in which lots are served, before merit."""

    FIRM_RUNNING = 0
    FIRM_FROZEN = 1
    FIRM_PENDING = 2
    ASKED = 3
    """An override asks for it."""
    KEPT = 4
    """Its bank must stay up a while yet."""
    MERIT = 5


class Why(StrEnum):
    """How the economics alone came to a bank's target."""

    EARNS = "earns"
    COSTS = "costs"
    HYSTERESIS = "hysteresis"
    PRICE_UNKNOWN = "price_unknown"
    JOBS = "jobs"
    NO_JOBS = "no_jobs"
    UNAVAILABLE = "unavailable"
    AHEAD = "ahead"
    """What is to come outweighs the price of now."""


class Rank(IntEnum):
    """The order in which lots of merit are served where a plan speaks of them."""

    PLANNED_JOB = 0
    PLANNED = 1
    REST = 2
    """Of these merit order chooses, what the plan puts off aside."""


@dataclass(slots=True)
class Lot:
    """A piece of a bank's curve (divisible) or a job (whole), `width_w` bank watts wide."""

    bank: int
    seq: int
    cls: Class
    merit: float
    """USD per MWh at the main meter, with hysteresis, start and restart costs; comparable to the energy price."""
    width_w: int
    wanted: bool
    up: bool
    """Whether it runs already."""
    job: Job | None = None
    pays: bool = False
    """Of a bank: whether it earns more than its energy costs, no band or start counted."""
    rank: Rank = Rank.REST
    put_off_w: int | None = None
    """A plan would rather not have it yet: it is served only where less room than this is left, for then it was room
    that the plan lacked. None where no plan says so."""
    ahead: Ahead | None = None
    """Why it is put off."""
    top_w: int = 0
    """What its bank draws with it."""
    taken_w: int = 0


@dataclass(slots=True)
class Offer:
    """What a bank brings to the merit order."""

    lots: list[Lot] = field(default_factory=list)
    desire_w: int = 0
    """What it would draw were there no limits: economics, overrides and dwell."""
    why: Why = Why.COSTS
    ahead: Ahead | None = None
    """With `Why.AHEAD`, what is to come."""
    stale: bool = False
    """Work was left out because what is known of it is too old."""
    barred: str | None = None
    """The obligation for which a job was left out."""
    left_out: list[Job] = field(default_factory=list)
    """Firm jobs among those barred."""


def offer(site: Site, index: int, bounds: Bounds, wish: Wish | None = None) -> Offer:
    """The lots of one bank, as if there were no limits but its own curve and jobs; as a plan wants them, if any."""
    bank = site.banks[index]
    if bank.work is None:
        return _hash_offer(site, index, bank, bounds, wish.banks.get(index) if wish is not None else None)
    if not bank.work.known or bounds.hold:
        return _kept_work(index, bank, bank.work, bounds)
    return _job_offer(site, index, bank, bank.work, bounds, wish)


def _hash_offer(site: Site, index: int, bank: Bank, bounds: Bounds, wish: BankWish | None) -> Offer:
    out = Offer(desire_w=bounds.asked_w, why=Why.UNAVAILABLE)
    planned_w = _sure_w(bank, wish) if wish is not None else 0
    cuts = sorted({w for w in (bounds.lo_w, bounds.keep_w, bank.up_w, planned_w) if w > 0})
    ceiling = float("inf")
    for seq, (low_w, high_w, worth, starts) in enumerate(_pieces(site, bank, cuts)):
        up = high_w <= bank.up_w
        merit = min(ceiling, _hash_merit(site, bank, worth, up=up, starts=starts))
        ceiling = merit
        wanted, why = _hash_wanted(site, worth, merit, up=up)
        cls = Class.ASKED if high_w <= bounds.lo_w else Class.KEPT if high_w <= bounds.keep_w else Class.MERIT
        pays = site.price is not None and (worth or 0.0) > site.price
        out.lots.append(Lot(index, seq, cls, merit, high_w - low_w, wanted, up, pays=pays, top_w=high_w))
        if seq == 0:
            out.why = why
    if wish is not None:
        _heed_bank(bank, out, wish, planned_w)
    out.desire_w = max([out.desire_w, *(lot.top_w for lot in out.lots if lot.wanted and lot.put_off_w is None)])
    return out


def _sure_w(bank: Bank, wish: BankWish) -> int:
    """What a bank that the plan runs draws whatever the price of now: its lowest level as far as it is up, or what it
    is to start with. Above that the price decides, for a level is changed at no cost."""
    if wish.exact or wish.target_w == 0 or bank.up_w <= bank.plate.idle_w or not bank.segments:
        return wish.target_w
    return min(bank.up_w, bank.segments[0].to_w)


def _heed_bank(bank: Bank, out: Offer, wish: BankWish, planned_w: int) -> None:
    """Serve first what the plan runs. What it keeps down is put off; but what runs and earns is let run where room is
    left, for no plan gains by stopping that."""
    up = bank.up_w > bank.plate.idle_w
    if planned_w > 0 and out.lots and not out.lots[0].wanted:
        kind = AheadKind.RESTART if up else AheadKind.EARLY
        out.why, out.ahead = Why.AHEAD, Ahead(kind, until_ms=wish.until_ms)
    elif planned_w == 0 and up and out.lots and not out.lots[0].pays:
        out.why = Why.COSTS
    for lot in out.lots:
        if planned_w > 0:
            lot.wanted = lot.wanted or lot.top_w <= planned_w or (lot.pays and not up)
            lot.rank = Rank.PLANNED if lot.wanted else Rank.REST
        elif up:
            lot.wanted = lot.wanted and lot.pays
        elif lot.cls is Class.MERIT:
            lot.put_off_w = max(1, wish.least_w - bank.plate.idle_w)
            lot.ahead = Ahead(AheadKind.START, until_ms=wish.until_ms)


def _pieces(site: Site, bank: Bank, cuts: list[int]) -> Iterator[tuple[int, int, float | None, bool]]:
    """The curve's segments cut at the given powers: (from, to, USD per MWh or None, whether devices start in it)."""
    segments = bank.segments
    if not segments and bank.natural_w > bank.plate.idle_w:
        segments = [value.Segment(bank.plate.idle_w, bank.natural_w, 0.0)]
    for i, segment in enumerate(segments):
        worth = None
        if site.hashprice is not None and bank.plate.levels:
            worth = value.hash_value_usd_per_mwh(site.hashprice, segment.ghs_per_w, bank.plate.pue_milli)
        low_w = segment.from_w
        for cut_w in (*cuts, segment.to_w):
            if low_w < cut_w <= segment.to_w:
                yield low_w, cut_w, worth, i == 0 or bank.up_w == 0
                low_w = cut_w


def _hash_merit(site: Site, bank: Bank, worth: float | None, *, up: bool, starts: bool) -> float:
    """What runs is worth a little more than it earns, what does not a little less, and the cost of its start."""
    band, worth = site.params.hysteresis_usd_per_mwh, worth or 0.0
    if up:
        return worth + band
    if not starts:
        return worth - band
    return worth - band - value.start_penalty_usd_per_mwh(bank.plate, worth, site.params.start_payback_ms)


def _hash_wanted(site: Site, worth: float | None, merit: float, *, up: bool) -> tuple[bool, Why]:
    if site.price is None or worth is None:
        stance = site.params.unknown_price
        return stance is Stance.RUN or (stance is Stance.HOLD and up), Why.PRICE_UNKNOWN
    wanted, pays = merit > site.price, worth > site.price
    if wanted is not pays:
        return wanted, Why.HYSTERESIS
    return wanted, Why.EARNS if wanted else Why.COSTS


def _kept_work(index: int, bank: Bank, work: Work, bounds: Bounds) -> Offer:
    """A partition that keeps what it does: its running jobs, and the rest of what it holds as one divisible lot.

    Work of which nothing is known may be firm, and is served as if it were.
    """
    out = Offer(stale=not work.known, why=Why.JOBS)
    left_w = min(bounds.hi_w, bounds.lo_w if bounds.hold else bank.ceiling_w) - bank.plate.idle_w
    for job in work.jobs:
        if job.state is JobState.RUNNING:
            cls = Class.FIRM_RUNNING if job.firm else Class.ASKED
            out.lots.append(Lot(index, len(out.lots), cls, 0.0, job.power_w, True, True, job))
            left_w -= job.power_w
    if left_w > 0:
        cls = Class.ASKED if work.known else Class.FIRM_RUNNING
        out.lots.append(Lot(index, len(out.lots), cls, 0.0, left_w, True, True))
    out.desire_w = max(bounds.asked_w, bank.plate.idle_w + sum(lot.width_w for lot in out.lots))
    return out


def _job_offer(site: Site, index: int, bank: Bank, work: Work, bounds: Bounds, wish: Wish | None) -> Offer:
    out = Offer(why=Why.COSTS if work.jobs else Why.NO_JOBS)
    known, barred_w = bank.fresh and work.fresh, 0
    for job in work.jobs:
        lot = _job_lot(site, index, bank, job, len(out.lots))
        if lot.cls is Class.MERIT and bounds.force:
            lot.cls = Class.ASKED
        planned = wish.jobs.get((index, job.id)) if wish is not None else None
        if planned is not None and lot.cls is Class.MERIT:
            _heed_job(lot, job, planned)
        barred = bounds.barred.get(job.id)
        if barred is not None:
            if lot.wanted or lot.cls is Class.ASKED:
                out.barred = barred.cause
                barred_w += job.power_w
            out.left_out.extend([job] if job.firm else [])
            continue
        if not lot.up and not known:
            out.stale = out.stale or lot.wanted or lot.cls is Class.ASKED
            continue
        out.lots.append(lot)
    _ask(out, bounds.lo_w - bank.plate.idle_w)
    held = [lot.ahead for lot in out.lots if lot.ahead is not None and lot.ahead.kind is AheadKind.JOB]
    if held:
        out.why, out.ahead = Why.AHEAD, held[0]
    elif any(lot.wanted and lot.put_off_w is None for lot in out.lots):
        out.why = Why.JOBS
    elif work.jobs and site.price is None:
        out.why = Why.PRICE_UNKNOWN
    wanted = (lot for lot in out.lots if (lot.wanted and lot.put_off_w is None) or lot.cls is Class.ASKED)
    wanted_w = sum(lot.width_w for lot in wanted)
    out.desire_w = max(bounds.asked_w, bank.plate.idle_w + wanted_w + barred_w)
    return out


def _heed_job(lot: Lot, job: Job, planned: JobWish) -> None:
    """As for a bank: a running job that earns is let run, unless it has a deadline and may be done in cheaper hours."""
    if planned.run:
        lot.rank = Rank.PLANNED_JOB
        if not lot.wanted:
            lot.wanted = True
            lot.ahead = Ahead(AheadKind.JOB, job.id, job.deadline_ms, planned.until_ms)
    elif lot.wanted and planned.may:
        lot.rank = Rank.PLANNED_JOB
    elif lot.wanted and (job.state is not JobState.RUNNING or job.deadline_ms is not None):
        lot.put_off_w = job.power_w
        lot.ahead = Ahead(AheadKind.WAIT, job.id, job.deadline_ms, planned.until_ms)


def _job_lot(site: Site, index: int, bank: Bank, job: Job, seq: int) -> Lot:
    running = job.state is JobState.RUNNING
    pue, params = bank.plate.pue_milli, site.params
    merit = value.job_value_usd_per_mwh(job, pue) - params.hysteresis_usd_per_mwh
    if running:
        merit += 2 * params.hysteresis_usd_per_mwh
        merit += value.restart_penalty_usd_per_mwh(job, pue, params.start_payback_ms)
    if job.firm:
        cls = {JobState.RUNNING: Class.FIRM_RUNNING, JobState.FROZEN: Class.FIRM_FROZEN}.get(
            job.state, Class.FIRM_PENDING
        )
        return Lot(index, seq, cls, merit, job.power_w, True, running, job)
    wanted = running or params.unknown_price is Stance.RUN if site.price is None else merit > site.price
    return Lot(index, seq, Class.MERIT, merit, job.power_w, wanted, running, job)


def _ask(out: Offer, at_least_w: int) -> None:
    """Serve the best jobs as asked for until they make up what a floor demands."""
    for lot in sorted(out.lots, key=lambda lot: (lot.cls, -lot.merit, lot.seq)):
        if at_least_w <= 0:
            break
        at_least_w -= lot.width_w
        if lot.cls is Class.MERIT:
            lot.cls = Class.ASKED
