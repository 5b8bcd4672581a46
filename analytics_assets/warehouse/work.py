"""What a computation works with: the platform it runs on, and one materialisation at work."""

import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import duckdb
import pyarrow as pa

from analytics_assets.home import Home
from analytics_assets.partitions import BusinessClock
from analytics_assets.settings import Settings
from analytics_assets.warehouse.engine import attach, declared, run
from analytics_assets.warehouse.lake import Lake, LakeError, Pin, Window
from analytics_assets.warehouse.publishing import publish
from analytics_assets.warehouse.staged import Staged
from analytics_assets.warehouse.tables import Table

# Beside it Python and the reading of files take 0.4 GB: an hour of 5 M events in less than 2 GB, 7 % slower than in 3.1 GB.
MOST_MEMORY = "1300MB"


@dataclass
class Platform:
    """What every asset is built from: settings, home, clock, and the tables that get published.

    While `hold_publishing` is set, commits do not show in `analytics.duckdb`; who sets it publishes.
    `computations` are those of the assets built so far, by asset.
    """

    settings: Settings
    home: Home
    published_tables: list[Table] = field(default_factory=list)
    hold_publishing: bool = False
    computations: dict[str, "Computation"] = field(default_factory=dict)

    @cached_property
    def clock(self) -> BusinessClock:
        """The business clock of this home."""
        return BusinessClock.of(self.settings, self.home)

    @property
    def lake(self) -> Lake:
        """The home's lake."""
        return Lake(self.home.lake)

    def publish(self) -> bool:
        """Bring `analytics.duckdb` up to the lake's present state."""
        return not self.hold_publishing and publish(self.home, self.published_tables)

    @contextmanager
    def publishing_at_the_end(self) -> Iterator[None]:
        """Let what is committed inside show at once when all of it is over: a publication copies every table."""
        held, self.hold_publishing = self.hold_publishing, True
        try:
            yield
        finally:
            self.hold_publishing = held
            self.publish()


@dataclass
class Work:
    """One materialisation at work: its window, its pinned inputs, and the connection that computes."""

    platform: Platform
    window: Window
    connection: duckdb.DuckDBPyConnection
    log: Any
    pins: dict[str, Pin] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    staged: list[Staged] = field(default_factory=list)
    before: dict[str, Pin] = field(default_factory=dict)

    @property
    def settings(self) -> Settings:
        """The business's settings."""
        return self.platform.settings

    @property
    def days(self) -> list[date]:
        """The business days of the window."""
        count = (self.window.last_day - self.window.first_day).days + 1
        return [self.window.first_day + timedelta(days=i) for i in range(count)]

    def read(self, table: Table, pruning: str | None = None, in_memory: bool = False) -> None:
        """Pin a table, once for the whole materialisation, and make it readable under its name.

        Raises:
            LakeError: no row has a column that may not be NULL: what is computed from them would be wrong.
        """
        if table.name not in self.pins:
            self.pins[table.name] = self.platform.lake.pin(table)
        if lacking := self.pins[table.name].lacks:
            raise LakeError(
                f"{table.name} was made by an earlier version, without {', '.join(lacking)}: `make run` computes it anew."
            )
        attach(self.connection, self.pins[table.name], pruning, in_memory=in_memory)

    def each_day(self, *as_of: Table) -> Iterator[date]:
        """The business days of the window, with these as-of tables readable as they were that day, and at the end on all of them.

        All days of a million customers would not fit into memory.
        """
        for day in self.days:
            for table in as_of:
                self.read(table, f"as_of_date = '{day}'", in_memory=True)
            yield day
        for table in as_of:
            self.connection.execute(f'DROP TABLE "{table.name}"')
            self.read(table, f"as_of_date >= '{self.window.first_day}' AND as_of_date <= '{self.window.last_day}'")

    def sql(self, file: Path, **parameters: Any) -> duckdb.DuckDBPyRelation:
        """Run a `.sql` file with bound parameters over what has been read."""
        return run(self.connection, file, parameters)

    def stage(self, table: Table) -> Staged:
        """Where rows of `table` go that are too many for memory; who computes returns it in their place."""
        self.staged.append(self.platform.lake.stage(table))
        return self.staged[-1]

    def bound_memory(self, most: str = MOST_MEMORY) -> None:
        """Let the connection hold so much memory; what is more lies in the home until it is closed."""
        spill = self.platform.home.spill
        spill.mkdir(parents=True, exist_ok=True)
        # Two processes with one folder would write the same files.
        self.connection.execute("SET temp_directory = $folder", {"folder": str(spill / str(uuid.uuid4()))})
        self.connection.execute("SET memory_limit = $most", {"most": most})
        # What a query leaves behind goes back to the system: 0.2 GB of it lay there while the lists of a million customers were made.
        self.connection.execute("SET allocator_background_threads = true")

    def close(self) -> None:
        """Delete what was staged and not adopted."""
        for staged in self.staged:
            staged.close()

    def rows_of(self, table: Table, relation: Any) -> pa.Table:
        """A result as exactly the declared columns of `table`."""
        return declared(self.connection, table, relation)


Rows: TypeAlias = pa.Table | Staged
Compute = Callable[[Work], Mapping[str, Rows]]


@dataclass(frozen=True)
class Computation:
    """How the rows of an asset's tables are computed, the main table first, and which days are kept filled (one of `FILLS`)."""

    tables: tuple[Table, ...]
    compute: Compute
    fill: str
