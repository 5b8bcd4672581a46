"""How many purchase days a horizon may bring, count by count, to customers who are alive now; laws and notation of `bg_nbd.py`."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analytics_assets.retail.ltv.bg_nbd import Floats, Parameters

# What is left out beyond the largest count, relative to E[N].
RELATIVE_TAIL = 1e-9
# Counts between two looks at which histories are finished.
COUNTS_PER_LOOK = 8


@dataclass(frozen=True)
class FuturePurchases:
    """P(N = n) of each history that is alive now: one row per history and count n = 1, 2, ..., ascending in each history.

    `history` is the place of the history, of `histories`. The last count of a history stands for that many or more.
    """

    histories: int
    history: NDArray[np.intp]
    count: Floats
    probability: Floats

    def expectation(self, values: Floats | float = 1.0) -> Floats:
        """E[g(N); N > 0] of each history, `values` being g(n) of each row; of 1: the probability of any purchase."""
        return np.bincount(self.history, self.probability * values, self.histories).astype(np.float64)


def future_purchases(parameters: Parameters, weeks: float, frequency: Floats, age: Floats) -> FuturePurchases:
    """Purchase days in the next `weeks` of customers who are alive now; recency no longer matters. One history per row, unchecked.

    N = min(M, G): M purchases would fall into the horizon, and the G-th is the last. The posteriors are
    lambda ~ Gamma(r + x, alpha + T) and p ~ Beta(a, b + k), independent, so

        P(N >= n) = P(M >= n) E[(1-p)^(n-1)]        M negative binomial

    The counts stop, history by history, where the rest of E[N] is below 1e-9 of it. The negative binomial is carried in
    logarithms: P(M = 0) underflows for heavy buyers over a long horizon.
    """
    shape, waiting, chances = parameters.r + frequency, parameters.alpha + age, parameters.chances(frequency)
    success = weeks / (waiting + weeks)
    log_success = np.log(success)
    log_pmf = -shape * np.log1p(weeks / waiting)
    at_least = -np.expm1(log_pmf)
    stays = np.ones(len(frequency))
    purchases = np.zeros(len(frequency))
    rows = np.arange(len(frequency))
    found: list[tuple[NDArray[np.intp], float, Floats]] = []
    still = np.ones(len(rows), dtype=bool)
    n = 0
    while len(rows):
        for _ in range(COUNTS_PER_LOOK):
            n += 1
            reached = at_least * stays
            if found:
                found[-1][2][still] -= reached
            found.append((rows, float(n), reached))
            still = np.ones(len(rows), dtype=bool)
            purchases += reached
            log_pmf += log_success + np.log((shape + (n - 1)) / n)
            at_least = np.maximum(at_least - np.exp(log_pmf), 0)
            stays = stays * (parameters.b + chances + n - 1) / (parameters.a + parameters.b + chances + n - 1)
        # P(M >= j+1) / P(M >= j) <= ratio for all j > n, so the rest is at most a geometric series.
        ratio = success * np.maximum((shape + n) / (n + 1), 1)
        rest = at_least * stays / np.where(ratio < 1, 1 - ratio, np.nan)
        still = ~(rest <= RELATIVE_TAIL * purchases)
        rows = rows[still]
        shape, chances, success, log_success, log_pmf, at_least, stays, purchases = (
            column[still] for column in (shape, chances, success, log_success, log_pmf, at_least, stays, purchases)
        )
    if not found:
        return FuturePurchases(0, rows, np.zeros(0), np.zeros(0))
    return FuturePurchases(
        histories=len(frequency),
        history=np.concatenate([rows for rows, _, _ in found]),
        count=np.concatenate([np.full(len(rows), n) for rows, n, _ in found]),
        probability=np.concatenate([probability for _, _, probability in found]),
    )
