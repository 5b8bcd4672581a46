"""A shop of any size, written straight into a home's lake: what the retail suite reads, without an export before it.

Customers buy as the lifetime value models assume (gamma rates, geometric drop-out, gamma spend), products have a Zipf
popularity, and two lines of three come from the customer's favourite part of the catalogue.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import dagster as dg
import numpy as np
import polars as pl

from analytics_assets.events.tables import IDENTITIES, RECORDS
from analytics_assets.retail.orders.assets import ORDER_ITEMS, ORDERS
from analytics_assets.warehouse.engine import declared, engine
from analytics_assets.warehouse.tables import Table
from analytics_assets.warehouse.work import Platform

TASTES = 50


@dataclass(frozen=True)
class BigShop:
    """How large the shop is; about `lines` item lines over `days` days that end with `last_day`."""

    customers: int
    products: int
    lines: int
    days: int
    last_day: date = date(2026, 3, 31)
    seed: int = 1

    @property
    def first_day(self) -> date:
        """The first business day."""
        return self.last_day - timedelta(days=self.days - 1)

    def settings(self) -> str:
        """The text of its settings."""
        return (
            f'[business]\ntime_zone = "UTC"\ncurrency = "GBP"\nfirst_day = {self.first_day}\nlast_day = {self.last_day}\n'
            "[activation]\nconsent_required = false\n"
        )

    def write(self, platform: Platform, instance: dg.DagsterInstance, as_of_days: list[date]) -> None:
        """Write records, orders, item lines and the identity maps of `as_of_days`, and tell Dagster that they are there."""
        orders, items = self._orders()
        identity = pl.format("customer{}@shop.test", "customer")
        start = datetime.combine(self.first_day, datetime.min.time(), UTC)
        day = pl.lit(self.first_day) + pl.duration(days=pl.col("day"))
        orders = orders.with_columns(
            order_date=day,
            event_id=pl.format("{}", "order"),
            order_id=pl.format("{}", "order"),
            kind=pl.lit("order"),
            identity=identity,
            ordered_at=pl.lit(start) + pl.duration(days=pl.col("day"), hours=12),
            received_at=pl.lit(None, pl.Datetime("us", "UTC")),
            currency=pl.lit("GBP"),
            net_revenue=pl.col("spend").round(2).cast(pl.Decimal(18, 2)),
            item_lines="lines",
            units="lines",
        )
        items = items.with_columns(
            order_date=day,
            event_id=pl.format("{}", "order"),
            order_id=pl.format("{}", "order"),
            kind=pl.lit("order"),
            product_id=pl.format("p{}", "product"),
            product_name=pl.format("Product {}", "product"),
            category=pl.format("Category {}", pl.col("product") % TASTES),
            quantity=pl.lit(1, pl.Int64),
            price=pl.lit(10).cast(pl.Decimal(18, 4)),
        )
        first_seen = orders.group_by("identity").agg(occurred_at=pl.col("ordered_at").min()).sort("identity")
        records = first_seen.with_row_index("line_number").with_columns(
            pl.lit("1.json").alias("file"),
            pl.lit(None, pl.Int64).alias("revision"),
            pl.lit("event").alias("kind"),
            pl.format("{}", "line_number").alias("record_id"),
            pl.lit(None, pl.String).alias("other_identity"),
            pl.lit("purchased").alias("name"),
            pl.lit(None, pl.Datetime("us", "UTC")).alias("received_at"),
            pl.lit("{}").alias("properties"),
            pl.lit(None, pl.String).alias("system"),
        )
        map_of_all = first_seen.select("identity", kind=pl.lit("named"), customer_id="identity", occurred_at="occurred_at")
        maps = [
            map_of_all.filter(pl.col("occurred_at") < pl.lit(start) + pl.duration(days=(day - self.first_day).days + 1))
            .with_columns(as_of_date=pl.lit(day))
            .drop("occurred_at")
            for day in as_of_days
        ]
        for table, rows in ((RECORDS, records), (ORDERS, orders), (ORDER_ITEMS, items), (IDENTITIES, pl.concat(maps))):
            _write(platform, table, rows)
        every_day = [(self.first_day + timedelta(days=n)).isoformat() for n in range(self.days)]
        for name, days in (
            ("orders", every_day),
            ("order_items", every_day),
            ("traits", every_day),
            ("identities", [d.isoformat() for d in as_of_days]),
        ):
            for key in days:
                instance.report_runless_asset_event(dg.AssetMaterialization(name, partition=key))

    def _orders(self) -> tuple[pl.DataFrame, pl.DataFrame]:
        rng = np.random.default_rng(self.seed)
        n = self.customers
        acquired = rng.integers(0, self.days, n)
        # Scaled so that orders of 2.5 lines add up to the lines asked for.
        rate = rng.gamma(0.75, 1.0, n)
        lifetime = np.minimum(rng.exponential(0.6 * self.days, n), self.days - acquired)
        wanted = max(self.lines / 2.5 - n, 0)
        repeats = rng.poisson(rate * lifetime * wanted / (rate * lifetime).sum())
        customer = np.repeat(np.arange(n), repeats + 1)
        first = np.zeros(len(customer), dtype=bool)
        first[np.cumsum(repeats + 1) - repeats - 1] = True
        day = acquired[customer] + np.where(first, 0, np.floor(rng.random(len(customer)) * lifetime[customer])).astype(np.int64)
        spend = rng.gamma(6.25, 1.0, len(customer)) * (26.0 / rng.gamma(3.74, 1.0, n))[customer]
        lines = 1 + rng.poisson(1.5, len(customer))
        orders = pl.DataFrame(
            {"order": np.arange(len(customer)), "customer": customer, "day": day, "spend": spend, "lines": lines}
        )

        order = np.repeat(np.arange(len(customer)), lines)
        weight = np.cumsum((np.arange(self.products) + 1.0) ** -0.8)
        product = np.searchsorted(weight, rng.random(len(order)) * weight[-1])
        taste = customer[order] % TASTES
        liked = rng.random(len(order)) < 2 / 3
        product = np.where(liked, np.minimum(product - product % TASTES + taste, self.products - 1), product)
        items = pl.DataFrame({"order": order, "day": day[order], "product": product})
        items = items.with_columns(line=pl.int_range(1, pl.len() + 1).over("order"))
        return orders, items


def _write(platform: Platform, table: Table, rows: pl.DataFrame) -> None:
    with engine() as connection:
        platform.lake.replace(table, declared(connection, table, rows.select(table.column_names).to_arrow()), None, {})
