"""Shifted beta-geometric (sBG): who stays, where customers renew a contract each period and it is seen when they do not.

Each customer fails to renew with probability theta in every period, theta ~ Beta(alpha, beta). Source: Fader and Hardie
(2007), "How to Project Customer Retention", Journal of Interactive Marketing 21(1). For subscriptions; a shop, which is
never told that a customer has left, is forecast by `bg_nbd.py`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaln, psi

from analytics_assets.retail.ltv.bg_nbd import Floats, bounded_maximum

LOWER_BOUNDS = np.array([1e-3, 1e-3])
# Where all leave at one rate, alpha and beta run off together; at 1e4 the rate differs by 0.5 % between customers.
UPPER_BOUNDS = np.array([1e4, 1e4])
START = np.array([1.0, 1.0])


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

    def log_likelihood(log_parameters: Floats) -> tuple[float, Floats]:
        """Equation (B3): P(T = t) = B(alpha+1, beta+t-1) / B(alpha, beta), S(t) = B(alpha, beta+t) / B(alpha, beta)."""
        alpha, beta = np.exp(log_parameters)
        total_lost, total_left = psi(alpha + beta + period), psi(alpha + beta + survived)
        value = np.sum(gone * betaln(alpha + 1, beta + period - 1)) + np.sum(left * betaln(alpha, beta + survived))
        by_alpha = np.sum(gone * (psi(alpha + 1) - total_lost)) + np.sum(left * (psi(alpha) - total_left))
        by_beta = np.sum(gone * (psi(beta + period - 1) - total_lost)) + np.sum(left * (psi(beta + survived) - total_left))
        at_start = contracts * (np.array([psi(alpha), psi(beta)]) - psi(alpha + beta))
        gradient = (np.array([by_alpha, by_beta]) - at_start) * np.array([alpha, beta])
        return float(value - contracts * betaln(alpha, beta)), gradient

    fitted, maximum = bounded_maximum(log_likelihood, contracts, START, LOWER_BOUNDS, UPPER_BOUNDS)
    return Parameters(float(fitted[0]), float(fitted[1]), maximum, contracts)


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
