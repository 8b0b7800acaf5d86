"""The decision in one sentence that an operator can read: plain English, at most 1,000 characters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from contract.reasons import DecisionReason
from contract.units import MS_PER_MINUTE, W_PER_MW
from controller.engine.economics import Dispatch, Outcome
from controller.engine.facts import MW_PER_W, Bank, Site
from controller.engine.halls import PREFIX
from controller.engine.model import BankDecision, Shortfall, Stance
from controller.engine.rules import FLEET, Envelope
from controller.engine.wish import Ahead, AheadKind

MAX_CHARS: Final = 1_000
_NAMES_SHOWN: Final = 4
_SHORTFALLS_SHOWN: Final = 3
_WORDS_SHOWN: Final = 120
"""Characters of a person's own words."""
_ACRONYMS: Final = frozenset({"hpc", "gpu", "cpu", "asic"})


@dataclass(slots=True)
class Group:
    """Banks that share a reason, a cause and a fate."""

    site: Site
    envelope: Envelope
    banks: list[tuple[Bank, Outcome, BankDecision]]

    @property
    def names(self) -> str:
        return join_names([bank.id for bank, _, _ in self.banks])

    @property
    def first(self) -> BankDecision:
        return self.banks[0][2]

    @property
    def target(self) -> str:
        return power(sum(decision.target_w for _, _, decision in self.banks))

    @property
    def natural(self) -> str:
        return power(sum(bank.natural_w for bank, _, _ in self.banks))

    @property
    def given_up(self) -> str:
        """Of what the banks could draw: a queue may want far more than its nodes."""
        wanted_w = (min(outcome.desire_w, bank.natural_w) for bank, outcome, _ in self.banks)
        return power(
            sum(max(0, w - decision.target_w) for w, (_, _, decision) in zip(wanted_w, self.banks, strict=True))
        )

    @property
    def off(self) -> bool:
        return all(decision.target_w <= bank.plate.idle_w for bank, _, decision in self.banks)

    def verb(self, plural: str, singular: str) -> str:
        return f"{self.names} {plural if len(self.banks) > 1 else singular}"

    @property
    def break_even(self) -> str:
        """`its break-even of 71`, `their break-even of 71 and 62`, of four and more `62 to 71`."""
        values = list(
            dict.fromkeys(usd(d.value_usd_per_mwh) for _, _, d in self.banks if d.value_usd_per_mwh is not None)
        )
        if len(values) > 3:
            known = [d.value_usd_per_mwh for _, _, d in self.banks if d.value_usd_per_mwh is not None]
            values = [f"{usd(min(known))} to {usd(max(known))}"]
        whose = "its" if len(self.banks) == 1 else "their"
        what = "break-even" if self.banks[0][0].work is None else "jobs' worth"
        return f"{whose} {what} of {_listed(values)}" if values else f"{whose} {what}"


def sentence(
    site: Site,
    envelope: Envelope,
    banks: Sequence[tuple[Bank, Outcome, BankDecision]],
    short: Sequence[Shortfall],
    planned_w: int,
    chosen: Dispatch,
) -> str:
    """Who does what and why, what falls short, and where that leaves the site."""
    groups: dict[tuple[int, str, bool, str], Group] = {}
    for row in banks:
        bank, _, decision = row
        off = decision.target_w <= bank.plate.idle_w
        split = decision.reason not in _ONE_CLAUSE
        key = (_ORDER[decision.reason], decision.cause, off and split, bank.plate.workload if split else "")
        groups.setdefault(key, Group(site, envelope, [])).banks.append(row)
    clauses = [_CLAUSES[group.first.reason](group) for _, group in sorted(groups.items(), key=lambda item: item[0])]
    age_ms = site.snapshot.report_age_ms
    if age_ms is not None and age_ms > site.params.stale_report_ms and "report" not in {d.cause for _, _, d in banks}:
        clauses.append(f"nothing rises on a report {age_ms // 1_000:,} s old")
    clauses += [_shortfall_clause(s) for s in short[:_SHORTFALLS_SHOWN]]
    if len(short) > _SHORTFALLS_SHOWN:
        clauses.append(f"{len(short) - _SHORTFALLS_SHOWN} more shortfalls")
    if envelope.awards:
        clauses.append(_armed(envelope, chosen))
    if chosen.note is not None and chosen.note.fallback in _FALLBACKS:
        clauses.append(_FALLBACKS[chosen.note.fallback])
    cap_w = min(limit.watts for limit in envelope.limits[site.root])
    return _one_sentence(clauses, f"site at {_of(planned_w, cap_w)}")


