"""The forecast beside a simulated company whose next 365 days are known."""

from datetime import UTC, date, datetime

import polars as pl
import pytest

from analytics_assets.retail.ltv.assets import forecast_day
from analytics_assets.settings import Ltv
from analytics_assets.simulation.retailer import Retailer, simulate

FIRST, LAST = date(2025, 11, 1), date(2026, 3, 31)


@pytest.fixture(scope="module", params=[1, 2, 3])
def forecast_and_truth(request) -> pl.DataFrame:
    """One row per customer: the forecast at the end of the last day, and what came true."""
    company = simulate(Retailer(customers=27_000, first_day=FIRST, last_day=LAST, time_zone="UTC", seed=request.param))
    people = company.identities.with_row_index("number").with_columns(pl.col("number").cast(pl.Int64))
    orders = (
        company.transactions.join(people, left_on="identity", right_on="number")
        .filter("named")
        .with_columns(day=pl.from_epoch("at").dt.date(), total=pl.col("total_pence").cast(pl.Decimal(18, 2)) / 100)
        .filter(pl.col("at") < datetime(2026, 4, 1, tzinfo=UTC).timestamp())
    )
    bought = (
        orders.filter(~pl.col("refund"))
        .group_by(customer_id="identity_right")
        .agg(
            orders=pl.len().cast(pl.Int64),
            purchase_days=pl.col("day").n_unique(),
            first=pl.col("day").min(),
            last=pl.col("day").max(),
        )
    )
    revenue = orders.group_by(customer_id="identity_right").agg(net_revenue=pl.col("total").sum().cast(pl.Decimal(18, 2)))
    summary = (
        bought.join(revenue, on="customer_id")
        .with_columns(
            currency=pl.lit("GBP"),
            recency_days=(pl.col("last") - pl.col("first")).dt.total_days(),
            age_days=(pl.lit(LAST) - pl.col("first")).dt.total_days(),
        )
        .sort("customer_id")
    )
    rows, _ = forecast_day(summary, LAST, Ltv(horizon_days=365))
    return rows.join(company.customers, on="customer_id", suffix="_true")


def test_expected_orders_of_the_next_year_are_within_ten_percent_of_what_came_true(forecast_and_truth: pl.DataFrame) -> None:
    """The size of the company that `make run` simulates; a fit on a third of it scatters by about 4 %."""
    found = forecast_and_truth
    assert float(found["expected_orders"].sum()) == pytest.approx(found["holdout_orders"].sum(), rel=0.10)


def test_about_eight_of_ten_customers_end_up_inside_their_interval(forecast_and_truth: pl.DataFrame) -> None:
    """The interval knows chance but not the doubt about the fit, which cost two points more at 8,000 customers."""
    pence = pl.col("holdout_spend_pence")
    low, high = (pl.col(f"expected_revenue_{end}").cast(pl.Float64) * 100 for end in ("low", "high"))
    inside = forecast_and_truth.select(((pence >= low - 0.5) & (pence <= high + 0.5)).mean()).item()
    assert 0.78 <= inside <= 0.85


def test_customers_ranked_in_the_best_tenth_bring_several_times_their_share(forecast_and_truth: pl.DataFrame) -> None:
    ranked = forecast_and_truth.sort("expected_revenue", descending=True)
    best = ranked.head(len(ranked) // 10)
    assert best["holdout_spend_pence"].sum() > 2.5 * ranked["holdout_spend_pence"].sum() / 10
