"""Logistic regression by Newton's method: small, deterministic, with a ridge that keeps rare events finite."""

from __future__ import annotations

from typing import Final

import numpy as np

from controller.forecast.known import F8

ROUNDS_MAX: Final = 50
LOGIT_MAX: Final = 30.0


def fit_logistic(rows: F8, happened: F8, ridge: float) -> F8:
    """(F,) weights of `rows` (K, F), the first column being the constant one, for chances of `happened` (K,) 0 or 1.

    `ridge` is the weight, in rows, of a belief that every weight but the constant is 0; rows should be of size one.
    """
    weights = np.zeros(rows.shape[1])
    penalty = np.full(rows.shape[1], ridge)
    penalty[0] = 1e-6
    rate = float(np.clip(happened.mean(), 0.5 / len(happened), 1 - 0.5 / len(happened)))
    weights[0] = np.log(rate / (1 - rate))
    best = _loss(rows, happened, weights, penalty)
    for _ in range(ROUNDS_MAX):
        chance = sigmoid(_scores(rows, weights))
        gradient = np.einsum("nf,n->f", rows, chance - happened) + penalty * weights
        curvature = np.einsum("nf,ng->fg", rows * (chance * (1 - chance))[:, None], rows) + np.diag(penalty)
        step = np.linalg.solve(curvature, gradient)
        size, loss = 1.0, np.inf
        while size > 1e-4:
            loss = _loss(rows, happened, weights - size * step, penalty)
            if loss < best:
                break
            size /= 2
        if not loss < best - 1e-9 * abs(best):
            break
        weights, best = weights - size * step, loss
    return weights


def sigmoid(logit: F8) -> F8:
    """The chance of a logit."""
    chance: F8 = 1.0 / (1.0 + np.exp(-np.clip(logit, -LOGIT_MAX, LOGIT_MAX)))
    return chance


def _scores(rows: F8, weights: F8) -> F8:
    """Not by BLAS: its threads wait for one another on a busy machine, for sums as small as these."""
    scores: F8 = np.einsum("nf,f->n", rows, weights)
    return scores


def _loss(rows: F8, happened: F8, weights: F8, penalty: F8) -> float:
    logit = _scores(rows, weights)
    return float(np.sum(np.logaddexp(0.0, logit) - happened * logit) + 0.5 * np.sum(penalty * weights * weights))