def join_names(ids: Sequence[str]) -> str:
    """`hall-a`, `hall-b` become `Hall A and B`; what all names begin with is said once, and many are cut short."""
    words = [[_word(w) for w in bank.replace("_", "-").split("-") if w] or [bank] for bank in ids]
    shared = words[0][:-1]
    if len(words) > 1 and shared and all(w[:-1] == shared for w in words):
        return f"{' '.join(shared)} {_listed([w[-1] for w in words])}"
    return _listed([" ".join(w) for w in words])


def power(power_w: int) -> str:
    """`14.2 MW`, `350 kW`, `80 W`."""
    if power_w >= W_PER_MW:
        return f"{power_w / W_PER_MW:,.1f} MW"
    return f"{power_w / 1_000:,.0f} kW" if power_w >= 1_000 else f"{power_w} W"


def usd(value: float | None) -> str:
    """A price to the dollar, to the cent below ten."""
    if value is None:
        return "unknown"
    if abs(value) >= 1e9:
        return f"{value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 10 else f"{value:,.2f}".removesuffix(".00")


def _interlock(group: Group) -> str:
    return f"{group.verb('stay', 'stays')} off: interlock {group.first.cause.replace('_', ' ')}"


def _emergency_stop(group: Group) -> str:
    return f"{group.verb('stop', 'stops')} at once: emergency stop {_override(group)}"


def _local_mode(group: Group) -> str:
    return f"{group.verb('hold', 'holds')} {group.target}: the site is in local control"


def _obligation(group: Group) -> str:
    cause = group.first.cause
    found = next((o for o in group.site.obligations if o.id == cause), None)
    what = f"obligation {_clean(cause)}"
    if found is None:
        return f"{group.verb('give', 'gives')} up {group.given_up} for {what}"
    if all(o.id != cause for o in group.envelope.obligations):
        return f"{group.verb('hold', 'holds')} back {group.given_up}: {what} begins at {_clock(found.starts_at_ms)} UTC"
    window = f"from {_clock(found.starts_at_ms)} to {_clock(found.ends_at_ms)} UTC"
    return (
        f"{group.verb('give', 'gives')} up {group.given_up} for {what}: "
        f"at most {power(found.target_w)} at the main meter {window}"
    )


def _lockout(group: Group) -> str:
    return f"{group.verb('stay', 'stays')} off: lockout {_override(group)}"


def _cap(group: Group) -> str:
    cause, site = group.first.cause, group.site
    own = next((o for o in site.overrides if o.id == cause), None)
    for i, limits in enumerate(group.envelope.limits):
        for limit in limits:
            hall = site.nodes[i].hall
            if limit.id == cause and hall is not None:
                weather = "as on its hottest day, for no temperature is known"
                if site.ambient_c is not None:
                    weather = f"at {site.ambient_c:.0f} C outside"
                head = f"{group.verb('give', 'gives')} up {group.given_up}: the cooling of {join_names([hall.id])}"
                return f"{head} carries {power(limit.watts)} {weather}"
            if limit.id == cause and limit.kind != "obligation":
                where = "the site" if i == site.root else f"feeder {site.nodes[i].id}"
                by = f" by cap {_override(group)}" if own is not None else ""
                if cause == FLEET and own is None:
                    by = f", its share of the fleet's cap{_worth_more(site)}"
                return (
                    f"{group.verb('give', 'gives')} up {group.given_up} to keep {where} within {power(limit.watts)}{by}"
                )
    return f"{group.verb('give', 'gives')} up {group.given_up} by cap {_override(group)}"


