"""Refits within one materialisation: each is computed once, from events, and shared by all days that it serves."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import polars as pl

from analytics_assets.events.identities import identities_as_of
from analytics_assets.retail.customers.assets import CUSTOMER_IDENTITIES
from analytics_assets.retail.ltv.backtest import Refit, Serving, refit, serving
from analytics_assets.retail.ltv.forecast import NotEnoughHistory
from analytics_assets.retail.ltv.season import Season
from analytics_assets.warehouse.work import Work

_HERE = Path(__file__).parent

# Customers that models are fitted on and tested with. A fit on 50,000 is off by 1 % in its total (forecast.py: 26 % with 30 repeat
# buyers, falling with the root of their number), and a backtest of six cut-offs takes seconds however large the business.
LARGEST_SAMPLE = 50_000
EVERYBODY = "g"


def read_purchases(work: Work, day: date) -> dict[str, pl.DataFrame]:
    """The purchases of at most about 50,000 customers up to the end of a day, by currency, as `backtest.py` takes them.

    `orders` and the `identities` of the window must have been read. Of a day outside the window the identity map is made of the
    records, as it was known at its end, so that its partition of `identities` need not exist.
    """
    if day < work.platform.clock.first_day:
        return {}
    if day in work.days:
        identities = work.sql(CUSTOMER_IDENTITIES, as_of=day).pl()
    else:
        named = pl.col("customer_id").is_in(pl.col("customer_id").filter(pl.col("kind") == "named").implode())
        identities = identities_as_of(work, day).filter(named)
    work.connection.register("customer_identities", identities.to_arrow())
    share = LARGEST_SAMPLE / max(identities["customer_id"].n_unique(), 1)
    below = EVERYBODY if share >= 1 else f"{int(share * 16**6):06x}"
    rows = work.sql(_HERE / "purchases.sql", as_of=day, below=below).pl()
    parts = rows.sort("currency", "customer_id", "day").partition_by("currency", as_dict=True, maintain_order=True)
    return {str(currency): part.drop("currency") for (currency,), part in parts.items()}


class Refits:
    """The refits of all anchors, currencies and horizons that the days of one materialisation ask for."""

    def __init__(self, work: Work) -> None:
        """Begin with none."""
        self.work = work
        self.purchases: dict[date, dict[str, pl.DataFrame]] = {}
        self.made: dict[tuple[date, str, int], Refit | str] = {}

    def at(self, anchor: date, currency: str, horizon_days: int) -> Refit:
        """The refit of an anchor; raises NotEnoughHistory where there is none."""
        if anchor not in self.purchases:
            self.purchases[anchor] = read_purchases(self.work, anchor)
        key = (anchor, currency, horizon_days)
        if key not in self.made:
            try:
                if currency not in self.purchases[anchor]:
                    raise NotEnoughHistory("nobody has bought yet")
                ltv = self.work.settings.ltv
                season = Season(ltv.season)
                self.made[key] = refit(self.purchases[anchor][currency], anchor, horizon_days, ltv.interval_coverage, season)
            except NotEnoughHistory as reason:
                self.made[key] = str(reason)
        found = self.made[key]
        if isinstance(found, str):
            raise NotEnoughHistory(found)
        return found

    def serving(self, day: date, currency: str, horizon_days: int) -> Serving:
        """The refit that serves a day; raises NotEnoughHistory where there is none."""
        return serving(day, lambda anchor: self.at(anchor, currency, horizon_days))
