"""How long accounts will still pay: the shifted beta-geometric over the renewals of their contracts.

Contracts of one length are one cohort (months or years are not mixed). Most are still running: they tell that they survived so many
renewals, and the likelihood takes them as that.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from analytics_assets.retail.ltv.shifted_beta_geometric import Parameters, fit_contracts, survival

# Beyond that nobody's contracts tell anything, and for alpha <= 1 the expected lifetime is infinite.
FURTHEST_MONTHS = 60
FEWEST_CONTRACTS = 50
FEWEST_ENDED = 5


def fit_by_length(contracts: pl.DataFrame) -> dict[float, Parameters]:
    """Fit each length of contract, in months, that enough contracts have.

    Args:
        contracts: one row per paid contract: `months`, `bills` (the first included) and `ended_on` (NULL while it runs).
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    found = {}
    for (months,), rows in contracts.partition_by("months", as_dict=True, maintain_order=True).items():
        # The t-th decision to renew comes after the t-th bill: who ended after t bills was lost at it, who runs has survived t - 1.
        bills = rows["bills"].cast(pl.Int64).to_numpy()
        ended = rows["ended_on"].is_not_null().to_numpy()
        lost = np.bincount(bills[ended], minlength=bills.max() + 1)[1:]
        running = np.bincount(bills[~ended] - 1, minlength=bills.max() + 1)
        if rows.height >= FEWEST_CONTRACTS and ended.sum() >= FEWEST_ENDED:
            # Its matrices are two by two: threads cost more than they save.
            with threadpool_limits(limits=1):
                found[float(months)] = fit_contracts(lost, running)
    return found


def expected_months(parameters: Parameters, months: float, renewals: np.ndarray) -> np.ndarray:
    """Months that accounts are expected to pay for after the present bill, of the next 60, one per number of renewals so far.

    The sum of S(n + k) / S(n) over the coming renewals k.
    """
    periods = int(FURTHEST_MONTHS // months)
    ahead = renewals[:, None] + np.arange(1, periods + 1)[None, :]
    stays = survival(parameters, ahead.ravel()).reshape(ahead.shape) / survival(parameters, renewals)[:, None]
    return np.round(months * stays.sum(axis=1), 4)
