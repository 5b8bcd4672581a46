"""Gamma-Gamma: what a customer spends per purchase day, shrunk towards the population where little has been seen.

Spend on each purchase day is Gamma(shape p, rate nu), and nu ~ Gamma(shape q, rate v) differs between customers; how
much a customer spends is independent of how often. Source: Fader and Hardie (2013), "The Gamma-Gamma Model of Monetary
Value", note 025, http://www.brucehardie.com/notes/025/ (gamma there is v here).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammaln, psi

from analytics_assets.retail.ltv.bg_nbd import Floats, bounded_maximum

# p, q, and p v / q over the mean spend, so that the bounds hold in any currency. q > 1 is what gives the population a
# mean; where all customers spend alike, q (and v with it) runs off to its upper bound, and where each customer always
# spends the same, p does.
LOWER_BOUNDS = np.array([1e-2, 1.05, 1e-3])
UPPER_BOUNDS = np.array([1e3, 1e3, 1e3])
START = np.array([2.0, 3.0, 1.0])
# log(p, q, v) from log(p, q, p v / q). Along the ridge where v grows with q, the level p v / q stays.
FROM_LEVEL = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [-1.0, 1.0, 1.0]])


@dataclass(frozen=True)
class Parameters:
    """A fitted Gamma-Gamma model; `v` is in the currency of the spend. q is at least 1.05, p and q at most 1000."""

    p: float
    q: float
    v: float
    log_likelihood: float
    customers: int

    @property
    def population_mean(self) -> float:
        """Expected spend per purchase day of a customer of whom nothing is known: p v / (q - 1)."""
        return self.p * self.v / (self.q - 1)


class LogLikelihood:
    """Log-likelihood of mean spends, and its gradient, as a function of log(p, q, v): note 025, equation (1a).

        L = G(pn+q) / (G(pn) G(q)) v^q m^(pn-1) n^(pn) / (v + nm)^(pn+q)

    for a mean m over n purchase days. Gamma functions are computed once per distinct n.
    """

    def __init__(self, purchase_days: Floats, mean_spend: Floats, counts: Floats) -> None:
        """Keep what does not depend on the parameters; one row per customer, or per `counts` customers."""
        self.days, self.total, self.counts = purchase_days, purchase_days * mean_spend, counts
        self.n, place = np.unique(purchase_days, return_inverse=True)
        self.customers_by_n = np.bincount(place, counts)
        self.customers = float(np.sum(counts))
        self.sum_log_mean = float(np.sum(counts * np.log(mean_spend)))
        self.sum_days_log_total = float(np.sum(counts * purchase_days * np.log(self.total)))

    def __call__(self, log_parameters: Floats) -> tuple[float, Floats]:
        """Return the log-likelihood of all customers and its three derivatives by the log-parameters."""
        p, q, v = np.exp(log_parameters)
        n, by_n = self.n, self.customers_by_n
        scale = v + self.total
        log_scale = self.counts * np.log(scale)
        sum_log_scale, sum_days_log_scale = np.sum(log_scale), np.sum(self.days * log_scale)

        value = (
            np.sum(by_n * (gammaln(p * n + q) - gammaln(p * n) - gammaln(q)))
            + self.customers * q * np.log(v)
            + p * self.sum_days_log_total
            - self.sum_log_mean
            - p * sum_days_log_scale
            - q * sum_log_scale
        )
        by_p = np.sum(by_n * n * (psi(p * n + q) - psi(p * n))) + self.sum_days_log_total - sum_days_log_scale
        by_q = np.sum(by_n * (psi(p * n + q) - psi(q))) + self.customers * np.log(v) - sum_log_scale
        by_v = self.customers * q / v - np.sum(self.counts * (p * self.days + q) / scale)
        return float(value), np.array([p * by_p, q * by_q, v * by_v])


def checked_spend(purchase_days: ArrayLike, mean_spend: ArrayLike) -> tuple[Floats, Floats]:
    """Return both columns as equally long float arrays, one row per customer; ValueError unless all are positive."""
    n, m = (np.atleast_1d(np.asarray(column, dtype=np.float64)) for column in (purchase_days, mean_spend))
    if n.shape != m.shape or n.ndim != 1:
        raise ValueError(f"purchase_days and mean_spend must have one length, not {n.shape} and {m.shape}")
    if not np.all(np.isfinite(n) & (n > 0) & np.isfinite(m) & (m > 0)):
        raise ValueError("purchase_days and mean_spend must be finite and positive")
    return n, m


def fit(purchase_days: ArrayLike, mean_spend: ArrayLike, counts: ArrayLike | None = None) -> Parameters:
    """Fit by maximum likelihood: n purchase days with a mean spend m per day, one row per customer (or `counts`).

    Neither the order of the rows matters, to the last bit, nor the currency. p, q and the level of spend are bounded.
    Raises ValueError for values that are not positive, no customers, and if the fit does not converge.
    """
    n, m = checked_spend(purchase_days, mean_spend)
    if len(n) == 0:
        raise ValueError("no customers with spend to fit")
    weights = np.ones(len(n)) if counts is None else np.atleast_1d(np.asarray(counts, dtype=np.float64))
    if weights.shape != n.shape or not np.all(np.isfinite(weights) & (weights > 0)):
        raise ValueError("counts must be positive, one for each row")
    # Sums over doubles depend on their order.
    order = np.lexsort((weights, m, n))
    n, m, weights = n[order], m[order], weights[order]
    unit = float(np.average(m, weights=weights))
    log_likelihood = LogLikelihood(n, m / unit, weights)
    customers = log_likelihood.customers

    def by_level(log_level: Floats) -> tuple[float, Floats]:
        value, gradient = log_likelihood(FROM_LEVEL @ log_level)
        return value, gradient @ FROM_LEVEL

    fitted, maximum = bounded_maximum(by_level, customers, START, LOWER_BOUNDS, UPPER_BOUNDS)
    p, q, v = (float(value) for value in np.exp(FROM_LEVEL @ np.log(fitted)))
    # The density of m is that of m / unit, over unit.
    return Parameters(
        p=p,
        q=q,
        v=v * unit,
        log_likelihood=maximum - customers * float(np.log(unit)),
        customers=round(customers),
    )


def posterior(parameters: Parameters, purchase_days: ArrayLike, mean_spend: ArrayLike) -> tuple[Floats, Floats]:
    """Return shape Q = q + p n and rate V = v + n m of each customer's nu; n = 0 leaves the population's q and v.

    Where n is 0 the mean is not looked at and may be NaN. One row per customer.
    """
    n, m = (np.asarray(column, dtype=np.float64) for column in (purchase_days, mean_spend))
    total = np.where(n > 0, n * m, 0.0)
    return parameters.q + parameters.p * n, parameters.v + total


def expected_mean_spend(parameters: Parameters, purchase_days: ArrayLike, mean_spend: ArrayLike) -> Floats:
    """Expected spend per future purchase day, given n days with mean m: note 025, equation (5). n = 0: population."""
    shape, rate = posterior(parameters, purchase_days, mean_spend)
    return parameters.p * rate / (shape - 1)
