"""What each source of information is worth to the wattshift policy, in dollars: the same plant, one source changed.

    python -m bench.worth --site examples/hybrid-40mw.toml --rt RT.csv --da DA.csv --btc BTC.csv --weather W.csv \
        --load L.csv --jobs J.csv --start 2023-07-01T00:00 --end 2023-10-01T00:00 --price-lag 1

With `--parameters`, each parameter of the policy changed on its own in place of the sources; with `--gap`, what is left
to the bound, by cause. The last line is JSON: profit in USD by what was changed, or the parts in USD by policy.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from controller.forecast import Market, forecast
from controller.forecast.known import Forecast, Known, Outlook
from sim.backtest.bound import Oracle, bound_usd
from sim.backtest.gap import gap_of
from sim.backtest.model import Policy, Site, Timeline
from sim.backtest.plant import Plant
from sim.backtest.seen import Eyes
from sim.backtest.series import Files, Window, load_timeline, moment
from sim.backtest.sitefile import load
from sim.backtest.thresholds import AlwaysOnPolicy, BreakEvenPolicy, HysteresisPolicy
from sim.backtest.wattshift import Params, WattshiftPolicy

TRIED: Final[dict[str, tuple[Any, ...]]] = {
    "peak_weight": (2.0, 0.5, 0.25),
    "hurry": (1.0, 0.1),
    "eager": (0.1, 0.01),
    "urgent_h": (3.0, 24.0),
    "keep": (0.0, 1.0),
    "iterations": (3, 12),
    "look_h": (0.5,),
}
"""Of the policy's parameters, beside the ones it has."""
GAP_ITERATIONS: Final = 1_600
"""Of the bound's descent: its prices count here, not its value alone."""


class Without:
    """A forecast with one thing taken out of what it knows or says."""

    def __init__(self, inner: Forecast, what: str) -> None:
        self.name = f"without {what}"
        self._inner, self._what = inner, what

    def fit(self, past: Known) -> None:
        """As the forecast does, on what is left."""
        self._inner.fit(self._cut(past))

    def outlook(self, known: Known, step_ms: int, steps: int) -> Outlook:
        """The forecast's, without it."""
        out = self._inner.outlook(self._cut(known), step_ms, steps)
        if self._what == "peak":
            return replace(out, peak=np.zeros(steps))
        return replace(out, ambient_c=None) if self._what == "ambient" else out

    def _cut(self, known: Known) -> Known:
        return replace(known, day_ahead=None) if self._what == "day-ahead" else known


class Foreseeing:
    """A forecast that is told one thing as it will be."""

    def __init__(self, inner: Forecast, oracle: Forecast, what: str) -> None:
        self.name = f"{what} foreseen"
        self._inner, self._oracle, self._what = inner, oracle, what

    def fit(self, past: Known) -> None:
        """As the forecast does."""
        self._inner.fit(past)

    def outlook(self, known: Known, step_ms: int, steps: int) -> Outlook:
        """The forecast's, with the truth in place of its prices or of its chances of a peak."""
        out, truth = (source.outlook(known, step_ms, steps) for source in (self._inner, self._oracle))
        return replace(out, peak=truth.peak) if self._what == "peaks" else replace(out, usd_per_mwh=truth.usd_per_mwh)


def main() -> None:
    """Run them one after the other."""
    asked = _arguments()
    plan = load(asked.site).plans[0]
    names = ("rt", "da", "btc", "weather", "load", "jobs")
    files = Files(**{name: getattr(asked, name) for name in names})
    zone = plan.site.timezone
    window = Window(_at(asked.start, zone), _at(asked.end, zone))
    line, said = load_timeline(plan, files, window)
    print("\n".join(said))
    lag, site = asked.price_lag, plan.site
    if asked.gap:
        _gaps(site, line, lag)
        return
    usd: dict[str, float] = {}
    policies = _parameters() if asked.parameters else _policies(site, line, lag)
    for policy, label in policies:
        usd[label] = _profit(policy, site, line, lag)
        print(f"{label:45s} {usd[label]:14,.0f} USD", flush=True)
    usd["bound"] = bound_usd(site, line)
    print(f"{'bound':45s} {usd['bound']:14,.0f} USD")
    print(json.dumps({name: round(value) for name, value in usd.items()}))


