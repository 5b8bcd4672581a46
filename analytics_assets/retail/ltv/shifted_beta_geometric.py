"""Shifted beta-geometric (sBG): who stays, where customers renew a contract each period and it is seen when they do not.

Each customer fails to renew with probability theta in every period, theta ~ Beta(alpha, beta). Source: Fader and Hardie
(2007), "How to Project Customer Retention", Journal of Interactive Marketing 21(1). For subscriptions; a shop, which is
never told that a customer has left, is forecast by `bg_nbd.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaln, expit, psi

from analytics_assets.retail.ltv.bg_nbd import Floats

# A sum a decade. Where all leave at one rate, alpha and beta run off together; at 1e4 the rate differs by 0.5 % between customers.
LOG_SUMS = np.log(np.geomspace(1e-3, 1e4, 8))
LARGEST_LOG_ODDS = 15.0
DIGITS = 6
"""Of alpha and beta: what follows of the fit depends on how a processor rounds."""


@dataclass(frozen=True)
class Parameters:
    """A fitted sBG model: the share that fails to renew the first time is alpha / (alpha + beta)."""

    alpha: float
    beta: float
    log_likelihood: float
    customers: float


def fit(customers: ArrayLike) -> Parameters:
    """Fit by maximum likelihood: `customers` are the cohort's size at the start and after each period, in that order.

    Raises ValueError unless there are at least two sizes, finite, positive at the start, never growing, and some left.
    """
    sizes = np.asarray(customers, dtype=np.float64)
    if sizes.ndim != 1 or len(sizes) < 2 or not np.all(np.isfinite(sizes)) or sizes[0] <= 0:
        raise ValueError("a cohort needs its size at the start, above 0, and after at least one period")
    if np.any(np.diff(sizes) > 0) or sizes[-1] < 0 or sizes[-1] == sizes[0]:
        raise ValueError("a cohort's size must fall, never grow, and not below 0")
    still_there = np.zeros(len(sizes))
    still_there[-1] = sizes[-1]
    return fit_contracts(-np.diff(sizes), still_there)


def fit_contracts(lost: ArrayLike, still_there: ArrayLike) -> Parameters:
    """Fit contracts that began at different times, of which some still run.

    `lost[t - 1]` contracts were not renewed at the t-th renewal; `still_there[t]` were last seen after t renewals, from t = 0 on: one
    entry more. Raises ValueError where nobody was lost.
    """
    gone, left = np.asarray(lost, dtype=np.float64), np.asarray(still_there, dtype=np.float64)
    if gone.ndim != 1 or len(left) != len(gone) + 1 or np.sum(gone) <= 0:
        raise ValueError("contracts need a renewal at which some were lost, and the number of those left after each")
    period, survived = np.arange(1, len(gone) + 1), np.arange(len(left))
    contracts = float(np.sum(gone) + np.sum(left))

    def likelihood(log_odds: float, log_sum: float) -> tuple[float, float, float]:
        """Equation (B3) and its slopes: P(T = t) = B(alpha+1, beta+t-1) / B(alpha, beta), S(t) = B(alpha, beta+t) / B(alpha, beta)."""
        share, total = expit(log_odds), np.exp(log_sum)
        alpha, beta = total * share, total * (1 - share)
        value = np.sum(gone * betaln(alpha + 1, beta + period - 1)) + np.sum(left * betaln(alpha, beta + survived))
        by_total = np.sum(gone * psi(total + period)) + np.sum(left * psi(total + survived)) - contracts * psi(total)
        by_alpha = np.sum(gone) * psi(alpha + 1) + np.sum(left) * psi(alpha) - contracts * psi(alpha) - by_total
        by_beta = np.sum(gone * psi(beta + period - 1)) + np.sum(left * psi(beta + survived)) - contracts * psi(beta) - by_total
        by_odds = (by_alpha - by_beta) * total * share * (1 - share)
        return float(value - contracts * betaln(alpha, beta)), float(by_odds), float(by_alpha * alpha + by_beta * beta)

    def best_odds(log_sum: float) -> float:
        return _top(lambda log_odds: likelihood(log_odds, log_sum)[1], -LARGEST_LOG_ODDS, LARGEST_LOG_ODDS)

    # Likelihoods have a ridge along alpha + beta: the top is looked for along it, and a slope tells it where values differ by rounding only.
    heights = [likelihood(best_odds(log_sum), log_sum)[0] for log_sum in LOG_SUMS]
    highest = int(np.argmax(heights))
    around = LOG_SUMS[max(highest - 1, 0)], LOG_SUMS[min(highest + 1, len(LOG_SUMS) - 1)]
    log_sum = _top(lambda at: likelihood(best_odds(at), at)[2], *around)
    log_odds = best_odds(log_sum)
    alpha, beta = (float(f"{np.exp(log_sum) * expit(odds):.{DIGITS}g}") for odds in (log_odds, -log_odds))
    return Parameters(alpha, beta, likelihood(log_odds, log_sum)[0], contracts)


def _top(slope: Callable[[float], float], low: float, high: float) -> float:
    """Where a function of one top has it, between two bounds: where its slope is 0, or the bound that it rises to."""
    from scipy.optimize import brentq

    if slope(low) <= 0:
        return low
    return high if slope(high) >= 0 else float(brentq(slope, low, high, xtol=1e-11, rtol=1e-12))


def survival(parameters: Parameters, periods: ArrayLike) -> Floats:
    """Share of the cohort that is still there after so many periods (1 after 0)."""
    t = np.atleast_1d(np.asarray(periods, dtype=np.float64))
    return np.exp(betaln(parameters.alpha, parameters.beta + t) - betaln(parameters.alpha, parameters.beta))


def retention(parameters: Parameters, periods: ArrayLike) -> Floats:
    """Share of those there after t - 1 periods who renew at the t-th: equation (8), (beta+t-1) / (alpha+beta+t-1).

    It rises with t though nobody becomes more loyal: those who leave easily have left.
    """
    t = np.atleast_1d(np.asarray(periods, dtype=np.float64))
    return (parameters.beta + t - 1) / (parameters.alpha + parameters.beta + t - 1)
