"""Pareto/NBD: how often customers buy, where each may leave at any moment and not only after a purchase.

While alive a customer buys as a Poisson process with rate lambda ~ Gamma(r, alpha), and leaves at rate mu ~ Gamma(s, beta).
Sources: Schmittlein, Morrison and Colombo (1987), "Counting Your Customers: Who Are They and What Will They Do Next?",
Management Science 33(1); Fader and Hardie (2005), "A Note on Deriving the Pareto/NBD Model and Related Expressions",
http://www.brucehardie.com/notes/009/, cited below as note 009. Histories and units (weeks) are those of `bg_nbd.py`.

The published reference beside MBG/NBD, which makes most forecasts: on the CDNOW sample its likelihood is 13 lower (-9595.0
and -9582.1), and a likelihood costs an integral per history.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import exprel, gammaln, logsumexp, psi

from analytics_assets.retail.ltv.bg_nbd import Floats, Histories, bounded_maximum, checked_history, distinct_histories

# r, alpha (weeks), s, beta (weeks).
LOWER_BOUNDS = np.array([1e-3, 1e-2, 1e-3, 1e-2])
UPPER_BOUNDS = np.array([1e2, 1e5, 1e2, 1e5])
START = np.array([1.0, 10.0, 1.0, 10.0])
# Over log(time) the integrand falls like exp(-(r + s + x) u). With 48 nodes the likelihood of 200 purchases followed by
# silence twice as long as all before agrees with adaptive quadrature to 1e-9.
NODES, WEIGHTS = np.polynomial.legendre.leggauss(48)


@dataclass(frozen=True)
class Parameters:
    """A fitted Pareto/NBD model; `alpha` and `beta` are in weeks."""

    r: float
    alpha: float
    s: float
    beta: float
    log_likelihood: float
    customers: int


class LogLikelihood:
    """Log-likelihood of distinct histories, and its gradient, as a function of log(r, alpha, s, beta).

    Note 009, equation (15), before its integral is written as two 2F1:

        L = G(r+x) / G(r) alpha^r beta^s [(alpha+T)^-(r+x) (beta+T)^-s
            + s integral from t_x to T of (alpha+u)^-(r+x) (beta+u)^-(s+1) du]

    The 2F1 cancel against each other for heavy buyers; the integral, by Gauss-Legendre over log(alpha + beta + u), has
    positive terms only and is kept in logarithms.
    """

    def __init__(self, histories: Histories) -> None:
        """Keep the histories."""
        self.histories = histories

    def terms(self, log_parameters: Floats) -> tuple[Floats, Floats]:
        """Return times u and the logarithms of the bracket's terms: first T (still alive), then when each may have left.

        Both have one row per history and 1 + 48 columns.
        """
        r, alpha, s, beta = np.exp(log_parameters)
        x, t_x, T = (column[:, None] for column in (self.histories.frequency, self.histories.recency, self.histories.age))
        low, high = np.log(alpha + beta + t_x), np.log(alpha + beta + T)
        half = (high - low) / 2
        shifted = low + half * (1 + NODES)
        times = np.exp(shifted) - alpha - beta
        with np.errstate(divide="ignore"):
            width = np.log(half * WEIGHTS) + shifted
        left = np.log(s) + width - (r + x) * np.log(alpha + times) - (s + 1) * np.log(beta + times)
        alive = -(r + x) * np.log(alpha + T) - s * np.log(beta + T)
        return np.hstack((T, times)), np.hstack((alive, left))

    def __call__(self, log_parameters: Floats) -> tuple[float, Floats]:
        """Return the log-likelihood of all customers and its four derivatives by the log-parameters."""
        r, alpha, s, beta = np.exp(log_parameters)
        counts, x = self.histories.counts, self.histories.frequency
        times, logs = self.terms(log_parameters)
        bracket = logsumexp(logs, axis=1)
        share = np.exp(logs - bracket[:, None])
        has_left = np.concatenate(([0.0], np.ones(len(NODES))))
        value = np.sum(counts * (gammaln(r + x) - gammaln(r) + r * np.log(alpha) + s * np.log(beta) + bracket))

        def mean(values: Floats) -> Floats:
            return np.sum(share * values, axis=1)

        by_r = psi(r + x) - psi(r) + np.log(alpha) - mean(np.log(alpha + times))
        by_alpha = r / alpha - (r + x) * mean(1 / (alpha + times))
        by_s = np.log(beta) + mean(has_left / s - np.log(beta + times))
        by_beta = s / beta - mean((s + has_left) / (beta + times))
        gradient = [np.sum(counts * by) for by in (r * by_r, alpha * by_alpha, s * by_s, beta * by_beta)]
        return float(value), np.array(gradient)


def fit(frequency: ArrayLike, recency: ArrayLike, age: ArrayLike, counts: ArrayLike | None = None) -> Parameters:
    """Fit Pareto/NBD by maximum likelihood; rows and errors are those of `bg_nbd.fit`."""
    histories = distinct_histories(frequency, recency, age, counts)
    customers = float(np.sum(histories.counts))
    fitted, maximum = bounded_maximum(LogLikelihood(histories), customers, START, LOWER_BOUNDS, UPPER_BOUNDS)
    r, alpha, s, beta = (float(value) for value in fitted)
    return Parameters(r, alpha, s, beta, log_likelihood=maximum, customers=round(customers))


def probability_alive(parameters: Parameters, frequency: ArrayLike, recency: ArrayLike, age: ArrayLike) -> Floats:
    """Probability that each customer has not left by now (note 009, equation 18). One row per customer."""
    x, t_x, T = checked_history(frequency, recency, age)
    at = np.log([parameters.r, parameters.alpha, parameters.s, parameters.beta])
    _, logs = LogLikelihood(Histories(x, t_x, T, np.ones(len(x)))).terms(at)
    return np.exp(logs[:, 0] - logsumexp(logs, axis=1))


def expected_purchases(parameters: Parameters, weeks: float, frequency: ArrayLike, recency: ArrayLike, age: ArrayLike) -> Floats:
    """Expected purchase days in the next `weeks`, given the history (note 009, equation 41). One row per customer."""
    x, t_x, T = checked_history(frequency, recency, age)
    rate = (parameters.r + x) / (parameters.alpha + T)
    return probability_alive(parameters, x, t_x, T) * rate * _weeks_alive(parameters.s, parameters.beta + T, weeks)


def unconditional_purchases(parameters: Parameters, weeks: ArrayLike) -> Floats:
    """Expected repeat purchase days of a new customer within `weeks` of the first purchase (note 009, equation 25)."""
    horizons = np.atleast_1d(np.asarray(weeks, dtype=np.float64))
    return parameters.r / parameters.alpha * _weeks_alive(parameters.s, np.full(len(horizons), parameters.beta), horizons)


def _weeks_alive(s: float, beta: Floats, weeks: ArrayLike) -> Floats:
    """Expected weeks within the next `weeks` until leaving at rate mu ~ Gamma(s, beta): beta / (s-1) [1 - (beta / (beta+t))^(s-1)]."""
    log_growth = np.log1p(np.asarray(weeks) / beta)
    return beta * log_growth * exprel(-(s - 1) * log_growth)
