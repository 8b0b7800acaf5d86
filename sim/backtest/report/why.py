"""Why two policies differ on a day: their profit's difference taken apart by what made it, in a sentence with figures.

Everything is from the two traces, the site and the time line; the parts add up to the difference. Hashing is netted
among machines alike, so that one bank standing still in another's place is no difference. What the policy reckoned
with (`Trace.why`) is quoted where it says more than the price of the hour.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from contract.units import MS_PER_HOUR, MS_PER_S
from sim.backtest.model import F8, Site, Trace
from sim.backtest.physics import (
    HOURS_PER_DAY,
    at_ambient,
    boot_share,
    obligation_targets,
    peak_usd_per_mw,
    steps_of,
)
from sim.backtest.report.story import Day, Judged, joule_per_th, signed_usd

NOTHING_MW: Final = 1e-3
"""Less power than this apart is none."""
NOTHING_MWH: Final = 0.05
"""A day's energy below this reads as 0.0."""
WORTH_SAYING: Final = 0.25
"""Of the day's difference: a second part that large is named beside the first."""
BOUND_SHARE: Final = 0.5
"""Of the megawatts apart: a limit in force for so many of them is named."""
AT_LIMIT: Final = 0.995
"""Of a limit, from which it binds."""


@dataclass(frozen=True, slots=True)
class Apart:
    """One policy less another: (M,) USD by what made it, adding up to the profit's difference, and MW."""

    usd: dict[str, F8]
    group_mw: F8
    """(M, G) at the meter, of each group of like machines, idle draw included."""
    group_usd: F8
    """(M, G) earned by it, as if no start took time."""
    starts: F8
    """(M,) banks' starts."""
    meter_mw: F8
    hpc_mw: F8
    hpc_energy_usd: F8


def apart(one: Judged, ours: Trace, theirs: Trace) -> Apart:
    """Take the difference of two policies apart."""
    site, line = one.site, one.timeline
    judged = slice(line.history, None)
    hours = line.interval_ms / MS_PER_HOUR
    cost = (line.price[judged] + site.energy.adder_usd_per_mwh) * hours
    mine, other = _hashing(one, ours), _hashing(one, theirs)
    group_mw, group_usd, start_usd, starts = (a - b for a, b in zip(mine, other, strict=True))
    meter_mw = ours.meter_mw - theirs.meter_mw
    net = group_usd - group_mw * cost[:, None]
    less, more = (group_mw < -NOTHING_MW) & (group_usd < 0), (group_mw > NOTHING_MW) & (group_usd > 0)
    target, due_h = (array[judged] for array in obligation_targets(line))
    missed_mw = np.maximum(ours.meter_mw - target, 0.0) - np.maximum(theirs.meter_mw - target, 0.0)
    usd = {
        "less": np.where(less, net, 0.0).sum(axis=1),
        "more": np.where(more, net, 0.0).sum(axis=1),
        "spread": np.where(less | more, 0.0, net).sum(axis=1),
        "starts": -start_usd,
        "peak": -meter_mw * peak_usd_per_mw(site, line)[judged],
        "obligation": -missed_mw * due_h * site.obligation_usd_per_mwh,
    }
    usd["hpc"] = ours.profit_usd - theirs.profit_usd - sum(usd.values())
    hpc_energy = (meter_mw - group_mw.sum(axis=1)) * cost
    return Apart(usd, group_mw, group_usd, starts, meter_mw, ours.hpc_mw - theirs.hpc_mw, hpc_energy)


def reason(one: Judged, ours: Trace, theirs: Trace, difference: Apart, day: Day) -> str:
    """The sentence of a day: what made most of it, under which limit, and what else counted."""
    sums = {kind: float(usd[day.span].sum()) for kind, usd in difference.usd.items()}
    whole = sum(sums.values())
    sign = -1.0 if whole < 0 else 1.0
    first = max(sums, key=lambda kind: sign * sums[kind])
    if sign * sums[first] < 0.5:
        return "Both did the same."
    teller = _Teller(one, ours, theirs, difference, day)
    said = (
        f"{teller.tell(first)}; together {signed_usd(sums[first])}"
        if first == "hpc"
        else f"{teller.tell(first)}: {signed_usd(sums[first])}"
    )
    rest = {kind: value for kind, value in sums.items() if kind != first}
    second = max(rest, key=lambda kind: abs(rest[kind]))
    if abs(rest[second]) >= max(WORTH_SAYING * abs(whole), 0.5):
        joined = "besides" if rest[second] * sign > 0 else "against that"
        said += f"; {joined}, {_lower(teller.tell(second, context=False))}: {signed_usd(rest[second])}"
    return said + "."


