"""Daily `customer_ltv` and `ltv_backtests`: the models of this folder applied to `orders` and `customers`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pyarrow as pa

from analytics_assets.events.tables import IDENTITIES
from analytics_assets.retail.customers.assets import CUSTOMERS
from analytics_assets.retail.ltv.backtest import Refit, Serving, scored
from analytics_assets.retail.ltv.forecast import NotEnoughHistory
from analytics_assets.retail.ltv.refits import Refits
from analytics_assets.retail.ltv.season import EVEN
from analytics_assets.retail.orders.assets import ORDERS
from analytics_assets.settings import Ltv
from analytics_assets.warehouse.assets import Audit, table_asset
from analytics_assets.warehouse.inputs import Needs
from analytics_assets.warehouse.tables import Column, Table
from analytics_assets.warehouse.work import Platform, Rows, Work

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
        Column(
            "interval_probability",
            "DOUBLE",
            "How likely the customer ends up in the interval: `[ltv] interval_coverage`, more where it is 0 to 0, and less only where many "
            "just send something back.",
            "0 to 1",
            nullable=True,
        ),
        Column("lifetime_value", "DECIMAL(18,2)", "Historic value and expected revenue together.", "currency"),
        Column("horizon_days", "BIGINT", "How far the forecast looks.", "days"),
        Column("model", "VARCHAR", "What made the forecast, or why there is none."),
    ),
    key=("as_of_date", "customer_id", "currency"),
    grain="day",
    partition_column="as_of_date",
    schema_version=2,
)

LTV_BACKTESTS = Table(
    name="ltv_backtests",
    rows_are="day, currency, refit that was looked at for the day, earlier cut-off and candidate",
    columns=(
        Column("as_of_date", "DATE", "Business day of the forecast."),
        Column("currency", "VARCHAR", "Currency of the amounts."),
        Column("anchor", "DATE", "Day at whose end the models were refitted."),
        Column(
            "cut_off", "DATE", "Earlier day at whose end the test forecasts; NULL where nothing could be tested.", nullable=True
        ),
        Column("horizon_days", "BIGINT", "Days after the cut-off that were forecast; 0 where nothing could be tested.", "days"),
        Column(
            "candidate", "VARCHAR", "What forecasts: probabilistic, boosted trees, or the mean of both; none where no model fits."
        ),
        Column("customers", "BIGINT", "Customers known at the cut-off, in a sample of at most about 50,000.", nullable=True),
        Column("factor", "DOUBLE", "Factor for level and season, as known at the cut-off; in expected_revenue.", nullable=True),
        Column("expected_revenue", "DECIMAL(18,2)", "What they were expected to bring.", "currency", nullable=True),
        Column("actual_revenue", "DECIMAL(18,2)", "What they brought.", "currency", nullable=True),
        Column("bias", "DOUBLE", "Expected over actual revenue, less 1: negative is too low.", "-1 to infinity", nullable=True),
        Column("mae", "DOUBLE", "Mean absolute error of a customer's revenue.", "currency", nullable=True),
        Column("coverage", "DOUBLE", "Share of customers who ended up inside their interval.", "0 to 1", nullable=True),
        Column("stated_coverage", "DOUBLE", "What the intervals had said of that share.", "0 to 1", nullable=True),
        Column("chosen", "BOOLEAN", "Whether this candidate of this refit makes the forecast of the day."),
        Column("accepted", "BOOLEAN", "Whether the refit passed its backtest."),
        Column("reason", "VARCHAR", "Why it passed or not."),
    ),
    key=("as_of_date", "currency", "anchor", "candidate", "cut_off"),
    grain="day",
    partition_column="as_of_date",
    schema_version=2,
)

Serve = Callable[[str], Serving]

SEASON_UNKNOWN = (
    "No season is in it: the days ahead were not seen a year ago, and nobody told what this business sells in a year "
    "(`[ltv] season`). A first Christmas has brought two thirds more than such a forecast said. "
)


def forecast_day(summary: pl.DataFrame, day: date, settings: Ltv, serve: Serve) -> tuple[pl.DataFrame, pa.Table, dict[str, str]]:
    """The rows of `customer_ltv` and of `ltv_backtests` of one day, and a sentence on the forecast of each currency.

    Args:
        summary: one row per customer and currency, as `summary.sql` makes it; `purchase_days` is NULL without a purchase.
        day: the business day.
        settings: horizon, discount rate and coverage.
        serve: gives the refit that serves the day in a currency; raises NotEnoughHistory where there is none.

    Customers who never bought (returns only, free orders) have an expected revenue of NULL and a lifetime value of
    what they brought so far. Each currency has its own models.
    """
    parts: list[pl.DataFrame] = [_without_forecast(summary.clear(), "")]
    tests: list[dict[str, Any]] = []
    sentences: dict[str, str] = {}
    for (currency,), rows in summary.partition_by("currency", as_dict=True, maintain_order=True).items():
        bought = rows.filter(pl.col("purchase_days").is_not_null())
        parts.append(_without_forecast(rows.filter(pl.col("purchase_days").is_null()), "no paid purchase yet"))
        try:
            served = serve(str(currency))
        except NotEnoughHistory as error:
            reason = f"not enough history: {error}"
            parts.append(_without_forecast(bought, reason))
            tests.append(_untested(day, "none", True, reason) | {"currency": currency})
            sentences[str(currency)] = reason
            continue
        found, factors = scored(
            served.refit, bought, day,
            settings.horizon_days, settings.annual_discount_rate, settings.interval_coverage,
        )  # fmt: skip
        outcome = "backtest passed" if served.refit.accepted else "backtest failed" if served.refit.tests else "not backtested"
        parts.append(
            bought.select("customer_id", "orders", "currency", "net_revenue").with_columns(
                probability_alive=_rounded(found.probability_alive, 6),
                expected_orders=_rounded(found.expected_orders, 6),
                expected_revenue=_money(found.expected_revenue),
                expected_revenue_low=_money(found.expected_revenue_low),
                expected_revenue_high=_money(found.expected_revenue_high),
                interval_probability=_rounded(found.interval_probability, 6),
                model=pl.lit(f"{served.refit.candidate}, refit of {served.refit.anchor}, {outcome}"),
            )
        )
        for refit in served.examined:
            tests += [row | {"currency": currency} for row in _backtest_rows(refit, chosen=refit is served.refit)]
        purchases = served.refit.model.purchases
        at_bounds = f"; {', '.join(purchases.at_bounds)} at its bound" if purchases.at_bounds else ""
        sentences[str(currency)] = (
            f"{served.refit.candidate}, refitted as of {served.refit.anchor}, {outcome}: {served.refit.reason}. "
            f"Revenue is multiplied by {factors.revenue.value:.3f} for level and season (known to about {factors.revenue.doubt:.0%}), "
            f"orders by {factors.orders.value:.3f}. "
            + (SEASON_UNKNOWN if served.refit.season == EVEN and not served.refit.windows.seen_a_year_before(day) else "")
            + f"{purchases}{at_bounds}; {served.refit.model.spend}. "
            + "".join(f"Passed over: refit of {r.anchor}: {r.reason}. " for r in served.examined if r is not served.refit)
        )
    values = (
        pl.concat(parts, how="vertical_relaxed")
        .with_columns(
            as_of_date=pl.lit(day),
            horizon_days=pl.lit(settings.horizon_days, pl.Int64),
            lifetime_value=pl.col("net_revenue") + pl.col("expected_revenue").fill_null(0),
        )
        .sort("customer_id", "currency")
    )
    return values, pa.Table.from_pylist([row | {"as_of_date": day} for row in tests], LTV_BACKTESTS.arrow_schema()), sentences


def _backtest_rows(refit: Refit, chosen: bool) -> list[dict[str, Any]]:
    if not refit.tests:
        return [_untested(refit.anchor, refit.candidate, chosen, refit.reason)]
    return [
        {
            "anchor": refit.anchor,
            "cut_off": test.cut_off,
            "horizon_days": refit.tested_days,
            "candidate": test.candidate,
            "customers": test.customers,
            "factor": round(test.factor, 6),
            "expected_revenue": Decimal(f"{test.expected_revenue:.2f}"),
            "actual_revenue": Decimal(f"{test.actual_revenue:.2f}"),
            "bias": round(test.expected_revenue / test.actual_revenue - 1, 6) if test.actual_revenue > 0 else None,
            "mae": round(test.mae, 4),
            "coverage": round(test.coverage, 6),
            "stated_coverage": round(test.stated, 6),
            "chosen": chosen and test.candidate == refit.candidate,
            "accepted": refit.accepted,
            "reason": refit.reason,
        }
        for test in refit.tests
    ]


def _untested(anchor: date, candidate: str, chosen: bool, reason: str) -> dict[str, Any]:
    return {
        "anchor": anchor, "horizon_days": 0, "candidate": candidate, "chosen": chosen, "accepted": False, "reason": reason,
    }  # fmt: skip


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
        interval_probability=pl.lit(None, pl.Float64),
        model=pl.lit(reason),
    )


def customer_ltv(work: Work) -> Mapping[str, Rows]:
    """What each customer has brought, and what they are expected to bring within the horizon.

    How often a customer will buy comes from MBG/NBD (Batislam, Denizel and Filiztekin 2007), or from BG/NBD (Fader, Hardie and Lee 2005)
    where what customers did says clearly that nobody leaves after the first purchase; how much, from Gamma-Gamma (Fader and Hardie 2013). Boosted trees redistribute that forecast where a kind of customer was misjudged before. Several
    orders on one day count as one purchase. Refunds are taken off the spend. Each currency has its own models: a shop that changes its
    currency begins anew in the new one, and what is expected in the old one falls only as its silence lengthens.

    The models are refitted as of the first day of each month, and tested first: they forecast from earlier days, with what was
    known then, and are held against what came true (`ltv_backtests`). Of the probabilistic forecast, the trees and the mean of
    both, the one with the smallest error serves. The total is multiplied by a factor for level and season, learned from the
    same tests. A refit whose total was off by more than a quarter, or that was no better than giving all customers the same, is
    passed over for that of the month before, or the one before that; where none passed, the newest serves, and says so. In a shop so
    young that none can be tested, what it has seen doubles within a month: there the models are refitted every Monday, or on the
    day itself until a Monday's refit is possible.

    Lifetime value = net revenue so far + expected revenue. The interval says what a single customer may bring: about eight
    of ten end up inside (`[ltv] interval_coverage`). It never reaches below 0, where those end up who buy nothing more and send something
    back; it knows how many they are, and reaches further up for them. From 0 to 0 it says that probably nothing comes or goes, and holds
    as often as that is so: more often than eight of ten, the more so the shorter the horizon. `interval_probability` says of each
    how often, and its mean how many of all customers end up inside. Intervals widen with chance, not with doubt about the model, which all
    customers of a shop have in common. Over simulated shops it evens out; of single ones every other is off by more than 1.5 in a hundred
    90 days ahead in its second month, and by 1 in its fifth (3,000 customers); a year ahead, with a thousand customers and five months,
    by 2.5, with 2,500 and ten months by 1.

    Read it as a ranking first and as money second: single customers scatter widely, sums over many do not. A shop's first
    Christmas is foreseen only where the owner tells of it (`[ltv] season`): nothing in its own past says that it comes.
    """
    work.read(ORDERS, f"order_date <= '{work.window.last_day}'", in_memory=True)
    refits = Refits(work)
    settings = work.settings.ltv
    values, tests = work.stage(CUSTOMER_LTV), []
    sentences: dict[str, str] = {}
    for day in work.each_day(IDENTITIES, CUSTOMERS):

        def serve(currency: str, day: date = day) -> Serving:
            return refits.serving(day, currency, settings.horizon_days)

        rows, tested, sentences = forecast_day(work.sql(_HERE / "summary.sql", as_of=day).pl(), day, settings, serve)
        values.append(work.rows_of(CUSTOMER_LTV, rows.to_arrow()))
        tests.append(work.rows_of(LTV_BACKTESTS, tested))
    work.metadata |= {f"forecast in {currency}": sentence for currency, sentence in sentences.items()}
    return {CUSTOMER_LTV.name: values, LTV_BACKTESTS.name: pa.concat_tables(tests)}


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
    return vlc.vegalite_to_png(chart.to_json(), scale=1.5)


SERVED_BY_A_TESTED_MODEL = Audit(
    "served_by_a_tested_model",
    "The refit that serves passed its backtest; if not, the forecast is published all the same, and its model column says so.",
    """SELECT DISTINCT as_of_date, currency, anchor, reason FROM rows_of_ltv_backtests
    WHERE chosen AND NOT accepted ORDER BY as_of_date DESC, currency""",
)


def customer_ltv_asset(platform: Platform, condition: dg.AutomationCondition) -> dg.AssetsDefinition:
    """The daily asset `customer_ltv`."""
    return table_asset(
        platform,
        (CUSTOMER_LTV, LTV_BACKTESTS),
        customer_ltv,
        needs=[Needs("orders", as_of=True), Needs("identities"), Needs("customers")],
        audits=[
            Audit(
                "figures_are_possible",
                "Probabilities lie between 0 and 1, nobody is expected to order less than never, intervals are in order.",
                """SELECT as_of_date, probability_alive, expected_orders, expected_revenue_low, expected_revenue_high FROM rows
                WHERE probability_alive NOT BETWEEN 0 AND 1 OR interval_probability NOT BETWEEN 0 AND 1 OR expected_orders < 0 OR expected_revenue < 0
                OR expected_revenue_low < 0 OR expected_revenue_high < expected_revenue_low
                OR isnan(expected_orders) OR isnan(probability_alive) OR isnan(interval_probability)""",
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
        warnings=[SERVED_BY_A_TESTED_MODEL],
        settings=("ltv", "identity"),
        group="retail",
        plot=plot_ranking,
        condition=condition,
    )
