"""How long accounts will still pay: what the churn model says of the horizon, then the shifted beta-geometric over renewals.

Contracts of one length are one cohort (months or years are not mixed). Most are still running: they tell that they survived so many
renewals, and the likelihood takes them as that.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from analytics_assets.retail.ltv.shifted_beta_geometric import Parameters, fit_contracts, survival

# Beyond that nobody's contracts tell anything, and for alpha <= 1 the expected lifetime is infinite.
FURTHEST_MONTHS = 60
DAYS_OF_A_MONTH = 365.25 / 12
FEWEST_CONTRACTS = 50
FEWEST_ENDED = 5


def fit_by_length(contracts: pl.DataFrame) -> dict[float, Parameters]:
    """Fit each length of contract, in months, that enough contracts have.

    Args:
        contracts: one row per paid contract: `months`, `bills` (the first included) and `ended_on` (NULL while it runs).
    """
    found = {}
    for (months,), rows in contracts.partition_by("months", as_dict=True, maintain_order=True).items():
        # The t-th decision to renew comes after the t-th bill: who ended after t bills was lost at it, who runs has survived t - 1.
        bills = rows["bills"].cast(pl.Int64).to_numpy()
        ended = rows["ended_on"].is_not_null().to_numpy()
        lost = np.bincount(bills[ended], minlength=bills.max() + 1)[1:]
        running = np.bincount(bills[~ended] - 1, minlength=bills.max() + 1)
        if rows.height >= FEWEST_CONTRACTS and ended.sum() >= FEWEST_ENDED:
            found[float(months)] = fit_contracts(lost, running)
    return found


def expected_months(
    parameters: Parameters, months: float, renewals: np.ndarray, stays: np.ndarray | None = None, due: np.ndarray | None = None
) -> np.ndarray:
    """Months that accounts are expected to pay for after the present bill, of the next 60: one per account.

    Args:
        parameters: of contracts of this length.
        months: the length.
        renewals: how many each has had.
        stays: the probability that it is still there after the horizon of a churn model, which knows it better than its
            cohort does; none: 1, the cohort alone.
        due: how many renewals fall into that horizon; none: 0.

    The sum over the coming renewals k of stays S(n + k) / S(n + due); of those within the horizon each takes its part of `stays`.
    """
    periods = int(FURTHEST_MONTHS // months)
    stays = np.ones(len(renewals)) if stays is None else stays
    due = np.zeros(len(renewals), dtype=np.int64) if due is None else due
    k = np.arange(1, periods + 1)[None, :]
    ahead = renewals[:, None] + k
    cohort = survival(parameters, ahead.ravel()).reshape(ahead.shape) / survival(parameters, renewals + due)[:, None]
    within = stays[:, None] ** (k / np.maximum(due, 1)[:, None])
    return np.round(months * np.where(k < due[:, None], within, stays[:, None] * cohort).sum(axis=1), 4)


def renewals_due(days_to_renewal: np.ndarray, months: float, horizon_days: int) -> np.ndarray:
    """How many renewals fall into a horizon, from the days until the time that is paid for ends (in the days of grace: below 0)."""
    later = horizon_days - np.maximum(days_to_renewal, 0)
    return np.where(later < 0, 0, 1 + later // (months * DAYS_OF_A_MONTH)).astype(np.int64)