class _Teller:
    """The words for one day."""

    def __init__(self, one: Judged, ours: Trace, theirs: Trace, difference: Apart, day: Day) -> None:
        self._one, self._ours, self._theirs, self._apart, self._span = one, ours, theirs, difference, day.span
        self._hours = one.timeline.interval_ms / MS_PER_HOUR
        self._price = one.timeline.price[one.timeline.history :][day.span]

    def tell(self, kind: str, *, context: bool = True) -> str:
        if kind in ("less", "more"):
            return self._hashed(kind, context=context)
        if kind == "hpc":
            return self._hpc(context=context)
        if kind == "peak":
            return self._peak()
        if kind == "obligation":
            return self._obligation()
        if kind == "starts":
            count = float(self._apart.starts[self._span].sum())
            return f"Banks started {_count(count)}, boot and wear counted"
        return "Like power was spread over the machines otherwise, at another efficiency"

    def _hashed(self, kind: str, *, context: bool) -> str:
        """Energy not taken, or taken, at its price, against the break-even of the machines it is about."""
        mw, usd = self._apart.group_mw[self._span], self._apart.group_usd[self._span]
        sign = -1.0 if kind == "less" else 1.0
        counted = (sign * mw > NOTHING_MW) & (sign * usd > 0)
        by_group = np.where(counted, np.abs(mw), 0.0)
        weight = by_group.sum(axis=1)
        mwh = float(weight.sum()) * self._hours
        mean = float(weight @ self._price) / float(weight.sum())
        adder = self._one.site.energy.adder_usd_per_mwh
        even = float(np.abs(usd[counted]).sum()) / mwh - adder
        took = "stood still" if kind == "less" else "ran"
        said = (
            f"Hashed {mwh:,.1f} MWh {kind} over {self._over(weight)} at a mean price of {mean:,.0f} USD/MWh, "
            f"where what {took} breaks even at {even:,.0f}"
        )
        return said + (self._limit(weight, kind) + self._reckoned(weight) if context else "")

    def _hpc(self, *, context: bool) -> str:
        mw = self._apart.hpc_mw[self._span]
        energy = float(self._apart.hpc_energy_usd[self._span].sum())
        work = float(self._apart.usd["hpc"][self._span].sum()) + energy
        less = float(mw.sum()) < 0
        both = [self._part(np.maximum(sign * mw, 0.0), word) for sign, word in ((-1.0, "less"), (1.0, "more"))]
        drew = " and ".join(part for part in (both if less else both[::-1]) if part) or "the same"
        said = (
            f"HPC drew {drew}: energy {signed_usd(-energy)}, its work less restarts and missed deadlines "
            f"{signed_usd(work)}"
        )
        return said + (self._limit(np.abs(mw), "less" if less else "more") if context else "")

    def _part(self, mw: F8, word: str) -> str:
        mwh = float(mw.sum()) * self._hours
        if mwh < NOTHING_MWH:
            return ""
        return f"{mwh:,.1f} MWh {word} at a mean of {float(mw @ self._price) / float(mw.sum()):,.0f} USD/MWh"

    def _peak(self) -> str:
        charge = peak_usd_per_mw(self._one.site, self._one.timeline)[self._one.timeline.history :][self._span]
        at = int(np.abs(self._apart.meter_mw[self._span] * charge).argmax())
        mw = float(self._apart.meter_mw[self._span][at])
        usd = float(charge[charge > 0].sum())
        said = (
            f"Drew {abs(mw):,.1f} MW {'less' if mw < 0 else 'more'} at the month's coincident peak, {self._clock(at)}"
        )
        return said + f", charged at {usd:,.0f} USD/MW{self._reckoned((charge > 0).astype(np.float64))}"

    def _obligation(self) -> str:
        target = obligation_targets(self._one.timeline)[0][self._one.timeline.history :][self._span]
        over = [
            np.maximum(t.meter_mw[self._span] - target, 0.0).sum() * self._hours for t in (self._ours, self._theirs)
        ]
        low = float(target.min())
        return f"Exceeded an obligation of {low:,.1f} MW by {over[0]:,.1f} MWh, the other by {over[1]:,.1f}"

    def _limit(self, weight: F8, kind: str) -> str:
        """The limit that bound whoever drew less, where it did for most of the energy."""
        target = obligation_targets(self._one.timeline)[0][self._one.timeline.history :][self._span]
        due = np.isfinite(target)
        if float(weight[due].sum()) >= BOUND_SHARE * float(weight.sum()) > 0:
            return f", an obligation holding the meter to {float(target[due].min()):,.1f} MW"
        whose = self._ours if kind == "less" else self._theirs
        cap = whose.cap_mw[self._span]
        bound = whose.meter_mw[self._span] >= AT_LIMIT * cap
        share = float(weight[bound].sum()) / max(float(weight.sum()), 1e-9)
        if share < BOUND_SHARE:
            return ""
        return f", {whose.policy} at the cap of {float(cap[bound].mean()):,.1f} MW for {share:.0%} of it"

    def _reckoned(self, weight: F8) -> str:
        """What the policy reckoned with in the interval that counts most and has something to say."""
        told = [k for k in np.flatnonzero(weight > 0) if self._ours.why[self._span.start + int(k)]]
        if not told:
            return ""
        at = int(max(told, key=lambda k: (float(weight[k] * abs(self._price[k])), -int(k))))
        return f" (at {self._clock(at)} it reckoned with {self._ours.why[self._span.start + at]})"

    def _over(self, weight: F8) -> str:
        """For how long, and from when to when where that is much less than the day."""
        where = np.flatnonzero(weight > 0)
        hours = len(where) * self._hours
        if int(where[-1]) - int(where[0]) + 1 > 2 * len(where):
            return f"{hours:,.4g} h"
        return f"{hours:,.4g} h between {self._clock(int(where[0]))} and {self._clock(int(where[-1]) + 1)}"

    def _clock(self, at: int) -> str:
        """Local time at which an interval of the day begins."""
        line = self._one.timeline
        ms = line.start_ms + (line.history + self._span.start + at) * line.interval_ms
        return f"{datetime.fromtimestamp(ms / MS_PER_S, ZoneInfo(self._one.site.timezone)):%H:%M}"