def _worth_more(site: Site) -> str:
    quota = site.snapshot.quota
    if quota is None or quota.usd_per_mwh is None:
        return ""
    return f", where a MWh more is worth {usd(quota.usd_per_mwh)} USD above its price"


def _data_stale(group: Group) -> str:
    held = f"{group.verb('hold', 'holds')} {group.target}"
    if group.first.cause == "offline":
        return f"{held}: the site is offline"
    age_ms = group.site.snapshot.report_age_ms
    if group.site.snapshot.report is None:
        return f"{held}: no report has come"
    if age_ms is not None and age_ms > group.site.params.stale_report_ms:
        return f"{held}: the last report is {age_ms // 1_000:,} s old"
    return f"{held}: no fresh reading to rise on"


def _ramp(group: Group) -> str:
    return f"{group.verb('rise', 'rises')} to {group.target} for now: the ramp limit"


def _manual(group: Group) -> str:
    return f"{group.verb('keep', 'keeps')} {group.target}: override {_override(group)}"


def _award(group: Group) -> str:
    head = f"{group.verb('keep', 'keeps')} {group.target} running at {_price(group)}"
    return f"{head}, above {group.break_even}: reserve award {_clean(group.first.cause)} needs it to shed"


def _armed(envelope: Envelope, chosen: Dispatch) -> str:
    """What the reserves awarded may call on."""
    ids = _listed([_clean(award.id) for award in envelope.awards])
    first = min(award.starts_at_ms for award in envelope.awards)
    last = max(award.ends_at_ms for award in envelope.awards)
    window = f"{_clock(first)} to {_clock(last)} UTC"
    return f"{power(chosen.armed_mw // MW_PER_W)} can be shed for {power(envelope.reserve_w)} awarded ({ids}, {window})"


def _dwell(group: Group) -> str:
    if group.off:
        return f"{group.verb('stay', 'stays')} down: the minimum down time is not over"
    return f"{group.verb('stay', 'stays')} up ({group.target}): the minimum up time is not over"


def _hysteresis(group: Group) -> str:
    price = f"the price of {_price(group)}"
    if group.off:
        return f"{group.verb('stay', 'stays')} down: {price} is too near {group.break_even} to pay for a start"
    return f"{group.verb('stay', 'stays')} up ({group.target}): {price} is too near {group.break_even} to stop for"


def _below(group: Group) -> str:
    return f"{group.verb('run', 'runs')} ({group.target}): the price of {_price(group)} is below {group.break_even}"


def _above(group: Group) -> str:
    head = f"{group.verb('stand', 'stands')} down ({group.natural})"
    return f"{head}: the price of {_price(group)} is above {group.break_even}"


def _ahead(group: Group) -> str:
    outcome = group.banks[0][1]
    assert outcome.ahead is not None  # noqa: S101  a reason that is only given with it
    return _AHEAD[outcome.ahead.kind](group, outcome.ahead)


def _restart(group: Group, ahead: Ahead) -> str:
    head = f"{group.verb('stay', 'stays')} up ({group.target}) at {_price(group)}, above {group.break_even}"
    return f"{head}: a restart would cost more{_until(' than that until', ahead)}"


def _start(group: Group, ahead: Ahead) -> str:
    head = f"{group.verb('stay', 'stays')} down at {_price(group)}, below {group.break_even}"
    return f"{head}: by what is expected of prices a start would not pay{_until(' before', ahead)}"


def _early(group: Group, _ahead: Ahead) -> str:
    head = f"{group.verb('run', 'runs')} ({group.target}) at {_price(group)}, above {group.break_even}"
    return f"{head}: lower prices are expected, and it will then be up"


