"""A SaaS company of a few written hours in a lake of its own, and the assets' functions run over it without Dagster."""

import logging
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pyarrow as pa
import pytest

from analytics_assets.home import Home
from analytics_assets.saas.accounts.assets import ACCOUNT_MEMBERS, ACCOUNTS
from analytics_assets.saas.health.assets import ACCOUNT_HEALTH, account_health
from analytics_assets.saas.health.outcomes import health_outcomes
from analytics_assets.saas.usage.assets import ACCOUNT_USAGE
from analytics_assets.settings import parse_settings
from analytics_assets.warehouse.engine import engine
from analytics_assets.warehouse.tables import Table
from analytics_assets.warehouse.work import Platform, Work


@dataclass
class Vendor:
    """Usage and accounts, written down one by one; `health` computes the rows of some hours."""

    folder: Path
    settings: str = ""
    zone: str = "UTC"
    first_day: date = date(2026, 1, 1)
    usage: list[dict[str, Any]] = field(default_factory=list)
    accounts: list[dict[str, Any]] = field(default_factory=list)
    members: list[dict[str, Any]] = field(default_factory=list)

    @property
    def platform(self) -> Platform:
        """The vendor's platform."""
        text = f'[business]\ntime_zone = "{self.zone}"\ncurrency = "GBP"\nfirst_day = {self.first_day}\nlast_day = 2027-12-31\n'
        return Platform(parse_settings(text + self.settings, "x"), Home(self.folder))

    def used(
        self, account: str, hour: datetime, events: int = 1, users: int = 1, features: int = 1, seats: int | None = None
    ) -> None:
        """What an account did in the hour that begins at an instant."""
        day = hour.astimezone(ZoneInfo(self.zone)).date()
        self.usage.append({
            "event_date": day, "hour": hour, "account_id": account, "events": events, "active_users": users,
            "features_used": features, "sessions": users, "seats": seats,
        })  # fmt: skip

    def used_daily(self, account: str, first: str, last: str, at: int = 12, **figures: Any) -> None:
        """The same on every day from the first to the last, at the same hour."""
        day, end = date.fromisoformat(first), date.fromisoformat(last)
        while day <= end:
            self.used(account, datetime(day.year, day.month, day.day, at, tzinfo=UTC), **figures)
            day += timedelta(days=1)

    def account(
        self,
        account: str,
        days: tuple[str, str],
        first_seen: str,
        seats: int | None = None,
        ended_on: str | None = None,
        status: str = "active",
    ) -> None:
        """An account in `accounts` of each day of a span, with a status until it has ended, from `ended_on` on."""
        day, end = (date.fromisoformat(text) for text in days)
        ended = date.fromisoformat(ended_on) if ended_on else None
        while day <= end:
            over = ended is not None and ended <= day
            self.accounts.append({
                "as_of_date": day, "account_id": account, "first_seen_date": date.fromisoformat(first_seen),
                "status": "canceled" if over else status, "seats": seats, "renewals": 0, "ended_on": ended if over else None,
            })  # fmt: skip
            day += timedelta(days=1)

    def member(self, identity: str, days: tuple[str, str], account: str) -> None:
        """An identity in `account_members` of each day of a span, where people are accounts."""
        day, end = (date.fromisoformat(text) for text in days)
        while day <= end:
            self.members.append({
                "as_of_date": day, "identity": identity, "received_date": day, "user_id": account, "account_id": account,
            })  # fmt: skip
            day += timedelta(days=1)

    def open(self) -> None:
        """Write the tables."""
        for table, rows in ((ACCOUNT_USAGE, self.usage), (ACCOUNTS, self.accounts), (ACCOUNT_MEMBERS, self.members)):
            full = [{name: row.get(name) for name in table.column_names} for row in rows]
            self.write(table, pa.Table.from_pylist(full, schema=table.arrow_schema()))

    def write(self, table: Table, rows: pa.Table) -> None:
        """Replace a table."""
        self.platform.lake.replace(table, rows, None, {})

    def compute(self, function: Callable[[Work], Any], start: datetime, end: datetime) -> Any:
        """What an asset's function returns for a window."""
        window = self.platform.clock.window(start, end)
        with engine() as connection, closing(Work(self.platform, window, connection, logging.getLogger(__name__))) as work:
            return function(work)

    def health(self, hour: datetime, hours: int = 1) -> pl.DataFrame:
        """`account_health` of the hour, and of those that follow."""

        def rows(work: Work) -> pa.Table:
            return account_health(work)[ACCOUNT_HEALTH.name].reader().read_all()

        return pl.DataFrame(self.compute(rows, hour, hour + timedelta(hours=hours))).sort("hour", "account_id")

    def outcomes(self, first: date, last: date | None = None) -> pl.DataFrame:
        """`health_outcomes` of a range of days."""
        clock = self.platform.clock
        end = clock.begins((last or first) + timedelta(days=1))
        return pl.DataFrame(self.compute(health_outcomes, clock.begins(first), end)["health_outcomes"])


@pytest.fixture
def vendor(tmp_path: Path) -> Vendor:
    """A vendor without accounts."""
    return Vendor(tmp_path / "home")