def _hashing(one: Judged, trace: Trace) -> tuple[F8, F8, F8, F8]:
    """MW at the meter and USD earned by group of like machines, (M, G); what starts cost, and their number, (M,)."""
    line = one.timeline
    judged = slice(line.history, None)
    hours = line.interval_ms / MS_PER_HOUR
    coin = line.hashprice[judged] / HOURS_PER_DAY * hours
    ambient = None if line.ambient_c is None else line.ambient_c[judged]
    group_of = _groups(one.site)
    shape = (len(trace.bank_mw), max(group_of, default=-1) + 1)
    meter, usd = np.zeros(shape), np.zeros(shape)
    lost, starts = np.zeros(shape[0]), np.zeros(shape[0])
    for b, bank in enumerate(one.site.banks):
        mw = trace.bank_mw[:, b]
        on = mw > 0
        earned = np.where(on, np.interp(mw, bank.level_mw, bank.level_phs), 0.0) * coin
        started = np.flatnonzero(on & ~np.concatenate([[True], on[:-1]]))
        boot = np.zeros(shape[0])
        for since in reversed(range(steps_of(bank.boot_h, hours))):
            boot[_within(started + since, shape[0])] = boot_share(bank.boot_h, since, hours)
        meter[:, group_of[b]] += np.where(on, mw, bank.idle_mw) * at_ambient(
            one.site.halls[bank.hall].pue_points, ambient
        )
        usd[:, group_of[b]] += earned
        lost += earned * boot
        lost[started] += bank.start_usd
        starts[started] += 1
    return meter, usd, lost, starts


def _groups(site: Site) -> list[int]:
    """The group of each bank: machines of one efficiency."""
    kinds = [round(joule_per_th(site, b)) for b in range(len(site.banks))]
    known = sorted(set(kinds))
    return [known.index(kind) for kind in kinds]


def _within(at: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    return at[at < count]


def _count(more: float) -> str:
    return "as often, elsewhere" if more == 0 else f"{abs(more):,.0f} times {'more' if more > 0 else 'less'}"


def _lower(text: str) -> str:
    return text if text.startswith("HPC") else text[0].lower() + text[1:]