def _held_job(group: Group, ahead: Ahead) -> str:
    _, outcome, _ = group.banks[0]
    job = outcome.jobs.get(ahead.job)
    watts = power(job.power_w) if job is not None else group.target
    why = f"due {_clock(ahead.due_ms)} UTC" if ahead.due_ms is not None else "whose restart would cost more"
    others = len(outcome.jobs) - (job is not None)
    rest = f", and {power(group.first.target_w)} in all with {others} more" if others > 0 else ""
    held = f"{group.verb('hold', 'holds')} {watts} for job {_clean(ahead.job)} {why}"
    return f"{held}{rest}{_waiting(group)}"


def _wait(group: Group, ahead: Ahead) -> str:
    due = f" due {_clock(ahead.due_ms)} UTC" if ahead.due_ms is not None else ""
    until = _until(" until", ahead)
    why = "for cheaper hours" if ahead.due_ms is not None else "as a start would not pay by what is expected of prices"
    return f"{group.verb('let', 'lets')} job {_clean(ahead.job)}{due} wait{until} {why}"


def _until(words: str, ahead: Ahead) -> str:
    return f"{words} {_clock(ahead.until_ms)} UTC" if ahead.until_ms is not None else ""


def _waiting(group: Group) -> str:
    waits = sum(len(outcome.waits) for _, outcome, _ in group.banks)
    return f" ({waits} more wait{'s' * (waits == 1)} for cheaper hours)" if waits else ""


def _jobs(group: Group) -> str:
    jobs = sum(len(outcome.jobs) for _, outcome, _ in group.banks)
    worth = _listed(list(dict.fromkeys(usd(d.value_usd_per_mwh) for _, _, d in group.banks)))
    runs = f"{group.verb('keep', 'keeps')} {group.target} for {jobs} job{'s' * (jobs != 1)}"
    return f"{runs} worth {worth} USD/MWh{_waiting(group)}"


def _no_work(group: Group) -> str:
    return f"{group.verb('idle', 'idles')} at {group.target}: no jobs"


def _price_stale(group: Group) -> str:
    what = "energy price" if group.site.price is None else "hash value"
    if group.off:
        return f"{group.verb('stay', 'stays')} down: no fresh {what}"
    verb = group.verb("run", "runs") if group.site.params.unknown_price is Stance.RUN else group.verb("hold", "holds")
    return f"{verb} {group.target}: no fresh {what}"


def _unavailable(group: Group) -> str:
    return f"{group.verb('draw', 'draws')} nothing: no device is available"


_CLAUSES: Final[dict[DecisionReason, Callable[[Group], str]]] = {
    DecisionReason.INTERLOCK: _interlock,
    DecisionReason.EMERGENCY_STOP: _emergency_stop,
    DecisionReason.LOCAL_MODE: _local_mode,
    DecisionReason.OBLIGATION: _obligation,
    DecisionReason.LOCKOUT: _lockout,
    DecisionReason.CAP: _cap,
    DecisionReason.DATA_STALE: _data_stale,
    DecisionReason.RAMP: _ramp,
    DecisionReason.OVERRIDE: _manual,
    DecisionReason.AWARD: _award,
    DecisionReason.HOLD_DWELL: _dwell,
    DecisionReason.PRICE_STALE: _price_stale,
    DecisionReason.PLAN_AHEAD: _ahead,
    DecisionReason.PRICE_ABOVE_BREAK_EVEN: _above,
    DecisionReason.HOLD_HYSTERESIS: _hysteresis,
    DecisionReason.PRICE_BELOW_BREAK_EVEN: _below,
    DecisionReason.JOBS_RUN: _jobs,
    DecisionReason.NO_WORK: _no_work,
    DecisionReason.UNAVAILABLE: _unavailable,
}
"""Strongest first: the order of the clauses too."""
_AHEAD: Final[dict[AheadKind, Callable[[Group, Ahead], str]]] = {
    AheadKind.RESTART: _restart,
    AheadKind.START: _start,
    AheadKind.EARLY: _early,
    AheadKind.JOB: _held_job,
    AheadKind.WAIT: _wait,
}
_FALLBACKS: Final = {
    "outlook_unknown": "by the price of now alone, for no outlook of prices is known",
    "too_large": "by the price of now alone, for the site has too many units to plan",
    "plan_worse": "by the price of now alone, for no plan was found that earns more",
}
"""What is said where merit order decided in a plan's place; an unknown price is told by the banks themselves."""
_ONE_CLAUSE: Final = frozenset(_CLAUSES) & {
    DecisionReason.INTERLOCK,
    DecisionReason.EMERGENCY_STOP,
    DecisionReason.LOCAL_MODE,
    DecisionReason.OBLIGATION,
    DecisionReason.LOCKOUT,
    DecisionReason.CAP,
    DecisionReason.DATA_STALE,
    DecisionReason.OVERRIDE,
}
"""Reasons that are told once for running and stopped banks, hash and HPC together."""
_ORDER: Final = {reason: i for i, reason in enumerate(_CLAUSES)}


