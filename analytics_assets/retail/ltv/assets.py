"""Daily `customer_ltv`: the models of this folder applied to `orders` and `customers`."""

from __future__ import annotations

import io
from collections.abc import Mapping
from datetime import date
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
import pyarrow as pa

from analytics_assets.events.tables import IDENTITIES
from analytics_assets.retail.customers.assets import CUSTOMERS
from analytics_assets.retail.orders.assets import ORDERS
from analytics_assets.settings import Ltv
from analytics_assets.warehouse.assets import Audit, Needs, Platform, Work, table_asset
from analytics_assets.warehouse.tables import Column, Table

_HERE = Path(__file__).parent

CUSTOMER_LTV = Table(
    name="customer_ltv",
    rows_are="customer and day (and currency, where a customer pays in several)",
    columns=(
        Column("as_of_date", "DATE", "Business day at whose end the forecast was made."),
        Column("customer_id", "VARCHAR", "The customer.", personal=True),
        Column("orders", "BIGINT", "Orders so far.", "orders"),
        Column("currency", "VARCHAR", "Currency of the amounts."),
        Column("net_revenue", "DECIMAL(18,2)", "Orders so far less refunds: the historic value.", "currency"),
        Column(
            "probability_alive",
            "DOUBLE",
            "Probability that the customer will ever buy again at the old rate.",
            "0 to 1",
            nullable=True,
        ),
        Column(
            "expected_orders",
            "DOUBLE",
            "Days with an order that are expected within the horizon.",
            "orders",
            nullable=True,
        ),
        Column(
            "expected_revenue",
            "DECIMAL(18,2)",
            "Net revenue that is expected within the horizon, discounted.",
            "currency",
            nullable=True,
        ),
        Column(
            "expected_revenue_low",
            "DECIMAL(18,2)",
            "Lower end of the interval of what the customer may bring.",
            "currency",
            nullable=True,
        ),
        Column("expected_revenue_high", "DECIMAL(18,2)", "Upper end of that interval.", "currency", nullable=True),
        Column("lifetime_value", "DECIMAL(18,2)", "Historic value and expected revenue together.", "currency"),
        Column("horizon_days", "BIGINT", "How far the forecast looks.", "days"),
        Column("model", "VARCHAR", "What made the forecast, or why there is none."),
    ),
    key=("as_of_date", "customer_id", "currency"),
    grain="day",
    partition_column="as_of_date",
)

MODEL = "MBG/NBD x Gamma-Gamma"


def forecast_day(summary: pl.DataFrame, day: date, settings: Ltv) -> tuple[pl.DataFrame, dict[str, object]]:
    """The rows of one day, and the fitted parameters by currency.

    Args:
        summary: one row per customer and currency, as `summary.sql` makes it; `purchase_days` is NULL without a purchase.
        day: the business day.
        settings: horizon, discount rate and coverage.

    Customers who never bought (returns only, free orders) have an expected revenue of NULL and a lifetime value of
    what they brought so far. Each currency is fitted by itself.
    """
    from analytics_assets.retail.ltv.forecast import CustomerSummary, NotEnoughHistory, fit, forecast

    parts: list[pl.DataFrame] = []
    parameters: dict[str, object] = {}
    for (currency,), rows in summary.partition_by("currency", as_dict=True, maintain_order=True).items():
        bought = rows.filter(pl.col("purchase_days").is_not_null())
        never = rows.filter(pl.col("purchase_days").is_null())
        parts.append(_without_forecast(never, "no purchase yet"))
        days = bought["purchase_days"].cast(pl.Float64).to_numpy()
        known = CustomerSummary(
            frequency=days - 1,
            recency_weeks=bought["recency_days"].to_numpy() / 7,
            age_weeks=bought["age_days"].to_numpy() / 7,
            purchase_days=days,
            mean_spend=bought["net_revenue"].cast(pl.Float64).to_numpy() / days,
        ) if len(bought) else None  # fmt: skip
        try:
            if known is None:
                raise NotEnoughHistory("nobody has bought yet")
            model = fit(known)
        except NotEnoughHistory as reason:
            parts.append(_without_forecast(bought, f"not enough history: {reason}"))
            parameters[str(currency)] = str(reason)
            continue
        found = forecast(model, known, settings.horizon_days, settings.annual_discount_rate, settings.interval_coverage)
        parameters[str(currency)] = {"purchases": str(model.purchases), "spend": str(model.spend)}
        parts.append(
            bought.select("customer_id", "orders", "currency", "net_revenue").with_columns(
                probability_alive=_rounded(found.probability_alive, 6),
                expected_orders=_rounded(found.expected_orders, 6),
                expected_revenue=_money(found.expected_revenue),
                expected_revenue_low=_money(found.expected_revenue_low),
                expected_revenue_high=_money(found.expected_revenue_high),
                model=pl.lit(MODEL),
            )
        )
    rows = pl.concat(parts, how="vertical_relaxed") if parts else _without_forecast(summary, "")
    return rows.with_columns(
        as_of_date=pl.lit(day),
        horizon_days=pl.lit(settings.horizon_days, pl.Int64),
        lifetime_value=pl.col("net_revenue") + pl.col("expected_revenue").fill_null(0),
    ), parameters


