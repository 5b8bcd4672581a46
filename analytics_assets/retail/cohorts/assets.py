"""Daily `cohort_retention`: who comes back, by the month of the first order and by the traits that the settings name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import dagster as dg
import polars as pl
import pyarrow as pa

from analytics_assets.events.tables import IDENTITIES, TRAITS
from analytics_assets.retail.customers.assets import CUSTOMERS
from analytics_assets.retail.orders.assets import ORDERS
from analytics_assets.settings import FIRST_ORDER_MONTH
from analytics_assets.warehouse.assets import Audit, table_asset
from analytics_assets.warehouse.inputs import Needs
from analytics_assets.warehouse.tables import Column, Table
from analytics_assets.warehouse.work import Platform, Work

_HERE = Path(__file__).parent

COHORT_RETENTION = Table(
    name="cohort_retention",
    rows_are="cohort, currency, period and day",
    columns=(
        Column("as_of_date", "DATE", "Business day at whose end this holds."),
        Column("cohort_by", "VARCHAR", f"What makes the cohort: `{FIRST_ORDER_MONTH}`, or a trait under `[customers] cohorts`."),
        Column("cohort", "VARCHAR", "The month, such as 2026-01, or the customer's earliest value of the trait, else `unknown`."),
        Column("currency", "VARCHAR", "Currency of the amounts; customers are counted in each that they order in."),
        Column("period", "BIGINT", "Calendar months since the month of the customer's first order; 0 is that month.", "months"),
        Column(
            "customers",
            "BIGINT",
            "Customers of the cohort whose period is over; where it is over for none, those who are in it.",
            "customers",
        ),
        Column("active", "BIGINT", "Those of them who ordered in the period; NULL while it runs.", "customers", nullable=True),
        Column("retention", "DOUBLE", "Active / customers.", "0 to 1", nullable=True),
        Column("net_revenue", "DECIMAL(18,2)", "What they ordered in the period less refunds.", "currency", nullable=True),
        Column(
            "cumulative_net_revenue_per_customer",
            "DECIMAL(18,2)",
            "What they brought from the first order to the end of the period, by customer: lifetime value so far.",
            "currency",
            nullable=True,
        ),
    ),
    key=("as_of_date", "cohort_by", "cohort", "currency", "period"),
    grain="day",
    partition_column="as_of_date",
)


def cohort_retention(work: Work) -> Mapping[str, pa.Table]:
    """How many of those who came together come back, month after month, and what each of them has brought by then.

    A customer's period 0 is the calendar month of the first order (in that currency), period 1 the month after, and so on.
    Retention = customers with an order in the period / customers whose period is over. A period counts when its calendar month
    has ended: before that the row stands there without figures (censored, not zero). A month in which nobody came is a zero.

    Cohorts by month hold the customers of one first month. Cohorts by trait (country, channel, ...) hold customers of many
    first months: each period counts only those who have been there that long, so `customers` falls from period to period, and
    the lifetime value so far is that of just these customers from their first order on. Who has no value yet is `unknown`.

    Read a row from left to right to see a cohort wear off, and a column from top to bottom to see whether newer ones do better.
    """
    work.read(ORDERS, f"order_date <= '{work.window.last_day}'", in_memory=True)
    traits = work.settings.customers.cohorts
    if traits:
        work.read(TRAITS, f"event_date <= '{work.window.last_day}'")
    first_values = {trait: work.sql(_HERE / "first_values.sql", trait=trait).to_arrow_table() for trait in traits}

    found = []
    for day in work.each_day(IDENTITIES, CUSTOMERS):
        months = work.sql(_HERE / "customer_months.sql", as_of=day).to_arrow_table()
        work.connection.register("customer_months", months)
        for cohort_by in (FIRST_ORDER_MONTH, *traits):
            if cohort_by in first_values:
                work.connection.register("first_values", first_values[cohort_by])
            members = "trait_members.sql" if cohort_by in first_values else "cohort_members.sql"
            work.connection.register("cohort_members", work.sql(_HERE / members, as_of=day).to_arrow_table())
            rows = work.sql(_HERE / "cohort_retention.sql", as_of=day, cohort_by=cohort_by)
            found.append(work.rows_of(COHORT_RETENTION, rows))
    return {COHORT_RETENTION.name: pa.concat_tables(found)}


def plot_heat_map(work: Work, rows: pa.Table) -> bytes:
    """A PNG: retention of the last 24 first order months, last day, currency with most customers. Running months stay empty."""
    import altair as alt
    import vl_convert as vlc

    months = pl.DataFrame(rows).filter(
        pl.col("as_of_date") == work.window.last_day, pl.col("cohort_by") == FIRST_ORDER_MONTH, pl.col("retention").is_not_null()
    )
    largest = months.group_by("currency").agg(pl.col("customers").sum()).sort("customers", "currency", descending=[True, False])
    currency = largest["currency"].head(1)
    newest = months["cohort"].unique().sort().tail(24)
    shown = months.filter(pl.col("currency").is_in(currency.implode()), pl.col("cohort").is_in(newest.implode()))
    base = alt.Chart(
        shown.select("cohort", "period", "retention"), title=f"Retention {' '.join(currency)} ({work.window.last_day})"
    ).encode(
        alt.X("period:O", title="months since the month of the first order", axis=alt.Axis(labelAngle=0)),
        alt.Y("cohort:O", title="first order"),
    )
    cells = base.mark_rect().encode(
        alt.Color("retention:Q", title="retention", scale=alt.Scale(scheme="blues", domain=[0, 0.5], clamp=True), legend=None)
    )
    figures = base.mark_text(fontSize=9).encode(
        alt.Text("retention:Q", format=".0%"),
        color=alt.condition("datum.retention > 0.3", alt.value("white"), alt.value("black")),
    )
    chart = (cells + figures).properties(width=alt.Step(30), height=alt.Step(16))
    return vlc.vegalite_to_png(chart.to_json(), scale=1.5)


def cohort_retention_asset(platform: Platform, condition: dg.AutomationCondition) -> dg.AssetsDefinition:
    """The daily asset `cohort_retention`. It needs `traits` only where the settings name cohorts."""
    traits = [Needs("traits", as_of=True)] if platform.settings.customers.cohorts else []
    return table_asset(
        platform,
        (COHORT_RETENTION,),
        cohort_retention,
        needs=[Needs("orders", as_of=True), Needs("identities"), Needs("customers"), *traits],
        audits=[
            Audit(
                "retention_is_a_share",
                "No more are active than there are, everybody in period 0, and a running period has no figures at all.",
                """SELECT as_of_date, cohort_by, cohort, currency, period, customers, active, retention FROM rows
                WHERE customers < 1 OR active NOT BETWEEN 0 AND customers OR (period = 0 AND active <> customers)
                OR (active IS NULL) <> (retention IS NULL) OR (active IS NULL) <> (net_revenue IS NULL)
                OR (active IS NULL) <> (cumulative_net_revenue_per_customer IS NULL)""",
            ),
            Audit(
                "every_customer_is_in_a_cohort",
                "The cohorts by month hold each customer with an order once for each currency.",
                f"""SELECT as_of_date, currency, c.customers, r.customers FROM
                (SELECT as_of_date, currency, count(*) AS customers FROM customers WHERE orders > 0 GROUP BY ALL) AS c
                FULL JOIN (SELECT as_of_date, currency, CAST(sum(customers) AS BIGINT) AS customers FROM rows
                    WHERE cohort_by = '{FIRST_ORDER_MONTH}' AND period = 0 GROUP BY ALL) AS r USING (as_of_date, currency)
                WHERE c.customers IS DISTINCT FROM r.customers""",
            ),
        ],
        settings=("customers.cohorts",),
        group="retail",
        plot=plot_heat_map,
        condition=condition,
    )