def _shortfall_clause(short: Shortfall) -> str:
    amount, name = power(short.short_w), _clean(short.id)
    head = {
        "feeder": f"{amount} over the limit {name}",
        "cooling": f"{amount} over what the cooling of {join_names([name.removeprefix(PREFIX)])} carries",
        "site_cap": f"{amount} over the site cap {name}",
        "firm_load": f"{amount} of firm work on {join_names([short.id])} is not served",
        "obligation": f"{amount} short of obligation {name}",
        "award": f"{amount} short of reserve award {name}",
        "floor": f"{amount} short of the floor {name}",
        "deadline": f"job {name} ({amount}) will not be done in time",
    }[short.kind]
    return f"{head} ({_clean(short.detail)})" if short.detail else head


def _override(group: Group) -> str:
    cause = group.first.cause
    found = next((o for o in group.site.overrides if o.id == cause), None)
    reason = _clean(found.reason) if found else ""
    return f"{_clean(cause)} ({reason})" if reason else _clean(cause)


def _price(group: Group) -> str:
    return f"{usd(group.site.price)} USD/MWh"


def _of(power_w: int, cap_w: int) -> str:
    one, other = power(power_w), power(cap_w)
    number, unit = one.split(" ")
    return f"{number} of {other}" if other.endswith(f" {unit}") else f"{one} of {other}"


def _clock(at_ms: int) -> str:
    minutes = at_ms // MS_PER_MINUTE % 1_440
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def _clean(text: str) -> str:
    """A person's own words, made fit to stand inside the sentence."""
    words = "".join(c if c.isprintable() else " " for c in text).split()
    plain = " ".join(words).replace(". ", ", ").replace("; ", ", ").replace("! ", ", ").replace("? ", ", ")
    return plain.rstrip(".;!? ")[:_WORDS_SHOWN].rstrip()


def _word(word: str) -> str:
    return word.upper() if len(word) == 1 or word in _ACRONYMS else word[:1].upper() + word[1:]


def _listed(items: Sequence[str]) -> str:
    if len(items) > _NAMES_SHOWN:
        items = [*items[: _NAMES_SHOWN - 1], f"{len(items) - _NAMES_SHOWN + 1} more"]
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _one_sentence(clauses: Sequence[str], tail: str) -> str:
    kept: list[str] = []
    left = MAX_CHARS - len(tail) - 20
    for clause in clauses:
        if len(clause) + 2 > left:
            kept.append(f"{len(clauses) - len(kept)} more")
            break
        kept.append(clause)
        left -= len(clause) + 2
    text = "; ".join([*kept, tail])
    return f"{text[0].upper()}{text[1:]}."
