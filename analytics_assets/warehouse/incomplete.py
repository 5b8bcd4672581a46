"""Hours that were computed before they were in: what a night that could not wait was made without.

The table is empty in ordinary times. `events` writes it, in the run that computes the hour; what is made of the hour says so on
its page, freshness tells it, and nothing of it goes out. When the hour is in, it is computed again and its row is gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from zoneinfo import ZoneInfo

import duckdb

from analytics_assets.warehouse.engine import attach, engine
from analytics_assets.warehouse.lake import Lake
from analytics_assets.warehouse.tables import Column, Table

INCOMPLETE_HOURS = Table(
    name="incomplete_hours",
    rows_are="hour that was computed before the export had been received past its end",
    columns=(
        Column("event_date", "DATE", "Business day of the hour."),
        Column("hour", "TIMESTAMPTZ", "Instant at which the business hour begins."),
        Column(
            "received_until",
            "TIMESTAMPTZ",
            "Up to when the export had been received then; NULL where nothing had.",
            nullable=True,
            run_dependent=True,
        ),
    ),
    key=("hour",),
    grain="hour",
    partition_column="event_date",
)


@dataclass(frozen=True)
class Lack:
    """The last hours of a business day, which were not in: from `first_hour` on."""

    day: date
    first_hour: datetime
    hours: int
    received_until: datetime | None

    def in_words(self, zone: ZoneInfo) -> str:
        """What the day lacks, on the business's clock."""
        until = f"received until {self.received_until.astimezone(zone):%Y-%m-%d %H:%M}" if self.received_until else "not received"
        return f"{self.day} was computed without its last {self.hours} hour{'s' * (self.hours > 1)}: the export had been {until}"


def lacks_in(connection: duckdb.DuckDBPyConnection, relation: str = INCOMPLETE_HOURS.name) -> list[Lack]:
    """What business days lack, the earliest first, by a relation with the columns of `incomplete_hours`."""
    query = f"SELECT event_date, min(hour), count(*), max(received_until) FROM {relation} GROUP BY 1 ORDER BY 1"
    return [Lack(*row) for row in connection.sql(query).fetchall()]


def lacks(lake: Lake) -> list[Lack]:
    """What business days lack now, the earliest first."""
    pin = lake.pin(INCOMPLETE_HOURS)
    # In ordinary times there is no file, and no engine is started.
    if not pin.files():
        return []
    with engine() as connection:
        attach(connection, pin)
        return lacks_in(connection)
