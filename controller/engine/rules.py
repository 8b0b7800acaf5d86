"""The rules: each narrows the feasible envelope and leaves a trace; none can give back what a stronger one took.

`RULES` below is DESIGN's fixed priority. The economics then pick a dispatch inside the envelope that is left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from contract.messages import JobState
from contract.reasons import DecisionReason
from controller.engine.facts import MW_PER_W, Bank, Site, Steering
from controller.engine.model import Obligation, Override, OverrideKind

LimitKind = Literal["feeder", "cooling", "site_cap", "obligation"]
ARM_LEAD_MAX_MS: Final = 30 * 60_000
FLEET: Final = "fleet"
"""What a quota is called where it limits: the shares of one cap, see `controller.engine.quotas`."""


@dataclass(slots=True)
class Narrowing:
    """The trace of one rule on one bank: what it may draw at most (at least, for a floor) from here on."""

    rule: DecisionReason
    cause: str
    watts: int


@dataclass(slots=True)
class Bounds:
    """What one bank may do: draw between `lo_w` and `hi_w`."""

    hi_w: int
    lo_w: int = 0
    keep_w: int = 0
    """Economics may not take it lower: it must stay up a while."""
    rise_w: int | None = None
    """Economics may not take it higher: it must stay down a while. None where there is no such limit."""
    frozen_w: int | None = None
    """In local control: it draws this whatever is ordered."""
    hold: bool = False
    """It keeps what it does: `lo_w` and `hi_w` are one."""
    force: bool = False
    """All its jobs run, whatever they are worth."""
    asked_w: int = 0
    """What an override or dwell asks it to draw at least, before stronger rules clamped it."""
    forced: Narrowing | None = None
    """The override that sets it."""
    barred: dict[str, Narrowing] = field(default_factory=dict)
    """Jobs that must not run, by id."""
    trace: list[Narrowing] = field(default_factory=list)

    def cut(self, rule: DecisionReason, cause: str, watts: int) -> None:
        """Lower the upper bound; the lower bound follows. Without effect where it is lower already."""
        if watts < self.hi_w:
            self.hi_w = watts
            self.lo_w = min(self.lo_w, watts)
            self.trace.append(Narrowing(rule, cause, watts))

    def stand_down(self, rule: DecisionReason, cause: str) -> None:
        """No power at all; traced even where nothing was left to take, for what trips is rarely available."""
        self.hi_w = self.lo_w = 0
        self.trace.append(Narrowing(rule, cause, 0))


@dataclass(slots=True)
class Limit:
    """One limit on a node: `watts` as stated, `plan_mw` what may be planned under it after the margin."""

    kind: LimitKind
    id: str
    watts: int
    plan_mw: int
    firm: bool = True
    """Whether it binds firm work too."""


@dataclass(slots=True)
class Floor:
    """At least `watts` at a node, or at a bank where `bank` is set."""

    id: str
    watts: int
    node: int
    bank: int | None = None


@dataclass(slots=True)
class Envelope:
    """What the rules leave. `bounds` is by bank, `limits` by node, both as in the `Site`."""

    bounds: list[Bounds]
    limits: list[list[Limit]]
    floors: list[Floor]
    obligations: list[Obligation]
    """Those in force, their lead included."""
    awards: list[Obligation] = field(default_factory=list)
    """Reserves to be armed now, the lead of a start included."""

    @property
    def reserve_w(self) -> int:
        """What must run at the main meter and be such that it can be shed."""
        return sum(award.award_w or 0 for award in self.awards)


@dataclass(slots=True)
class Preview:
    """What an upcoming obligation will leave: by bank, the target and the jobs that will run."""

    obligation: Obligation
    targets_w: Sequence[int]
    jobs: Sequence[Mapping[str, object]]


@dataclass(slots=True)
class Case:
    """What a rule sees besides the envelope it narrows."""

    site: Site
    in_force: list[Obligation]
    preview: Preview | None


def narrow(site: Site, in_force: list[Obligation], preview: Preview | None) -> Envelope:
    """The envelope that all rules together leave. `in_force` are obligations to be met now."""
    envelope = Envelope(
        bounds=[Bounds(hi_w=bank.natural_w) for bank in site.banks],
        limits=[[] for _ in site.nodes],
        floors=[],
        obligations=in_force,
        awards=[award for award in site.awards if arm_from_ms(site, award) <= site.at_ms],
    )
    case = Case(site, in_force, preview)
    for rule in RULES:
        rule(case, envelope)
    return envelope


def shed_from_ms(site: Site, obligation: Obligation) -> int:
    """When the shed for an obligation begins. Falls are never limited by a ramp, so the configured lead suffices."""
    return obligation.starts_at_ms - site.params.obligation_lead_ms


def arm_from_ms(site: Site, award: Obligation) -> int:
    """When a reserve begins to be armed: in time for the slowest hash bank to start."""
    delay_ms = max((bank.plate.start_delay_ms for bank in site.banks if bank.hash), default=0)
    return award.starts_at_ms - site.params.obligation_lead_ms - min(delay_ms, ARM_LEAD_MAX_MS)


def _interlock(case: Case, envelope: Envelope) -> None:
    """A bank that has tripped locally gets no power."""
    for bank, bounds in zip(case.site.banks, envelope.bounds, strict=True):
        if bank.reading is not None and bank.reading.interlocks:
            kind = min(interlock.kind for interlock in bank.reading.interlocks)
            bounds.stand_down(DecisionReason.INTERLOCK, kind)


def _emergency_stop(case: Case, envelope: Envelope) -> None:
    """Everything in the target down, firm work included."""
    for index, override in _winners(case.site, OverrideKind.EMERGENCY_STOP).items():
        envelope.bounds[index].stand_down(DecisionReason.EMERGENCY_STOP, override.id)


def _local_mode(case: Case, envelope: Envelope) -> None:
    """A site in local control refuses orders: what it holds is a fact, and no weaker rule moves it."""
    if case.site.steering is not Steering.LOCAL:
        return
    for bank, bounds in zip(case.site.banks, envelope.bounds, strict=True):
        if not bounds.trace:
            bounds.frozen_w = bank.held_w or 0
            bounds.trace.append(Narrowing(DecisionReason.LOCAL_MODE, "local", bounds.frozen_w))


def _obligation(case: Case, envelope: Envelope) -> None:
    """The main meter at or below the target; and before it is due, no start that would have to stop again at once."""
    site = case.site
    for obligation in case.in_force:
        limit = limit_of(site, "obligation", obligation.id, obligation.target_w)
        limit.firm = obligation.firm_too
        envelope.limits[site.root].append(limit)
    if case.preview is None:
        return
    coming = case.preview.obligation
    left_ms = shed_from_ms(site, coming) - site.at_ms
    for i, (bank, bounds) in enumerate(zip(site.banks, envelope.bounds, strict=True)):
        if bank.work is None:
            if left_ms < max(bank.plate.min_up_ms, site.params.start_payback_ms):
                ceiling_w = max(bank.up_w, case.preview.targets_w[i])
                bounds.cut(DecisionReason.OBLIGATION, coming.id, ceiling_w)
            continue
        for job in bank.work.jobs:
            if job.id in case.preview.jobs[i] or (job.firm and not coming.firm_too):
                continue
            lasts_ms = job.remaining_ms if job.remaining_ms is not None else site.params.start_payback_ms
            starts = job.state is JobState.PENDING and left_ms < min(lasts_ms, site.params.start_payback_ms)
            if starts or left_ms < job.notice_ms:
                bounds.barred[job.id] = Narrowing(DecisionReason.OBLIGATION, coming.id, 0)


def _lockout(case: Case, envelope: Envelope) -> None:
    """The target stays down: people work on it."""
    for index, override in _winners(case.site, OverrideKind.LOCKOUT).items():
        envelope.bounds[index].stand_down(DecisionReason.LOCKOUT, override.id)


def _cap(case: Case, envelope: Envelope) -> None:
    """Every breaker limit of the nameplate, what each hall's cooling carries, the site's part of a fleet's cap, and
    every cap ops have set; caps combine by minimum."""
    site = case.site
    index = {node.id: i for i, node in enumerate(site.nodes) if node.hall is None}
    for i, node in enumerate(site.nodes):
        envelope.limits[i].append(limit_of(site, "feeder" if node.hall is None else "cooling", node.id, node.limit_w))
    quota = site.snapshot.quota
    if quota is not None and site.at_ms < quota.until_ms:
        envelope.limits[site.root].append(limit_of(site, "site_cap", FLEET, quota.cap_w))
    for override in site.overrides:
        if override.kind is not OverrideKind.CAP or override.value_w is None:
            continue
        if override.bank is not None:
            for i in _covered(site, override):
                envelope.bounds[i].cut(DecisionReason.CAP, override.id, override.value_w)
            continue
        at = site.root if override.feeder is None else index.get(override.feeder)
        if at is not None:
            kind: LimitKind = "site_cap" if at == site.root else "feeder"
            envelope.limits[at].append(limit_of(site, kind, override.id, override.value_w))


def _stale(case: Case, envelope: Envelope) -> None:
    """Unknown or stale data never raises power; a site that may not hear keeps what it was told."""
    for bank, bounds in zip(case.site.banks, envelope.bounds, strict=True):
        if bank.fresh:
            continue
        bounds.cut(DecisionReason.DATA_STALE, "report", bank.ceiling_w)
        if case.site.steering is Steering.OFFLINE:
            bounds.lo_w, bounds.hold = bounds.hi_w, True


def _ramp(case: Case, envelope: Envelope) -> None:
    """A hash bank rises no faster than its site allows: to what the ramp gives until the next decision, one device at
    least. Reckoned from its power, not its setpoint, so that deciding more often does not make it rise faster."""
    for bank, bounds in zip(case.site.banks, envelope.bounds, strict=True):
        rate = bank.plate.ramp_up_w_per_s
        if bank.work is not None or rate == 0:
            continue
        power_w = (bank.reading.power_w if bank.reading else None) or 0
        rise_w = max(rate * case.site.params.tick_ms // 1_000, bank.plate.steps_w, 1)
        bounds.cut(DecisionReason.RAMP, "ramp", max(power_w + rise_w, bank.up_w))


def _override(case: Case, envelope: Envelope) -> None:
    """Floors, then holds, then forced workloads: each narrows what the stronger one left."""
    site = case.site
    index = {node.id: i for i, node in enumerate(site.nodes)}
    for i, override in _winners(site, OverrideKind.FLOOR, scoped=True).items():
        bounds, watts = envelope.bounds[i], override.value_w or 0
        bounds.asked_w = watts
        bounds.lo_w = max(bounds.lo_w, min(watts, bounds.hi_w))
        bounds.forced = Narrowing(DecisionReason.OVERRIDE, override.id, watts)
        bounds.trace.append(bounds.forced)
        envelope.floors.append(Floor(override.id, watts, site.banks[i].path[0], bank=i))
    wide = [o for o in site.overrides if o.kind is OverrideKind.FLOOR and o.bank is None]
    for scope in sorted({o.feeder or "" for o in wide}):
        at = index.get(scope, None if scope else site.root)
        if at is not None:
            newest = max((o for o in wide if (o.feeder or "") == scope), key=lambda o: (o.created_at_ms, o.id))
            envelope.floors.append(Floor(newest.id, newest.value_w or 0, at))
    for i, override in _winners(site, OverrideKind.HOLD).items():
        bounds = envelope.bounds[i]
        keep_w = max(bounds.lo_w, min(site.banks[i].held_w or 0, bounds.hi_w))
        bounds.lo_w = bounds.hi_w = keep_w
        bounds.asked_w, bounds.hold = max(bounds.asked_w, keep_w), True
        bounds.forced = Narrowing(DecisionReason.OVERRIDE, override.id, keep_w)
        bounds.trace.append(bounds.forced)
    for kind, hashing in ((OverrideKind.FORCE_HASH, True), (OverrideKind.FORCE_HPC, False)):
        for i, override in _winners(site, kind).items():
            bounds = envelope.bounds[i]
            if site.banks[i].hash is hashing and not bounds.hold:
                bounds.force = True
                if hashing:
                    bounds.lo_w, bounds.asked_w = bounds.hi_w, site.banks[i].natural_w
                bounds.forced = Narrowing(DecisionReason.OVERRIDE, override.id, bounds.lo_w)
                bounds.trace.append(bounds.forced)


def _dwell(case: Case, envelope: Envelope) -> None:
    """A hash bank stays up, or down, for its minimum time. Unknown times bind nothing here: the agent guards them."""
    for bank, bounds in zip(case.site.banks, envelope.bounds, strict=True):
        if bank.work is not None or bank.on_for_ms is None:
            continue
        plate = bank.plate
        if bank.up_w > 0 and bank.on_for_ms < plate.min_up_ms:
            least_w = next((s.to_w for s in bank.segments), bank.up_w)
            bounds.asked_w = max(bounds.asked_w, min(bank.up_w, least_w))
            bounds.keep_w = min(bank.up_w, least_w, bounds.hi_w)
        elif bank.up_w == 0 and bank.on_for_ms < plate.min_down_ms:
            bounds.rise_w = 0


RULES: Final[tuple[Callable[[Case, Envelope], None], ...]] = (
    _interlock,
    _emergency_stop,
    _local_mode,
    _obligation,
    _lockout,
    _cap,
    _stale,
    _ramp,
    _override,
    _dwell,
)
"""Strongest first. Local mode, staleness and the ramp state what can be known or done at all, so they stand above what
ops may ask for; dwell stands below, as it is there to save wear."""


def limit_of(site: Site, kind: LimitKind, cause: str, watts: int) -> Limit:
    """A limit with its margin taken off what may be planned."""
    return Limit(kind, cause, watts, watts * (MW_PER_W - site.params.cap_margin_milli))


def _covered(site: Site, override: Override) -> list[int]:
    """The banks an override covers: its bank, else all below its feeder, else all."""
    if override.bank is not None:
        return [i for i, bank in enumerate(site.banks) if bank.id == override.bank]
    if override.feeder is not None:
        return [i for i, bank in enumerate(site.banks) if _below(site, bank, override.feeder)]
    return list(range(len(site.banks)))


def _below(site: Site, bank: Bank, feeder: str) -> bool:
    return any(site.nodes[node].id == feeder for node in bank.path)


def _winners(site: Site, kind: OverrideKind, *, scoped: bool = False) -> dict[int, Override]:
    """For each bank covered by overrides of a kind, the one that stands: the most specific, then the newest.

    With `scoped` only those that name a bank count.
    """
    ranked = [o for o in site.overrides if o.kind is kind and (o.bank is not None or not scoped)]
    ranked.sort(key=lambda o: (o.bank is not None, _depth(site, o), o.created_at_ms, o.id))
    return {i: override for override in ranked for i in _covered(site, override)}


def _depth(site: Site, override: Override) -> int:
    """How deep in the tree an override's feeder lies; -1 for the whole site."""
    if override.feeder is None:
        return -1
    found = next((i for i, node in enumerate(site.nodes) if node.id == override.feeder), None)
    depth = 0
    while found is not None:
        found, depth = site.nodes[found].parent, depth + 1
    return depth
