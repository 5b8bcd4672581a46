"""A shop of a few written orders, people and traits in a lake of its own, and the asset's function run over it without Dagster."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from analytics_assets.events.tables import IDENTITIES, TRAITS
from analytics_assets.home import Home
from analytics_assets.retail.cohorts.assets import cohort_retention
from analytics_assets.retail.customers.assets import CUSTOMERS, customers
from analytics_assets.retail.orders.assets import ORDERS
from analytics_assets.settings import parse_settings
from analytics_assets.warehouse.engine import engine
from analytics_assets.warehouse.lake import Window
from analytics_assets.warehouse.tables import Table
from analytics_assets.warehouse.work import Platform, Work


@dataclass
class Shop:
    """Orders and traits, written down one by one. An identity is a customer of its own unless `merged` says otherwise."""

    folder: Path
    cohorts: tuple[str, ...] = ()
    first_day: date = date(2026, 1, 1)
    orders: list[dict[str, Any]] = field(default_factory=list)
    traits: list[dict[str, Any]] = field(default_factory=list)
    merged: dict[str, tuple[str, date]] = field(default_factory=dict)
    anonymous: set[str] = field(default_factory=set)

    @property
    def platform(self) -> Platform:
        """The shop's platform."""
        text = f'[business]\ntime_zone = "UTC"\ncurrency = "GBP"\nfirst_day = {self.first_day}\nlast_day = 2030-12-31\n'
        return Platform(parse_settings(f"{text}[customers]\ncohorts = {list(self.cohorts)}\n", "x"), Home(self.folder))

    def bought(self, who: str, day: str | date, amount: Any = 1, currency: str = "GBP") -> None:
        """One order; a negative amount is a refund."""
        when = day if isinstance(day, date) else date.fromisoformat(day)
        number = len(self.orders)
        self.orders.append({
            "order_date": when, "event_id": f"e{number}", "order_id": f"o{number}", "identity": who, "currency": currency,
            "kind": "refund" if Decimal(str(amount)) < 0 else "order", "net_revenue": Decimal(str(amount)),
            "ordered_at": datetime.combine(when, time(12), UTC), "item_lines": 0, "units": 0,
        })  # fmt: skip

    def said(self, who: str, day: str | date, value: str, trait: str = "country", second: int = 0) -> None:
        """One value of a trait, in a second of a day."""
        when = day if isinstance(day, date) else date.fromisoformat(day)
        at = int(datetime.combine(when, time(), UTC).timestamp()) + second
        for second, one in ((at, value), (at + 1, f"later {value}")):
            said = {"event_date": when, "identity": who, "trait": trait, "value": one}
            self.traits.append(said | {"first_second": second, "last_second": second})

    def customer_of(self, who: str, day: date) -> str:
        """Whose identity it is, as known at the end of a day."""
        other, since = self.merged.get(who, (who, day))
        return other if since <= day else who

    def write(self, table: Table, rows: pa.Table | list[dict[str, Any]]) -> None:
        """Replace a table."""
        if isinstance(rows, list):
            full = [{name: row.get(name) for name in table.column_names} for row in rows]
            rows = pa.Table.from_pylist(full, schema=table.arrow_schema())
        self.platform.lake.replace(table, rows, None, {})

    def open(self, first: date, last: date) -> None:
        """Write what cohorts are made of for these days."""
        people = {row["identity"] for row in (*self.orders, *self.traits)}
        days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
        self.write(ORDERS, self.orders)
        self.write(TRAITS, self.traits)
        self.write(IDENTITIES, [
            {"as_of_date": day, "identity": who, "kind": "anonymous" if who in self.anonymous else "named",
             "customer_id": self.customer_of(who, day)}
            for day in days for who in sorted(people)
        ])  # fmt: skip
        self.write(CUSTOMERS, self.compute(customers, first, last)[CUSTOMERS.name])

    def compute(self, function: Callable[[Work], Any], first: date, last: date) -> Any:
        """What an asset's function returns for a range of days."""
        clock = self.platform.clock
        window = Window(first, last, clock.begins(first), clock.begins(last + timedelta(days=1)))
        with engine() as connection:
            return function(Work(self.platform, window, connection, logging.getLogger(__name__)))

    def retention(self, first: str | date, last: str | date | None = None, opened: bool = False) -> pl.DataFrame:
        """`cohort_retention` of a range of days, in the order of its key."""
        start, end = (date.fromisoformat(str(day)) for day in (first, last or first))
        if not opened:
            self.open(start, end)
        rows = self.compute(cohort_retention, start, end)["cohort_retention"]
        return pl.DataFrame(rows).sort("as_of_date", "cohort_by", "cohort", "currency", "period")


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """An empty shop."""
    return Shop(tmp_path / "home")
