"""MBG/NBD, the purchase model in use: BG/NBD in which a customer may also leave right after the first purchase.

BG/NBD holds every customer without a repeat purchase to be alive, for ever; in a shop most customers are of that kind,
so this one chance to leave more, at time 0, matters. Sources: Batislam, Denizel and Filiztekin (2007), "Empirical
validation and comparison of models for customer base analysis", IJRM 24(3); Wagner and Hoppe (2008), "Erratum on the
MBG/NBD model", IJRM 25(3). Notation, histories and units (weeks) are those of `bg_nbd.py`, with k = x + 1 chances.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from analytics_assets.retail.ltv.bg_nbd import (
    Floats,
    LogLikelihood,
    Parameters,
    alive_given_chances,
    checked_history,
    distinct_histories,
    maximise,
    purchases_given_alive,
)

# Truncation of the sums over the number of purchases, relative to E[N | alive].
RELATIVE_TAIL = 1e-9
# Purchases summed between two looks at which histories are finished.
TERMS_PER_LOOK = 8


def first_and_repeat_chances(frequency: Floats) -> Floats:
    """MBG/NBD: a customer could have left after the first and after each repeat purchase."""
    return frequency + 1


def fit(
    frequency: ArrayLike,
    recency: ArrayLike,
    age: ArrayLike,
    counts: ArrayLike | None = None,
    *,
    start: Parameters | None = None,
    with_prior: bool = False,
) -> Parameters:
    """Fit MBG/NBD by maximum likelihood, or with `bg_nbd.py`'s weak prior; rows, bounds and errors are those of `bg_nbd.fit`."""
    histories = distinct_histories(frequency, recency, age, counts)
    return maximise(LogLikelihood(histories, first_and_repeat_chances), start, with_prior=with_prior)


def probability_alive(parameters: Parameters, frequency: ArrayLike, recency: ArrayLike, age: ArrayLike) -> Floats:
    """Probability that each customer has not left (Batislam et al., appendix A, equation 5). One row per customer."""
    return alive_given_chances(parameters, first_and_repeat_chances, *checked_history(frequency, recency, age))


def expected_purchases(parameters: Parameters, weeks: float, frequency: ArrayLike, recency: ArrayLike, age: ArrayLike) -> Floats:
    """Expected purchase days in the next `weeks`, given the history (Wagner and Hoppe). One row per customer."""
    x, t_x, T = checked_history(frequency, recency, age)
    alive = alive_given_chances(parameters, first_and_repeat_chances, x, t_x, T)
    return alive * purchases_while_alive(parameters, weeks, x, T)


def purchases_while_alive(parameters: Parameters, weeks: float, frequency: Floats, age: Floats) -> Floats:
    """Expected purchase days in the next `weeks` of customers who are alive now; one row each, inputs unchecked."""
    return purchases_given_alive(parameters, first_and_repeat_chances, weeks, frequency, age)


def unconditional_purchases(parameters: Parameters, weeks: ArrayLike) -> Floats:
    """Expected repeat purchase days of a new customer within `weeks` of the first purchase."""
    horizons = np.atleast_1d(np.asarray(weeks, dtype=np.float64))
    return np.concatenate([expected_purchases(parameters, t, [0], [0], [0]) for t in horizons])


@dataclass(frozen=True)
class FuturePurchases:
    """The number N of purchase days in a horizon, one row per history.

    `probability_some` is P(N > 0); `expectations` has one row per requested function g, holding E[g(N); N > 0].
    """

    probability_alive: Floats
    probability_some: Floats
    expectations: Floats


def future_purchases(
    parameters: Parameters,
    weeks: float,
    frequency: ArrayLike,
    recency: ArrayLike,
    age: ArrayLike,
    functions: Callable[[Floats], Floats],
) -> FuturePurchases:
    """Return E[g(N)] over the N > 0 purchase days in the next `weeks`, for several functions g at once.

    `functions` maps counts 1, 2, ... to an array of shape (functions, counts); g may grow no faster than n.
    Pass distinct histories: the work is proportional to the rows.

    Given that a customer is alive now, N = min(M, G): M purchases would fall into the horizon, and the G-th is the
    last. The posteriors are lambda ~ Gamma(r + x, alpha + T) and p ~ Beta(a, b + x + 1), independent, so

        P(N >= n) = P(alive) P(M >= n) E[(1-p)^(n-1)]        M negative binomial
        E[g(N); N > 0] = sum over n >= 1 of P(N >= n) (g(n) - g(n-1)),  g(0) = 0

    The sums stop, history by history, where the rest of E[N | alive] is below 1e-9 of it. The negative binomial is
    carried in logarithms: P(M = 0) underflows for heavy buyers over a long horizon.
    """
    x, t_x, T = checked_history(frequency, recency, age)
    alive = alive_given_chances(parameters, first_and_repeat_chances, x, t_x, T)
    shape = parameters.r + x
    waiting = parameters.alpha + T
    success = weeks / (waiting + weeks)
    log_none = -shape * np.log1p(weeks / waiting)

    n_functions = len(functions(np.ones(1)))
    expectations = np.zeros((n_functions, len(x)))

    rows = np.arange(len(x))
    log_success = np.log(success)
    log_pmf = log_none.copy()
    at_least = -np.expm1(log_none)
    stays = np.ones(len(x))
    purchases = np.zeros(len(x))
    sums = np.zeros((n_functions, len(x)))
    so_far = np.zeros((n_functions, 1))
    n = 0
    while len(rows):
        values = functions(np.arange(n + 1, n + TERMS_PER_LOOK + 1, dtype=np.float64))
        increments = np.diff(values, prepend=so_far)
        so_far = values[:, -1:]
        for step in range(TERMS_PER_LOOK):
            n += 1
            reached = at_least * stays
            sums += increments[:, step, None] * reached
            purchases += reached
            log_pmf += log_success + np.log((shape + (n - 1)) / n)
            at_least = np.maximum(at_least - np.exp(log_pmf), 0)
            stays = stays * (parameters.b + x + n) / (parameters.a + parameters.b + x + n)
        # P(M >= j+1) / P(M >= j) <= ratio for all j > n, so the rest is at most a geometric series.
        ratio = success * np.maximum((shape + n) / (n + 1), 1)
        rest = at_least * stays / np.where(ratio < 1, 1 - ratio, np.nan)
        done = rest <= RELATIVE_TAIL * purchases
        if done.any():
            expectations[:, rows[done]] = sums[:, done]
            keep = ~done
            rows, x, shape, success, log_success = rows[keep], x[keep], shape[keep], success[keep], log_success[keep]
            log_pmf, at_least, stays = log_pmf[keep], at_least[keep], stays[keep]
            purchases, sums = purchases[keep], sums[:, keep]
    return FuturePurchases(
        probability_alive=alive,
        probability_some=-alive * np.expm1(log_none),
        expectations=alive * expectations,
    )
