"""A small shop with hand-written events, run through the whole platform in a home of its own.

The shop is in London, from Saturday 2011-10-29 to Tuesday 2011-11-01. Sunday has 25 hours. What it sold, by hand:

| day | orders | refunds | net revenue |
|---|---|---|---|
| 10-29 | 30.00 ann, 12.50 bob, 25.00 cat | | 67.50 |
| 10-30 | 7.00 and 8.00 late visitor, 3.00 stranger, 20.00 dan | 10.00 ann | 28.00 |
| 10-31 | 5.00 eve, 6.67 ann, 1.00 Bob | | 12.67 |
| 11-01 | 4.00 bob's second device | | 4.00 |

The late visitor turns out to be fay when the alias is received on 11-01. Beside these lie orders of the day before the
first (888.00) and of the day after the last (999.00), which belong to no partition.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import duckdb
import pyarrow as pa
import pytest

from analytics_assets.definitions import PUBLISHED, build_definitions, build_platform
from analytics_assets.events.loading import pin_export
from analytics_assets.events.tables import RECORDS
from analytics_assets.home import Home
from analytics_assets.operations.catch_up import Done, catch_up, run_stage
from analytics_assets.settings import Settings, parse_settings
from analytics_assets.warehouse.engine import attach, engine
from analytics_assets.warehouse.staged import Staged
from analytics_assets.warehouse.tables import Table
from analytics_assets.warehouse.work import Platform, Rows

os.environ["DAGSTER_DISABLE_TELEMETRY"] = "true"

LONDON = ZoneInfo("Europe/London")
AUTUMN = '[business]\ntime_zone = "Europe/London"\ncurrency = "GBP"\nfirst_day = 2011-10-29\nlast_day = 2011-11-01\n'


def in_memory(rows: Rows) -> pa.Table:
    """Rows that an asset's function returned, from where they are staged too."""
    return rows.reader().read_all() if isinstance(rows, Staged) else rows


def at(local: str, fold: int = 0) -> int:
    """Seconds since 1970 of a London time; `fold=1` is the second of the two hours that read the same."""
    return int(datetime.fromisoformat(local).replace(tzinfo=LONDON, fold=fold).timestamp())


def visitor(name: str) -> str:
    """An anonymous identity as KISSmetrics makes them."""
    return base64.b64encode(hashlib.sha1(name.encode()).digest()).decode()


def event(name: str, who: str, when: int, **properties: str) -> bytes:
    """An event's line; `order_id` is written `order id`."""
    return _line({"_n": name, "_p": who, "_t": when}, properties)


def item(
    who: str, when: int, sku: str, price: str, quantity: str, prefix: str = "purchased", name: str = "", **more: str
) -> bytes:
    """The line of an order's item."""
    return _line(
        {"_p": who, "_t": when, f"{prefix} sku": sku, f"{prefix} product name": name or sku.upper()},
        {"price": price, "quantity": quantity} | more,
    )


def traits(who: str, when: int, **values: str) -> bytes:
    """The line of a set of properties of a person."""
    return _line({"_p": who, "_t": when}, values)


def alias(one: str, other: str, when: int) -> bytes:
    """An alias's line."""
    return _line({"_p": one, "_p2": other, "_t": when}, {})


def _line(record: dict[str, Any], properties: dict[str, str]) -> bytes:
    return json.dumps(record | {name.replace("_", " "): value for name, value in properties.items()}, ensure_ascii=False).encode()


def write_export(folder: Path, files: dict[int, tuple[int, list[bytes]]]) -> Path:
    """Write revisions and index: by number, the second in which the file's last line was received, and its lines."""
    (folder / "revisions").mkdir(parents=True, exist_ok=True)
    index = folder / "index.csv"
    rows = (
        index.read_text().splitlines() if index.exists() else ["filename,min_timestamp,max_timestamp,min_utc_date,max_utc_date"]
    )
    for number, (received, lines) in files.items():
        (folder / "revisions" / f"{number}.json").write_bytes(b"\n".join(lines) + b"\n")
        day = datetime.fromtimestamp(received, UTC).strftime("%Y-%m-%d %H:%M GMT")
        rows.append(f"revisions/{number}.json,{received - 600},{received},{day},{day}")
    index.write_text("\n".join(rows) + "\n")
    return folder


