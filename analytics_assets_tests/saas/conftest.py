"""A SaaS company of landed records in a lake of its own, and the assets' functions run over it without Dagster."""

import hashlib
import json
import logging
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from analytics_assets.events.events import events
from analytics_assets.events.tables import RECORDS
from analytics_assets.home import Home
from analytics_assets.saas.accounts.assets import accounts
from analytics_assets.saas.usage.assets import account_days, account_usage
from analytics_assets.settings import parse_settings
from analytics_assets.warehouse.engine import engine
from analytics_assets.warehouse.lake import Window, predicate_for
from analytics_assets.warehouse.tables import Table
from analytics_assets.warehouse.work import Compute, Platform, Work
from analytics_assets_tests.conftest import in_memory


@cache
def _platform(settings: str, folder: Path) -> Platform:
    return Platform(parse_settings(settings, "x"), Home(folder))


@dataclass
class Company:
    """Records written down one by one. The seconds are instants; `day` and `zone` are the business's."""

    folder: Path
    zone: str = "UTC"
    first_day: date = date(2026, 3, 1)
    last_day: date = date(2026, 3, 31)
    more_settings: str = ""
    records: list[dict[str, Any]] = field(default_factory=list)

    @property
    def platform(self) -> Platform:
        """The company's platform."""
        business = f'[business]\ntime_zone = "{self.zone}"\ncurrency = "EUR"\n'
        days = f"first_day = {self.first_day}\nlast_day = {self.last_day}\n"
        return _platform(business + days + self.more_settings, self.folder)

    def at(self, local: str, fold: int = 0) -> int:
        """Seconds since 1970 of a local time."""
        zone = self.platform.settings.business.zone
        return int(datetime.fromisoformat(local).replace(tzinfo=zone, fold=fold).timestamp())

    def event(self, who: str, when: int | str, name: str = "worked", received: int | None = None, **properties: str) -> None:
        """Something that a person did; underscores in the names of properties are spaces."""
        self._land("event", who, when, received, name=name, properties=properties)

    def told(self, who: str, when: int | str, received: int | None = None, **properties: str) -> None:
        """Properties without an event."""
        self._land("set", who, when, received, properties=properties)

    def alias(self, who: str, other: str, when: int | str, received: int | None = None) -> None:
        """Two identities are one person."""
        self._land("alias", who, when, received, other_identity=other)

    def _land(self, kind: str, who: str, when: int | str, received: int | None, **more: Any) -> None:
        second = self.at(when) if isinstance(when, str) else when
        named = {name.replace("_", " "): value for name, value in sorted(more.pop("properties", {}).items())}
        number = len(self.records)
        self.records.append({
            "file": "1.json", "revision": 1, "line_number": number, "kind": kind, "identity": who,
            "record_id": hashlib.md5(str((number, kind, who)).encode()).hexdigest(),
            "occurred_at": datetime.fromtimestamp(second, UTC),
            "received_at": None if received is None else datetime.fromtimestamp(received, UTC),
            "properties": json.dumps(named, separators=(",", ":")), **more,
        })  # fmt: skip

    def land(self) -> None:
        """Write the records into the lake."""
        full = [{name: row.get(name) for name in RECORDS.column_names} for row in self.records]
        self.platform.lake.replace(RECORDS, pa.Table.from_pylist(full, schema=RECORDS.arrow_schema()), None, {})

    def days(self, first: date, last: date) -> Window:
        """The window of whole days."""
        clock = self.platform.clock
        return clock.window(clock.begins(first), clock.begins(last + timedelta(days=1)))

    @property
    def all_days(self) -> Window:
        """The window of everything."""
        return self.days(self.first_day, self.last_day)

    @property
    def hours(self) -> list[Window]:
        """The window of every hour."""
        clock, everything = self.platform.clock, self.all_days
        starts = sorted(clock.hour_keys(everything.start, everything.end))
        return [clock.window(start, end) for start, end in zip(starts, [*starts[1:], everything.end], strict=True)]

    def compute(self, function: Compute, window: Window) -> Mapping[str, pa.Table]:
        """What an asset's function returns for a window."""
        with engine() as connection, closing(Work(self.platform, window, connection, logging.getLogger(__name__))) as work:
            return {name: in_memory(rows) for name, rows in function(work).items()}

    def write(self, rows: Mapping[str, pa.Table], window: Window, *tables: Table) -> None:
        """Replace a window of tables."""
        for table in tables:
            self.platform.lake.replace(table, rows[table.name], predicate_for(table, window), {})

    def materialise(self) -> None:
        """Land, and compute everything from nothing: each table in one go over all days."""
        from analytics_assets.events.tables import ACCOUNT_RECORDS, EVENTS, PROPERTY_SETS
        from analytics_assets.saas.accounts.assets import ACCOUNT_MEMBERS, ACCOUNTS
        from analytics_assets.saas.usage.assets import ACCOUNT_DAYS, ACCOUNT_USAGE

        self.land()
        window = self.all_days
        for function, tables in (
            (events, (EVENTS, PROPERTY_SETS, ACCOUNT_RECORDS)),
            (accounts, (ACCOUNTS, ACCOUNT_MEMBERS)),
            (account_usage, (ACCOUNT_USAGE,)),
            (account_days, (ACCOUNT_DAYS,)),
        ):
            self.write(self.compute(function, window), window, *tables)

    def rows(self, table: Table, where: str = "true", columns: str = "*", order: str = "ALL") -> list[tuple[Any, ...]]:
        """Rows of a table of the lake."""
        from analytics_assets.warehouse.engine import attach

        with engine() as connection:
            attach(connection, self.platform.lake.pin(table))
            return connection.sql(f"SELECT {columns} FROM {table.name} WHERE {where} ORDER BY {order}").fetchall()

    def digests(self, table: Table) -> dict[Any, tuple[int, str]]:
        """Rows and digest of every partition."""
        from analytics_assets.warehouse.engine import attach

        with engine() as connection:
            attach(connection, self.platform.lake.pin(table))
            return {part: (rows, digest) for part, rows, digest in connection.sql(table.digest_select(table.name)).fetchall()}


@pytest.fixture
def company(tmp_path: Path) -> Company:
    """An empty company; its clock and settings may be changed before anything is written."""
    return Company(tmp_path / "home")
