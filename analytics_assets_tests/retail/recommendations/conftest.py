"""A shop of a few written orders in a lake of its own, and the asset's function run over it without Dagster."""

import logging
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pytest

from analytics_assets.events.tables import IDENTITIES
from analytics_assets.home import Home
from analytics_assets.retail.customers.assets import CUSTOMERS, customers
from analytics_assets.retail.orders.assets import ORDER_ITEMS, ORDERS
from analytics_assets.retail.recommendations.assets import recommendations
from analytics_assets.retail.recommendations.promises import EXCLUSIONS_ARE_KNOWN, promises
from analytics_assets.retail.recommendations.tables import TABLES
from analytics_assets.settings import parse_settings
from analytics_assets.warehouse.engine import engine, show
from analytics_assets.warehouse.lake import Window
from analytics_assets.warehouse.tables import Table
from analytics_assets.warehouse.work import Platform, Work


@dataclass
class Shop:
    """Orders, written down one by one; every identity is a customer of its own unless `people` says whose it is."""

    folder: Path
    settings: str = ""
    orders: list[dict[str, Any]] = field(default_factory=list)
    items: list[dict[str, Any]] = field(default_factory=list)
    people: dict[str, str] = field(default_factory=dict)
    objections: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)

    @property
    def platform(self) -> Platform:
        """The shop's platform."""
        text = '[business]\ntime_zone = "UTC"\ncurrency = "GBP"\n[recommendations]\n'
        return Platform(parse_settings(text + self.settings, "x"), Home(self.folder))

    def bought(self, who: str, day: str | date, *products: str, kind: str = "order", category: str | None = None) -> None:
        """One order or refund of one piece of each product; a product's name is its id in capitals."""
        when = day if isinstance(day, date) else date.fromisoformat(day)
        sign = 1 if kind == "order" else -1
        order = {"order_date": when, "event_id": f"e{len(self.orders):06}", "order_id": f"o{len(self.orders)}", "kind": kind}
        self.orders.append({
            **order, "identity": who, "currency": "GBP", "net_revenue": Decimal(sign * len(products)), "item_lines": len(products),
            "ordered_at": datetime.combine(when, time(12), UTC), "units": sign * len(products),
        })  # fmt: skip
        for line, product in enumerate(products, start=1):
            about = {"product_id": product, "product_name": product.upper(), "category": category, "price": Decimal(1)}
            self.items.append({**order, "line": line, "quantity": sign, **about})

    def returned(self, who: str, day: str, *products: str) -> None:
        """One refund."""
        self.bought(who, day, *products, kind="refund")

    def open(self, first: date, last: date) -> None:
        """Write what recommendations are made of for these days."""
        days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
        names = sorted({order["identity"] for order in self.orders} | set(self.people))
        identities = [
            {"as_of_date": day, "identity": name, "kind": kind_of(name), "customer_id": self.people.get(name, name)}
            for day in days
            for name in names
        ]
        for table, rows in ((ORDERS, self.orders), (ORDER_ITEMS, self.items), (IDENTITIES, identities)):
            self.write(table, rows)
        with engine() as connection:
            self.write(CUSTOMERS, customers(self.work(connection, first, last))[CUSTOMERS.name])

    def write(self, table: Table, rows: pa.Table | list[dict[str, Any]]) -> None:
        """Replace a table."""
        if isinstance(rows, list):
            full = [{name: row.get(name) for name in table.column_names} for row in rows]
            rows = pa.Table.from_pylist(full, schema=table.arrow_schema())
        self.platform.lake.replace(table, rows, None, {})

    def work(self, connection: duckdb.DuckDBPyConnection, first: date, last: date) -> Work:
        """A materialisation of a range of days."""
        start, end = (datetime.combine(day, time(), UTC) for day in (first, last + timedelta(days=1)))
        return Work(self.platform, Window(first, last, start, end), connection, logging.getLogger(__name__))

    def night(
        self, first: str | date, last: str | date | None = None, opened: bool = False, change: Callable[..., Any] | None = None
    ) -> tuple[dict[str, pl.DataFrame], set[str]]:
        """The tables of a range of days, and the names of the checks that object; `change` spoils the tables before them."""
        start, end = (date.fromisoformat(str(day)) for day in (first, last or first))
        if not opened:
            self.open(start, end)
        with engine() as connection, closing(self.work(connection, start, end)) as work:
            found = recommendations(work)
            for table in TABLES:
                show(connection, table, found[table.name], table.name)
            rows = {table.name: connection.sql(f"FROM {table.name}").pl() for table in TABLES}
            if change:
                rows = change(rows)
            for name, frame in rows.items():
                connection.register("rows" if name == "recommendations" else f"rows_of_{name}", frame.to_arrow())
            audits = [*promises(self.platform.settings.recommendations), EXCLUSIONS_ARE_KNOWN]
            self.objections = {audit.name: connection.sql(audit.violations).fetchall() for audit in audits}
            return rows, {name for name, found in self.objections.items() if found}


def kind_of(identity: str) -> str:
    return "anonymous" if identity.startswith("visitor") else "named"


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """An empty shop."""
    return Shop(tmp_path / "home")
