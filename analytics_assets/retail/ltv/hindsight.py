"""Daily `ltv_hindsight`: what the forecast of lifetime value would have said 30, 60 and 90 days ago, and what came true."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pyarrow as pa

from analytics_assets.events.tables import IDENTITIES
from analytics_assets.retail.ltv.backtest import Serving, came_true, covered, known_at, scored
from analytics_assets.retail.ltv.forecast import NotEnoughHistory
from analytics_assets.retail.ltv.refits import Refits, read_purchases
from analytics_assets.retail.orders.assets import ORDERS
from analytics_assets.warehouse.assets import Audit, table_asset
from analytics_assets.warehouse.inputs import Needs
from analytics_assets.warehouse.tables import Column, Table
from analytics_assets.warehouse.work import Platform, Work

DAYS_AGO = (30, 60, 90)

LTV_HINDSIGHT = Table(
    name="ltv_hindsight",
    rows_are="day, currency and days ago",
    columns=(
        Column("as_of_date", "DATE", "Business day at whose end it is known what came true."),
        Column("currency", "VARCHAR", "Currency of the amounts."),
        Column("days_ago", "BIGINT", "How long before that the forecast is made: 30, 60 or 90.", "days"),
        Column("horizon_days", "BIGINT", "How far that forecast looks: up to as_of_date.", "days"),
        Column("customers", "BIGINT", "Customers who had bought by then, in a sample of at most about 50,000.", "customers"),
        Column("expected_orders", "DOUBLE", "Days with an order that were expected of them.", "orders"),
        Column("actual_orders", "BIGINT", "Days with an order that there were.", "orders"),
        Column("expected_revenue", "DECIMAL(18,2)", "Net revenue that was expected of them.", "currency"),
        Column("actual_revenue", "DECIMAL(18,2)", "Net revenue that they brought.", "currency"),
        Column("bias", "DOUBLE", "Expected over actual revenue, less 1: negative is too low.", "-1 to infinity", nullable=True),
        Column("mae", "DOUBLE", "Mean absolute error of a customer's revenue.", "currency"),
        Column("coverage", "DOUBLE", "Share of customers who ended up inside their interval.", "0 to 1"),
        Column("stated_coverage", "DOUBLE", "What the intervals had said of that share.", "0 to 1", nullable=True),
        Column(
            "best_tenth_expected",
            "DOUBLE",
            "Share of expected revenue in the tenth of customers expected to bring most.",
            "0 to 1",
        ),
        Column("best_tenth_actual", "DOUBLE", "Share of actual revenue that these customers brought.", "0 to 1", nullable=True),
        Column(
            "model",
            "VARCHAR",
            "What would have made the forecast: of a refit of the first of a month, or where none could be tested yet, of a Monday or that day.",
        ),
    ),
    key=("as_of_date", "currency", "days_ago"),
    grain="day",
    partition_column="as_of_date",
    schema_version=2,
)


def looked_back(purchases: pl.DataFrame, day: date, days_ago: int, served: Serving, coverage: float) -> dict[str, Any]:
    """One row: what `served`, the refit of `days_ago` before `day`, says of the days since, beside what came true.

    `purchases` as in `backtest.py`, up to the end of `day`; undiscounted. What is past is known as of the earlier day; who is who,
    as of `day`: what a customer did under a name that was tied later counts as theirs.
    """
    cut_off = day - timedelta(days=days_ago)
    known = known_at(purchases, cut_off)
    later = came_true(purchases, known, cut_off, days_ago)
    found, _ = scored(served.refit, known, cut_off, days_ago, 0.0, coverage)
    actual, expected = later["revenue"].to_numpy(), found.expected_revenue
    total, said = float(np.sum(actual)), float(np.sum(expected))
    best = np.argsort(-expected, kind="stable")[: -(-len(expected) // 10)]
    return {
        "days_ago": days_ago,
        "horizon_days": days_ago,
        "customers": len(known),
        "expected_orders": round(float(np.sum(found.expected_orders)), 3),
        "actual_orders": round(float(later["orders"].sum())),
        "expected_revenue": Decimal(f"{said:.2f}"),
        "actual_revenue": Decimal(f"{total:.2f}"),
        "bias": round(said / total - 1, 6) if total > 0 else None,
        "mae": round(float(np.mean(np.abs(actual - expected))), 4),
        "coverage": round(covered(found, actual), 6),
        "stated_coverage": round(float(np.mean(found.interval_probability)), 6),
        "best_tenth_expected": round(float(np.sum(expected[best])) / said, 6),
        "best_tenth_actual": round(float(np.sum(actual[best])) / total, 6) if total > 0 else None,
        "model": f"{served.refit.candidate}, refit of {served.refit.anchor}",
    }


def ltv_hindsight(work: Work) -> Mapping[str, pa.Table]:
    """The page of honesty: what the forecast would have said 30, 60 and 90 days ago, and what has come true since.

    The method is that of `customer_ltv`, with what was known on the earlier day: the refit that would have served it, and the
    purchases up to it. Nothing is taken from what was published then, so that a backfill tells the same.

    Read `bias` first: how far the total was off (-0.10: a tenth too low). Then `coverage` beside
    `stated_coverage`, what the intervals stated: `[ltv] interval_coverage`, or more, as an interval from 0 to 0 states how likely the
    customer is to buy nothing. What all customers have in common moves a single day: for each 10 % by which the total came out higher
    than expected, about two in a hundred more lie outside; the check `intervals_held` warns where it is more than five. Then the best
    tenth: whether those expected to bring most did. A day too early to look back from has no row.
    """
    work.read(ORDERS, f"order_date <= '{work.window.last_day}'", in_memory=True)
    as_of = f"as_of_date >= '{work.window.first_day}' AND as_of_date <= '{work.window.last_day}'"
    work.read(IDENTITIES, as_of, in_memory=True)
    refits = Refits(work)
    rows: list[dict[str, Any]] = []
    for day in work.days:
        for currency, purchases in read_purchases(work, day).items():
            for days_ago in DAYS_AGO:
                try:
                    served = refits.serving(day - timedelta(days=days_ago), currency, days_ago)
                except NotEnoughHistory as reason:
                    work.metadata[f"{currency}, {days_ago} days ago"] = f"No forecast was possible: {reason}."
                    continue
                row = looked_back(purchases, day, days_ago, served, work.settings.ltv.interval_coverage)
                rows.append({"as_of_date": day, "currency": currency, **row})
                work.metadata[f"{currency}, {days_ago} days ago"] = _sentence(row, currency)
    return {LTV_HINDSIGHT.name: work.rows_of(LTV_HINDSIGHT, pa.Table.from_pylist(rows, LTV_HINDSIGHT.arrow_schema()))}


def _sentence(row: Mapping[str, Any], currency: str) -> str:
    if row["bias"] is None:
        return f"{row['expected_revenue']:,.2f} {currency} were expected of {row['customers']:,} customers; nothing came in."
    direction = "too high" if row["bias"] > 0 else "too low"
    return (
        f"{row['expected_revenue']:,.2f} {currency} were expected of {row['customers']:,} customers, {row['actual_revenue']:,.2f} came "
        f"true: {abs(row['bias']):.0%} {direction}. {row['coverage']:.0%} ended up inside their interval ({row['stated_coverage']:.0%} stated). The best "
        f"tenth was expected to bring {row['best_tenth_expected']:.0%}, and brought {row['best_tenth_actual']:.0%}."
    )


def plot_said_and_came_true(work: Work, rows: pa.Table) -> bytes:
    """A PNG: expected beside actual revenue, by days ago, on the last day of the window, in the business's currency."""
    import altair as alt
    import vl_convert as vlc

    frame = pl.DataFrame(rows).filter(
        (pl.col("as_of_date") == work.window.last_day) & (pl.col("currency") == work.settings.business.currency)
    )
    # A day too early to look back from has no rows, and a chart of nothing cannot be drawn: bars without height stand there.
    looked_back_from = pl.DataFrame({"days_ago": DAYS_AGO}, {"days_ago": pl.Int64}).join(
        frame, on="days_ago", how="left", maintain_order="left"
    )
    bars = looked_back_from.select(
        days_ago=pl.format("{} days ago", "days_ago"),
        said=pl.col("expected_revenue").cast(pl.Float64).fill_null(0),
        **{"came true": pl.col("actual_revenue").cast(pl.Float64).fill_null(0)},
    ).unpivot(index="days_ago", variable_name="what", value_name="revenue")
    chart = (
        alt.Chart(bars, title=f"What was said, and what came true by {work.window.last_day}")
        .mark_bar()
        .encode(
            alt.X("days_ago:N", title=None, sort=None, axis=alt.Axis(labelAngle=0)),
            alt.Y("revenue:Q", title=f"net revenue, {work.settings.business.currency}"),
            alt.XOffset("what:N", sort=None),
            alt.Color("what:N", title=None, sort=None),
        )
        .properties(width=420, height=240)
    )
    return vlc.vegalite_to_png(chart.to_json(), scale=1.5)


