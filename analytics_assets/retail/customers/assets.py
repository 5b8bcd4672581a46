"""Daily `customers`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import dagster as dg

from analytics_assets.events.tables import IDENTITIES
from analytics_assets.retail.orders.assets import ORDERS
from analytics_assets.warehouse.assets import Audit, table_asset
from analytics_assets.warehouse.inputs import Needs
from analytics_assets.warehouse.staged import Staged
from analytics_assets.warehouse.tables import Column, Table
from analytics_assets.warehouse.work import Platform, Work

_HERE = Path(__file__).parent

# Which identities are which customer, as of a day: what every asset joins to orders that counts customers.
CUSTOMER_IDENTITIES = _HERE / "customer_identities.sql"

CUSTOMERS = Table(
    name="customers",
    rows_are="customer and day (and currency, where a customer pays in several)",
    columns=(
        Column("as_of_date", "DATE", "Business day at whose end this holds."),
        Column("customer_id", "VARCHAR", "The customer: its earliest named identity.", personal=True),
        Column(
            "first_order_date", "DATE", "Business day of the first order; NULL for one who only ever returned.", nullable=True
        ),
        Column("last_order_date", "DATE", "Business day of the latest order.", nullable=True),
        Column("orders", "BIGINT", "Orders so far; refunds are not orders.", "orders"),
        Column("refunds", "BIGINT", "Refunds so far.", "refunds"),
        Column("currency", "VARCHAR", "Currency of the amount."),
        Column("net_revenue", "DECIMAL(18,2)", "All orders so far less all refunds.", "currency"),
    ),
    key=("as_of_date", "customer_id", "currency"),
    grain="day",
    partition_column="as_of_date",
)


def customers(work: Work) -> Mapping[str, Staged]:
    """Every customer with a named identity, and what they have bought up to the end of the day.

    Net revenue is orders less refunds. Revenue of visitors who never gave a name is not in the table; it stands in this
    page's metadata beside the named revenue, so that the two add up to `orders`.

    Read it as the customer list of an evening: the partition of a day never looks past that day.
    """
    work.read(ORDERS, f"order_date <= '{work.window.last_day}'", in_memory=True)
    staged = work.stage(CUSTOMERS)
    for day in work.each_day(IDENTITIES):
        work.connection.register("named_customers", work.sql(_HERE / "named_customers.sql", as_of=day).to_arrow_table())
        rows = work.rows_of(CUSTOMERS, work.sql(_HERE / "customers.sql", as_of=day).order("customer_id, currency"))
        staged.append(rows)
    work.connection.register("last_day", rows)
    for currency, total, named in work.connection.sql(
        """SELECT o.currency, o.revenue, coalesce(c.revenue, 0)
        FROM (SELECT currency, sum(net_revenue) AS revenue FROM orders WHERE order_date <= $day GROUP BY 1) AS o
        LEFT JOIN (SELECT currency, sum(net_revenue) AS revenue FROM last_day GROUP BY 1) AS c USING (currency) ORDER BY 1""",
        params={"day": work.window.last_day},
    ).fetchall():
        work.metadata[f"revenue {currency}"] = f"{named:,.2f} named + {total - named:,.2f} anonymous = {total:,.2f}"
    return {CUSTOMERS.name: staged}


def customers_asset(platform: Platform, condition: dg.AutomationCondition) -> dg.AssetsDefinition:
    """The daily asset `customers`."""
    return table_asset(
        platform,
        (CUSTOMERS,),
        customers,
        needs=[Needs("orders", as_of=True), Needs("identities")],
        audits=[
            Audit(
                "every_order_has_an_identity",
                "No order is lost on the way to its customer: its identity is in the map of each day from the order's own on.",
                """SELECT d.as_of_date, o.identity FROM (SELECT DISTINCT as_of_date FROM rows) AS d
                JOIN (SELECT identity, min(order_date) AS first_date FROM orders GROUP BY identity) AS o ON o.first_date <= d.as_of_date
                ANTI JOIN identities AS i ON i.as_of_date = d.as_of_date AND i.identity = o.identity""",
            )
        ],
        group="retail",
        condition=condition,
    )