def autumn_files() -> dict[int, tuple[int, list[bytes]]]:
    """The export of the shop."""
    ann, bob, cat, dan = "ann@x.test", "bob@x.test", "cat@x.test", "dan@x.test"
    visit = event("visited site", visitor("ann's browser"), at("2011-10-29 09:00"), url="https://x.test/")
    first_order = event("purchased", ann, at("2011-10-29 10:00"), order_id="1", order_total="30.00")
    return {
        1: (at("2011-10-29 23:59:59"), [
            event("purchased", "old@x.test", at("2011-10-28 23:59:59"), order_id="0", order_total="888.00"),
            visit,
            alias(ann, visitor("ann's browser"), at("2011-10-29 09:59:55")),
            first_order,
            item(ann, at("2011-10-29 10:00:00"), "a1", "10.00", "2"),
            item(ann, at("2011-10-29 10:00:01"), "b2", "10.00", "1", name="Café cup"),
            first_order,
            b'{"_n":"purchased","_p":"ann@x.test","_t":13',
            event("purchased", bob, at("2011-10-29 10:59:59"), order_id="2", order_total="12.50"),
            item(bob, at("2011-10-29 11:00:00"), "a1", "12.50", "1", purchased_category="Cups"),
            traits(bob, at("2011-10-29 11:00:30"), country="Ireland", newsletter="no"),
            traits(bob, at("2011-10-29 12:00:00"), newsletter="yes"),
            event("purchased", cat, at("2011-10-29 23:59:58"), order_id="3", order_total="25.00"),
            item(cat, at("2011-10-29 23:59:59"), "a1", "10.00", "1"),
        ]),
        2: (at("2011-10-31 23:59:59"), [
            item(cat, at("2011-10-30 00:00:01"), "b2", "15.00", "1"),
            event("purchased", visitor("late"), at("2011-10-30 01:30", fold=0), order_id="4", order_total="7.00"),
            event("purchased", visitor("late"), at("2011-10-30 01:30", fold=1), order_id="5", order_total="8.00"),
            event("purchased", visitor("stranger"), at("2011-10-30 02:30"), order_id="10", order_total="3.00"),
            alias(cat, "guest", at("2011-10-30 11:00")),
            alias(dan, "Guest", at("2011-10-30 11:00")),
            visit,
            event("purchased", dan, at("2011-10-30 12:00"), order_id="6", order_total="20.00", purchased_sku="c3", price="20.00", quantity="1"),
            event("refunded", ann, at("2011-10-30 15:00"), order_id="1", order_total="10.00"),
            item(ann, at("2011-10-30 15:00"), "b2", "10.00", "1", prefix="returned"),
            event("purchased", "eve@x.test", at("2011-10-31 00:00"), order_total="5.00"),
            event("purchased", "Bob@X.test", at("2011-10-31 09:00"), order_id="9", order_total="£1.00"),
            event("purchased", ann, at("2011-10-31 23:30"), order_id="7"),
            item(ann, at("2011-10-31 23:30"), "d4", "3.333", "2"),
        ]),
        3: (at("2011-11-01 23:59:59"), [
            alias("fay@x.test", visitor("late"), at("2011-10-29 12:00")),
            alias(bob, visitor("bob's first device"), at("2011-11-01 09:00")),
            alias(visitor("bob's first device"), visitor("bob's second device"), at("2011-11-01 09:00")),
            event("purchased", visitor("bob's second device"), at("2011-11-01 10:00"), order_id="8", order_total="4.00"),
            event("visited site", bob, at("2011-11-01 23:59:59")),
        ]),
        4: (at("2011-11-02 01:00"), [
            event("purchased", "zed@x.test", at("2011-11-02 00:00"), order_id="11", order_total="999.00"),
        ]),
    }  # fmt: skip