TOTALS_CAME_TRUE = Audit(
    "totals_came_true",
    "What was said 30, 60 and 90 days ago was within a quarter of what came true; where nothing came in, nothing was expected.",
    """SELECT as_of_date, currency, days_ago, bias, expected_revenue, actual_revenue FROM rows
    WHERE coalesce(abs(bias) > 0.25, expected_revenue > 0)""",
)
INTERVALS_HELD = Audit(
    "intervals_held",
    "As many customers ended up inside their interval as was stated 30, 60 and 90 days ago, within five in a hundred and three standard "
    "errors of so many customers. Held fewer, the season is missing (`[ltv] season`) or the shop has changed.",
    """SELECT as_of_date, currency, days_ago, coverage, stated_coverage, bias FROM rows
    WHERE abs(coverage - stated_coverage) > 0.05 + 3 * sqrt(stated_coverage * (1 - stated_coverage) / customers)""",
)


def ltv_hindsight_asset(platform: Platform, condition: dg.AutomationCondition) -> dg.AssetsDefinition:
    """The daily asset `ltv_hindsight`."""
    return table_asset(
        platform,
        (LTV_HINDSIGHT,),
        ltv_hindsight,
        needs=[Needs("orders", as_of=True), Needs("identities")],
        audits=[
            Audit(
                "shares_are_shares",
                "Coverage, stated and true, and the best tenth's share of the expected lie between 0 and 1.",
                """SELECT as_of_date, currency, days_ago FROM rows
                WHERE coverage NOT BETWEEN 0 AND 1 OR stated_coverage NOT BETWEEN 0 AND 1 OR best_tenth_expected NOT BETWEEN 0 AND 1 OR expected_revenue < 0""",
            )
        ],
        warnings=[TOTALS_CAME_TRUE, INTERVALS_HELD],
        settings=("ltv", "identity"),
        group="retail",
        plot=plot_said_and_came_true,
        condition=condition,
    )