def _rounded(values: np.ndarray, digits: int) -> pl.Series:
    return pl.Series(np.round(values, digits))


def _money(values: np.ndarray) -> pl.Series:
    return pl.Series(np.round(values, 2)).cast(pl.Decimal(18, 2))


def _without_forecast(rows: pl.DataFrame, reason: str) -> pl.DataFrame:
    money = pl.lit(None, pl.Decimal(18, 2))
    return rows.select("customer_id", "orders", "currency", "net_revenue").with_columns(
        probability_alive=pl.lit(None, pl.Float64),
        expected_orders=pl.lit(None, pl.Float64),
        expected_revenue=money,
        expected_revenue_low=money,
        expected_revenue_high=money,
        model=pl.lit(reason),
    )


def customer_ltv(work: Work) -> Mapping[str, pa.Table]:
    """What each customer has brought, and what they are expected to bring within the horizon.

    How often a customer will buy comes from MBG/NBD (Batislam, Denizel and Filiztekin 2007), how much from Gamma-Gamma
    (Fader and Hardie 2013). Both are fitted anew for every day, by maximum likelihood, on what was known at its end. Several
    orders on one day count as one purchase. Refunds are taken off the spend.

    Lifetime value = net revenue so far + expected revenue. The interval says what a single customer may bring: about eight
    of ten end up inside (`[ltv] interval_coverage`). It widens with chance, not with doubt about the model.

    Read it as a ranking first and as money second: single customers scatter widely, sums over many do not.
    """
    work.read(ORDERS, f"order_date <= '{work.window.last_day}'", in_memory=True)
    as_of = f"as_of_date >= '{work.window.first_day}' AND as_of_date <= '{work.window.last_day}'"
    work.read(IDENTITIES, as_of, in_memory=True)
    work.read(CUSTOMERS, as_of, in_memory=True)
    days = []
    for day in work.days:
        rows, parameters = forecast_day(work.sql(_HERE / "summary.sql", as_of=day).pl(), day, work.settings.ltv)
        days.append(work.rows_of(CUSTOMER_LTV, rows.to_arrow()))
    work.metadata["model"] = dg.MetadataValue.json(parameters)
    return {CUSTOMER_LTV.name: pa.concat_tables(days)}


def plot_ranking(work: Work, rows: pa.Table) -> bytes:
    """A PNG: how much of all expected revenue the best customers bring, on the last day of the window."""
    import altair as alt
    import vl_convert as vlc

    frame = pl.DataFrame(rows)
    last = frame.filter(pl.col("as_of_date") == work.window.last_day)
    value = last["expected_revenue"].cast(pl.Float64).fill_null(0).sort(descending=True)
    total = float(value.sum()) or 1.0
    points = np.unique(np.linspace(0, len(value), 101).astype(int))
    share = np.concatenate([[0.0], value.cum_sum().to_numpy()])[points] / total
    curve = pl.DataFrame({"customers": points / max(len(value), 1), "revenue": share})
    chart = (
        alt.Chart(curve, title=f"Expected revenue, best customers first ({work.window.last_day})")
        .mark_area(line=True, opacity=0.3)
        .encode(
            alt.X("customers:Q", title="share of customers", axis=alt.Axis(format="%")),
            alt.Y("revenue:Q", title="share of expected revenue", axis=alt.Axis(format="%")),
        )
        .properties(width=420, height=240)
    )
    with io.BytesIO(vlc.vegalite_to_png(chart.to_json(), scale=1.5)) as image:
        return image.read()


def customer_ltv_asset(platform: Platform, condition: dg.AutomationCondition) -> dg.AssetsDefinition:
    """The daily asset `customer_ltv`."""
    return table_asset(
        platform,
        (CUSTOMER_LTV,),
        customer_ltv,
        needs=[Needs("orders", as_of=True), Needs("identities"), Needs("customers")],
        audits=[
            Audit(
                "figures_are_possible",
                "Probabilities lie between 0 and 1, nobody is expected to order less than never, intervals are in order.",
                """SELECT as_of_date, probability_alive, expected_orders, expected_revenue_low, expected_revenue_high FROM rows
                WHERE probability_alive NOT BETWEEN 0 AND 1 OR expected_orders < 0 OR expected_revenue < 0
                OR expected_revenue_low < 0 OR expected_revenue_high < expected_revenue_low
                OR isnan(expected_orders) OR isnan(probability_alive)""",
            ),
            Audit(
                "every_customer_is_valued",
                "Each customer of the day has exactly one row in each currency.",
                """SELECT as_of_date, currency, count(*) FILTER (source = 'customers'), count(*) FILTER (source = 'ltv') FROM
                (SELECT as_of_date, currency, customer_id, 'customers' AS source FROM customers
                UNION ALL SELECT as_of_date, currency, customer_id, 'ltv' FROM rows)
                WHERE as_of_date IN (SELECT as_of_date FROM rows)
                GROUP BY as_of_date, currency HAVING count(*) FILTER (source = 'customers') <> count(*) FILTER (source = 'ltv')""",
            ),
        ],
        settings=("ltv",),
        group="retail",
        plot=plot_ranking,
        condition=condition,
    )