def _policies(site: Site, line: Timeline, lag: int) -> list[tuple[Policy, str]]:
    """The peers, the policy as it is, and the policy with one source changed."""
    params = Params()
    market = Market(site.timezone, params.spike_usd_per_mwh, site.energy.peak_months)
    out: list[tuple[Policy, str]] = [
        (AlwaysOnPolicy(), "always-on"),
        (BreakEvenPolicy(), "break-even"),
        (HysteresisPolicy(), "hysteresis"),
        (WattshiftPolicy(), f"wattshift ({params.forecast})"),
    ]
    out += [
        (WattshiftPolicy(replace(params, forecast=name)), f"wattshift, forecast {name}")
        for name in ("persistence", "day_ahead", "blended")
        if name != params.forecast
    ]
    for what in ("peak", "ambient"):
        out.append((WattshiftPolicy(params, Without(forecast(params.forecast, market), what)), f"wattshift, no {what}"))
    if lag > 0:
        out.append((WattshiftPolicy(replace(params, mean_now=False)), "wattshift, path in place of the mean now"))
    else:
        oracle = Oracle(site, line)
        for what in ("prices", "peaks"):
            told = Foreseeing(forecast(params.forecast, market), oracle, what)
            out.append((WattshiftPolicy(params, told), f"wattshift, {what} foreseen"))
        out.append((WattshiftPolicy(params, oracle), "wattshift, everything but jobs foreseen"))
    return out


def _parameters() -> list[tuple[Policy, str]]:
    """The policy as it is, and with one parameter changed."""
    params = Params()
    out: list[tuple[Policy, str]] = [(BreakEvenPolicy(), "break-even"), (WattshiftPolicy(), "wattshift")]
    for name, values in TRIED.items():
        out += [(WattshiftPolicy(replace(params, **{name: v})), f"wattshift, {name} {v:g}") for v in values]
    return out


def _gaps(site: Site, line: Timeline, lag: int) -> None:
    """What each of three policies leaves to the bound, part by part; the last line is one JSON object."""
    policies: list[tuple[Policy, str]] = [(BreakEvenPolicy(), "break-even"), (WattshiftPolicy(), "wattshift")]
    if lag == 0:
        policies.append((WattshiftPolicy(Params(), Oracle(site, line)), "wattshift, everything but jobs foreseen"))
    found: dict[str, dict[str, int]] = {}
    for policy, label in policies:
        gap = gap_of(site, line, policy, lag, GAP_ITERATIONS)
        parts = {**gap._asdict(), "rest_usd": gap.rest_usd}
        found[label] = {name: round(value) for name, value in parts.items()}
        print(label, *(f"{name.removesuffix('_usd')} {value:,.0f}" for name, value in parts.items()), sep="  ")
    print(json.dumps(found))


def _profit(policy: Policy, site: Site, line: Timeline, lag: int) -> float:
    policy.prepare(site, line, lag)
    plant, eyes = Plant(site, line), Eyes(line, lag)
    while not plant.done:
        plant.step(policy.act(eyes.see(plant.index, plant.state, plant.cap_mw)))
    return plant.close(policy.name)[0].profit_usd


def _at(text: str | None, zone: str) -> datetime | None:
    return moment(text, zone) if text else None


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--site", type=Path, required=True)
    parser.add_argument("--rt", type=Path, required=True)
    for name in ("--da", "--btc", "--weather", "--load", "--jobs"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--start")
    parser.add_argument("--end")
    parser.add_argument("--price-lag", type=int, default=0)
    parser.add_argument("--parameters", action="store_true", help="change the policy's parameters, not what it knows")
    parser.add_argument("--gap", action="store_true", help="what is left to the bound, part by part")
    return parser.parse_args()


if __name__ == "__main__":
    main()