@dataclass
class Company:
    """An export, its settings and its home."""

    export: Path
    home: Home
    settings: Settings
    memory: dg.DagsterInstance | None = None

    def platform(self) -> Platform:
        """A new platform, as a new process makes one."""
        return build_platform(self.settings, self.home)

    @contextlib.contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        """Dagster's storage: below the home, or in memory, which is twice as fast and cannot be copied."""
        if self.memory:
            yield self.memory
            return
        self.home.dagster.mkdir(parents=True, exist_ok=True)
        with dg.DagsterInstance.local_temp(str(self.home.dagster), overrides={"telemetry": {"enabled": False}}) as instance:
            yield instance

    def load(self) -> None:
        """Load new files."""
        pin_export(self.home, self.export, "kissmetrics")
        with self.instance() as instance:
            run_stage(build_definitions(self.platform()), instance, None)

    def catch_up(self) -> list[Done]:
        """Compute what is missing or outdated, as `make run` does after loading."""
        with self.instance() as instance:
            return catch_up(self.platform(), instance, lambda stage: None)

    def query(self, sql: str) -> list[tuple]:
        """Rows of the published database."""
        with contextlib.closing(duckdb.connect(str(self.home.database), read_only=True)) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            return connection.sql(sql).fetchall()

    def lake_query(self, sql: str, *tables: Table) -> list[tuple]:
        """Rows of the lake's tables."""
        with engine() as connection:
            for table in tables:
                attach(connection, self.platform().lake.pin(table))
            return connection.sql(sql).fetchall()

    def digests(self) -> dict[tuple[str, Any], tuple[int, str]]:
        """Rows and digest of every partition of every table."""
        found = {}
        for table in (RECORDS, *PUBLISHED):
            for partition, rows, digest in self.lake_query(table.digest_select(table.name), table):
                found[table.name, partition] = (rows, digest)
        return found

    def versions(self) -> dict[str, int | None]:
        """The Delta version of every table."""
        return {table.name: self.platform().lake.pin(table).version for table in (RECORDS, *PUBLISHED)}

    def add(self, number: int, received: int, lines: list[bytes]) -> None:
        """One more file in the export."""
        write_export(self.export, {number: (received, lines)})

    def copy(self, folder: Path) -> Company:
        """The same company elsewhere, as far as it has come."""
        shutil.copytree(self.export, folder / "export")
        shutil.copytree(self.home.root, folder / "home", symlinks=True)
        twin = Company(folder / "export", Home(folder / "home"), self.settings)
        twin.home.remember(exports=str(twin.export))
        return twin


@dataclass(frozen=True)
class Lines:
    """How tests write lines, without importing from here."""

    at: Callable[..., int] = at
    visitor: Callable[[str], str] = visitor
    event: Callable[..., bytes] = event
    item: Callable[..., bytes] = item
    alias: Callable[[str, str, int], bytes] = alias
    traits: Callable[..., bytes] = traits
    autumn: Callable[[], dict[int, tuple[int, list[bytes]]]] = autumn_files
    settings: str = AUTUMN


@pytest.fixture(scope="session")
def lines() -> Lines:
    """Functions that write the lines of an export."""
    return Lines()


@pytest.fixture
def new_company(tmp_path: Path) -> Callable[..., Company]:
    """Make a company of files and settings; nothing is loaded yet."""
    return lambda files, settings=AUTUMN, name="company": make_company(tmp_path / name, files, settings)


def make_company(folder: Path, files: dict[int, tuple[int, list[bytes]]], settings: str, in_memory: bool = True) -> Company:
    """A company in `folder`."""
    memory = dg.DagsterInstance.ephemeral() if in_memory else None
    return Company(
        write_export(folder / "export", files), Home(folder / "home"), parse_settings(settings, "analytics.toml"), memory
    )


@pytest.fixture(scope="session")
def make_company_in() -> Callable[..., Company]:
    """The same for fixtures that outlive a test."""
    return make_company


@pytest.fixture(scope="session")
def company(tmp_path_factory: pytest.TempPathFactory) -> Company:
    """The shop, loaded and caught up. Shared: tests read it, and change a `branch`."""
    made = make_company(tmp_path_factory.mktemp("shop"), autumn_files(), AUTUMN, in_memory=False)
    made.load()
    made.catch_up()
    return made


@pytest.fixture
def branch(company: Company, tmp_path: Path) -> Company:
    """A copy of the shop, to be changed."""
    return company.copy(tmp_path)
