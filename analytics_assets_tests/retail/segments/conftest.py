"""A shop of a few written orders in a lake of its own, and the asset's function run over it without Dagster."""

import logging
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from analytics_assets.events.identities import identities
from analytics_assets.events.tables import IDENTITIES, RECORDS
from analytics_assets.home import Home
from analytics_assets.retail.customers.assets import CUSTOMERS, customers
from analytics_assets.retail.orders.assets import ORDERS
from analytics_assets.retail.segments.assets import customer_segments
from analytics_assets.settings import parse_settings
from analytics_assets.warehouse.engine import engine
from analytics_assets.warehouse.lake import Window
from analytics_assets.warehouse.tables import Table
from analytics_assets.warehouse.work import Platform, Work
from analytics_assets_tests.conftest import in_memory


@dataclass
class Shop:
    """Orders and aliases, written down one by one; `open` computes who is who and who bought what on the given days."""

    folder: Path
    settings: str = ""
    first_day: date = date(2026, 1, 1)
    orders: list[dict[str, Any]] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)

    @property
    def platform(self) -> Platform:
        """The shop's platform."""
        text = f'[business]\ntime_zone = "UTC"\ncurrency = "GBP"\nfirst_day = {self.first_day}\nlast_day = 2030-12-31\n'
        return Platform(parse_settings(text + self.settings, "x"), Home(self.folder))

    def bought(self, who: str, day: str | date, amount: Any, currency: str = "GBP") -> None:
        """One order; a negative amount is a refund."""
        when = day if isinstance(day, date) else date.fromisoformat(day)
        number = len(self.orders)
        self.orders.append({
            "order_date": when, "event_id": f"e{number}", "order_id": f"o{number}", "identity": who, "currency": currency,
            "kind": "refund" if Decimal(str(amount)) < 0 else "order", "net_revenue": Decimal(str(amount)),
            "ordered_at": datetime.combine(when, time(12), UTC), "item_lines": 0, "units": 0,
        })  # fmt: skip
        self._record("event", who, None, when)

    def alias(self, one: str, other: str, day: str) -> None:
        """Two identities are known to be one person from this day on."""
        self._record("alias", one, other, date.fromisoformat(day))

    def _record(self, kind: str, identity: str, other: str | None, day: date) -> None:
        number = len(self.records)
        self.records.append({
            "file": "1.json", "line_number": number, "kind": kind, "record_id": str(number), "identity": identity,
            "other_identity": other, "occurred_at": datetime.combine(day, time(12), UTC), "properties": "{}",
        })  # fmt: skip

    def write(self, table: Table, rows: pa.Table | list[dict[str, Any]]) -> None:
        """Replace a table."""
        if isinstance(rows, list):
            full = [{name: row.get(name) for name in table.column_names} for row in rows]
            rows = pa.Table.from_pylist(full, schema=table.arrow_schema())
        self.platform.lake.replace(table, rows, None, {})

    def open(self, first: date, last: date) -> None:
        """Write what customer segments are made of for these days."""
        self.write(RECORDS, self.records)
        self.write(ORDERS, self.orders)
        self.write(IDENTITIES, self.compute(identities, first, last)[IDENTITIES.name])
        self.write(CUSTOMERS, self.compute(customers, first, last)[CUSTOMERS.name])

    def compute(self, function: Callable[[Work], Any], first: date, last: date) -> Any:
        """What an asset's function returns for a range of days."""
        with engine() as connection, closing(self.work(connection, first, last)) as work:
            return {name: in_memory(rows) for name, rows in function(work).items()}

    def work(self, connection: Any, first: date, last: date) -> Work:
        """A materialisation of a range of days."""
        clock = self.platform.clock
        window = Window(first, last, clock.begins(first), clock.begins(last + timedelta(days=1)))
        return Work(self.platform, window, connection, logging.getLogger(__name__))

    def segments(self, first: str | date, last: str | date | None = None, opened: bool = False) -> dict[str, pl.DataFrame]:
        """`customer_segments` and `segment_movements` of a range of days."""
        start, end = (date.fromisoformat(str(day)) for day in (first, last or first))
        if not opened:
            self.open(start, end)
        return {name: pl.DataFrame(rows) for name, rows in self.compute(customer_segments, start, end).items()}


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """An empty shop."""
    return Shop(tmp_path / "home")
