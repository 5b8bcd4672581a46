"""What is sent back later by somebody who buys nothing more: their net revenue is below nothing, where no interval reaches.

A return follows a purchase within days or weeks, so what counts is the time since the last one. Of all spells without a purchase, the
days with a return are counted by the day of the spell, over the spells that were seen that far (the hazard of censored times: Nelson
1972, "Theory and applications of hazard plotting for censored failure data", Technometrics 14).

Of simulated shops, 1.2 to 2.0 % of the customers of a young one brought less than nothing in the next 30 to 90 days, and intervals
that did not know of it held as many fewer than they stated.
"""

from collections.abc import Sequence
from datetime import date

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analytics_assets.retail.ltv.bg_nbd import Floats


def return_rates(purchases: pl.DataFrame, day: date) -> tuple[float, ...]:
    """Days with a return, for each customer and day without a purchase, 1, 2, ... days after the last one; as seen by the end of `day`.

    `purchases` as in `backtest.py`.
    """
    bought = pl.when("purchase").then("day")
    seen = (
        purchases.filter(pl.col("day") <= day)
        .sort("customer_id", "day")
        .select(
            "purchase",
            returned=~pl.col("purchase") & (pl.col("net_revenue") < 0),
            since=(pl.col("day") - bought.forward_fill().over("customer_id")).dt.total_days(),
            seen=(
                bought.shift(-1).backward_fill().over("customer_id").dt.offset_by("-1d").fill_null(day) - pl.col("day")
            ).dt.total_days(),
        )
    )
    spells = np.bincount(seen.filter("purchase")["seen"].to_numpy())
    returns = np.bincount(seen.filter("returned")["since"].drop_nulls().to_numpy(), minlength=len(spells))
    at_risk = np.cumsum(spells[::-1])[::-1]
    return tuple((returns[1:] / at_risk[1:]).tolist())


def probability_of_return(rates: Sequence[float], days_since: NDArray[np.int64], horizon_days: int) -> Floats:
    """Probability that something is sent back within the horizon by a customer who buys nothing in it, by days since the last purchase."""
    until = np.concatenate(([0.0], np.cumsum(rates)))
    reached = [until[np.minimum(days, len(rates))] for days in (days_since, days_since + horizon_days)]
    return -np.expm1(reached[0] - reached[1])
