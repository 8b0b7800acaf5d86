"""The shed ladder: what to give up first if power must fall at once, with no controller to ask."""

from __future__ import annotations

from typing import Final

from contract.messages import MAX_BANKS, MAX_JOBS, Job, ShedStep
from contract.units import POWER_W_MAX
from controller.engine import value
from controller.engine.economics import Dispatch, Outcome
from controller.engine.facts import Bank, Site

MAX_STEPS: Final = MAX_BANKS + MAX_JOBS
"""What an order may carry."""


def shed_ladder(site: Site, chosen: Dispatch) -> tuple[ShedStep, ...]:
    """Every bank and every job, first shed first: least value per MWh first, firm work last and marked.

    A partition stands once for itself, after its jobs, with what its jobs do not account for. `frees_w` is what a step
    frees of this dispatch; 0 for work that the dispatch does not run. Read backwards it is the order of return.
    """
    steps: list[tuple[bool, float, str, str, ShedStep]] = []
    for bank, outcome in zip(site.banks, chosen.outcomes, strict=True):
        rest_w = max(0, outcome.target_w - bank.plate.idle_w)
        worth, firm = 0.0, False
        if bank.work is not None:
            firm = not bank.work.known
            worth = max((_worth(site, bank, job) for job in bank.work.jobs), default=0.0)
            for job in bank.work.jobs:
                runs_w = job.power_w if job.id in outcome.jobs else 0
                step = ShedStep(bank=bank.id, job=job.id, frees_w=runs_w, firm=job.firm)
                steps.append((job.firm, _worth(site, bank, job), bank.id, job.id, step))
                rest_w -= runs_w
                firm = firm or job.firm
        else:
            worth = _hash_worth(site, bank, outcome)
        step = ShedStep(bank=bank.id, frees_w=min(max(rest_w, 0), POWER_W_MAX), firm=firm)
        steps.append((firm, worth, bank.id, "~", step))
    steps.sort(key=lambda s: s[:4])
    if len(steps) > MAX_STEPS:
        steps = [s for s in steps if s[4].frees_w > 0][:MAX_STEPS]
    return tuple(step for *_, step in steps)


def _worth(site: Site, bank: Bank, job: Job) -> float:
    """What shedding the job loses per MWh freed, the work it must do again included."""
    pue, payback_ms = bank.plate.pue_milli, site.params.start_payback_ms
    return value.job_value_usd_per_mwh(job, pue) + value.restart_penalty_usd_per_mwh(job, pue, payback_ms)


def _hash_worth(site: Site, bank: Bank, outcome: Outcome) -> float:
    """What the bank earns on average over what it draws above idle, or would draw at full power; 0 if unknown."""
    segments = bank.segments
    top_w = outcome.target_w if outcome.target_w > bank.plate.idle_w else bank.natural_w
    if site.hashprice is None or not segments or top_w <= bank.plate.idle_w:
        return 0.0
    ghs_per_w = value.hashrate_ghs(segments, top_w) / (top_w - bank.plate.idle_w)
    return value.hash_value_usd_per_mwh(site.hashprice, ghs_per_w, bank.plate.pue_milli)
