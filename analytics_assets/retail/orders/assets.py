"""Daily `orders` and `order_items`, from purchase and refund events and the item lines that follow them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pyarrow as pa

from analytics_assets.events.events import rows_between
from analytics_assets.events.tables import EVENTS, PROPERTY_SETS
from analytics_assets.warehouse.assets import Audit, table_asset
from analytics_assets.warehouse.engine import scan
from analytics_assets.warehouse.inputs import Needs
from analytics_assets.warehouse.tables import Column, Publication, Table
from analytics_assets.warehouse.work import Platform, Work

_HERE = Path(__file__).parent

_ORDER_DATE = Column("order_date", "DATE", "Business day of the order or refund.")
_EVENT_ID = Column("event_id", "VARCHAR", "The event that the order was made of; several refunds may share an order id.")
_ORDER_ID = Column("order_id", "VARCHAR", "The shop's order number; the event id where the export has none.")
_KIND = Column("kind", "VARCHAR", "`order` or `refund`.")

ORDER_ITEMS = Table(
    name="order_items",
    rows_are="line of an order or refund",
    columns=(
        _ORDER_DATE,
        _EVENT_ID,
        _ORDER_ID,
        _KIND,
        Column("line", "BIGINT", "Number of the line in its order, from 1."),
        Column("product_id", "VARCHAR", "The product."),
        Column("product_name", "VARCHAR", "Its name as it stood on the line.", nullable=True),
        Column("category", "VARCHAR", "The product's category, where the line names one.", nullable=True),
        Column("quantity", "BIGINT", "Pieces; negative in a refund.", "pieces"),
        Column("price", "DECIMAL(18,4)", "Price of one piece.", "currency", nullable=True),
    ),
    key=("event_id", "line"),
    grain="day",
    partition_column="order_date",
)

ORDERS = Table(
    name="orders",
    rows_are="order or refund",
    columns=(
        _ORDER_DATE,
        _EVENT_ID,
        _ORDER_ID,
        _KIND,
        Column("identity", "VARCHAR", "Whose order it is, as it came with the export.", personal=True),
        Column("ordered_at", "TIMESTAMPTZ", "When it happened."),
        Column(
            "received_at",
            "TIMESTAMPTZ",
            "When it had been received at the latest; NULL where the export does not say.",
            nullable=True,
        ),
        Column("currency", "VARCHAR", "Currency of the amounts."),
        Column("net_revenue", "DECIMAL(18,2)", "Amount of the order; negative for a refund.", "currency"),
        Column("item_lines", "BIGINT", "Lines in `order_items`.", "lines"),
        Column("units", "BIGINT", "Pieces on those lines; negative for a refund.", "pieces"),
    ),
    key=("event_id",),
    grain="day",
    partition_column="order_date",
    publication=Publication(
        sql=_HERE / "published_orders.sql",
        reads=("identities",),
        extra_columns=(
            (
                "identity",
                Column(
                    "customer_id",
                    "VARCHAR",
                    "The customer by the latest identity map; NULL when nobody's.",
                    nullable=True,
                    personal=True,
                ),
            ),
        ),
    ),
)


def order_items(work: Work) -> Mapping[str, pa.Table]:
    """What was in each order: one row per line of an order or refund.

    The export sends item lines after their order, without its number. A line belongs to the person's latest order at or
    before it, within the window that `[items] window_minutes` sets; it stays with its order's day when it came after midnight.

    Read it as the basket: join it to `orders` by `event_id`.
    """
    _read_events(work)
    _add_what_follows_midnight(work)
    rows = work.sql(
        _HERE / "order_items.sql",
        first_day=work.window.first_day,
        last_day=work.window.last_day,
        window_seconds=work.settings.items.window_minutes * 60,
    )
    return {ORDER_ITEMS.name: work.rows_of(ORDER_ITEMS, rows)}


def orders(work: Work) -> Mapping[str, pa.Table]:
    """Every order and every refund, on the business day on which it happened.

    A refund is a row of its own with a negative amount, so that the sum over a day is the day's net revenue and nothing in
    the past changes when something is sent back. Amounts are in the row's currency and are never added across currencies.

    Read it as the cash book: net revenue of a day = sum of `net_revenue` by `order_date`.
    """
    _read_events(work)
    days = f"order_date >= '{work.window.first_day}' AND order_date <= '{work.window.last_day}'"
    work.read(ORDER_ITEMS, days)
    rows = work.rows_of(
        ORDERS,
        work.sql(
            _HERE / "orders.sql",
            first_day=work.window.first_day,
            last_day=work.window.last_day,
            currency=work.settings.business.currency,
        ),
    )
    work.connection.register("new_orders", rows)
    for currency, orders_count, refunds, revenue in work.connection.sql(
        """SELECT currency, count(*) FILTER (kind = 'order'), count(*) FILTER (kind = 'refund'), sum(net_revenue)
        FROM new_orders GROUP BY ALL ORDER BY ALL"""
    ).fetchall():
        work.metadata[f"net revenue {currency}"] = f"{revenue:,.2f} ({orders_count:,} orders, {refunds:,} refunds)"
    return {ORDERS.name: rows}


def _read_events(work: Work) -> None:
    for table in (EVENTS, PROPERTY_SETS):
        work.read(table, _days(work))


def _days(work: Work) -> str:
    return f"event_date >= '{work.window.first_day}' AND event_date <= '{work.window.last_day}'"


def _add_what_follows_midnight(work: Work) -> None:
    """Add the item window after the last day, straight from the landed records.

    The hours of the next day may not have been computed yet, and nothing would run this day again when they are. That
    their records have landed is certain: the last hour of a day is not in before the window has passed.
    """
    end = work.window.end
    following = rows_between(work, end, end + timedelta(minutes=work.settings.items.window_minutes))
    for name, rows in following.items():
        work.connection.register(f"{name}_after_midnight", rows)
        stored = scan(work.pins[name], _days(work))
        work.connection.execute(f"CREATE OR REPLACE VIEW {name} AS {stored} UNION ALL FROM {name}_after_midnight")


def order_assets(platform: Platform, condition: dg.AutomationCondition) -> list[dg.AssetsDefinition]:
    """The daily assets `order_items` and `orders`."""
    return [
        table_asset(
            platform,
            (ORDER_ITEMS,),
            order_items,
            needs=[Needs("events", hourly=True)],
            settings=("items", "events", "properties"),
            group="retail",
            condition=condition,
        ),
        table_asset(
            platform,
            (ORDERS,),
            orders,
            needs=[Needs("events", hourly=True), Needs("order_items")],
            audits=[
                Audit(
                    "refunds_are_negative",
                    "No refund adds revenue.",
                    "SELECT event_id, net_revenue FROM rows WHERE kind = 'refund' AND net_revenue > 0",
                )
            ],
            warnings=[
                Audit(
                    "every_order_has_an_amount",
                    "No order or refund counts as 0 because its amount is missing or cannot be read, and it has no priced lines.",
                    """SELECT event_date, count(*) AS orders_without_amount FROM events AS e
                    WHERE order_kind IS NOT NULL AND revenue IS NULL
                    AND event_id NOT IN (SELECT event_id FROM order_items WHERE price IS NOT NULL) GROUP BY event_date ORDER BY 1""",
                )
            ],
            settings=("items", "business.currency"),
            group="retail",
            condition=condition,
        ),
    ]
