"""Small declared tables to store and publish."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from analytics_assets.warehouse.lake import Window
from analytics_assets.warehouse.tables import Column, Table

DAILY = Table(
    name="sales",
    rows_are="sale",
    columns=(
        Column("day", "DATE", "Business day of the sale."),
        Column("sale_id", "VARCHAR", "Number of the sale."),
        Column("shop", "VARCHAR", "Where; it's optional.", nullable=True),
        Column("till", "VARCHAR", "Till of the shop.", nullable=True),
        Column("amount", "DECIMAL(18,2)", "What was paid.", "currency", nullable=True),
        Column("sold_at", "TIMESTAMPTZ", "When.", nullable=True),
        Column("loaded_at", "TIMESTAMPTZ", "When the row was loaded.", nullable=True, run_dependent=True),
    ),
    key=("sale_id",),
    grain="day",
    partition_column="day",
)

HOURLY = Table(
    name="ticks",
    rows_are="tick",
    columns=(
        Column("day", "DATE", "Business day."),
        Column("hour", "TIMESTAMPTZ", "Beginning of the hour."),
        Column("tick", "BIGINT", "Number of the tick."),
    ),
    key=("tick",),
    grain="hour",
    partition_column="day",
)


def sale(
    sale_id: str, day: int = 1, shop: str | None = "north", till: str | None = "1", amount: Any = 1, **more: Any
) -> dict[str, Any]:
    """A row of `sales`; days are those of November 2011."""
    return {
        "day": date(2011, 11, day),
        "sale_id": sale_id,
        "shop": shop,
        "till": till,
        "amount": None if amount is None else Decimal(amount),
        **more,
    }


def tick(hour: int, number: int) -> dict[str, Any]:
    """A row of `ticks` on 2011-11-01."""
    return {"day": date(2011, 11, 1), "hour": datetime(2011, 11, 1, hour, tzinfo=UTC), "tick": number}


def rows_of(table: Table, rows: list[dict[str, Any]]) -> pa.Table:
    """Rows as Arrow, with what is not given as NULL."""
    full = [{name: row.get(name) for name in table.column_names} for row in rows]
    return pa.Table.from_pylist(full, schema=table.arrow_schema())


def hours(first: int, last: int) -> Window:
    """From the beginning of one hour of 2011-11-01 to the beginning of another."""
    start = datetime(2011, 11, 1, tzinfo=UTC)
    return Window(
        date(2011, 11, 1), date(2011, 11, 1), start + timedelta(hours=first), start + timedelta(hours=last), whole_days=False
    )


def days(first: int, last: int) -> Window:
    """Whole days of November 2011, both included."""
    start, end = datetime(2011, 11, first, tzinfo=UTC), datetime(2011, 11, last, tzinfo=UTC) + timedelta(days=1)
    return Window(date(2011, 11, first), date(2011, 11, last), start, end)


@dataclass(frozen=True)
class Shelf:
    """The tables and how to fill them, without importing from here."""

    daily: Table = DAILY
    hourly: Table = HOURLY
    sale: Any = staticmethod(sale)
    tick: Any = staticmethod(tick)
    rows_of: Any = staticmethod(rows_of)
    hours: Any = staticmethod(hours)
    days: Any = staticmethod(days)


@pytest.fixture
def shelf() -> Shelf:
    """Small tables."""
    return Shelf()
