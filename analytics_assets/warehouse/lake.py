"""Delta tables below one folder: read at pinned versions, replaced atomically, never edited in place."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from analytics_assets.warehouse.tables import Table

CONFLICT_ATTEMPTS = 40


@dataclass(frozen=True)
class Window:
    """Business days from `first_day` to `last_day`, both included, and the instants at which they begin and end.

    For hourly tables the instants may cut the days: rows count whose `hour` lies in [start, end).
    """

    first_day: date
    last_day: date
    start: datetime
    end: datetime
    whole_days: bool = True


@dataclass(frozen=True)
class Pin:
    """One version of one table; `version` is None while the table has never been written."""

    table: Table
    version: int | None
    delta: DeltaTable | None

    def files(self, pruning: str | None = None) -> list[str]:
        """The immutable Parquet files of this version, without those that `pruning` (a SQL predicate) rules out."""
        # A space or an umlaut in the path of the home is escaped in Delta's URIs.
        return sorted(map(unquote, self.delta.file_uris(file_pruning_predicate=pruning))) if self.delta else []


@dataclass(frozen=True)
class Lake:
    """The tables below `root`."""

    root: Path

    def pin(self, table: Table) -> Pin:
        """The table as it is now."""
        try:
            delta = DeltaTable(str(self.root / table.name))
        except TableNotFoundError:
            return Pin(table, None, None)
        return Pin(table, delta.version(), delta)

    def replace(self, table: Table, rows: pa.Table, predicate: str | None, note: Mapping[str, str]) -> int:
        """Put `rows` in place of everything that matches `predicate` (None: everything), in one commit.

        Rows outside the predicate are refused by Delta. A commit that another process got in before is tried again with
        jitter: the predicate makes a repetition harmless.

        Returns:
            The version that holds the rows.
        """
        self._create_if_missing(table)
        uri = str(self.root / table.name)
        for attempt in range(CONFLICT_ATTEMPTS):
            try:
                write_deltalake(
                    uri,
                    rows,
                    mode="overwrite",
                    predicate=predicate,
                    writer_properties=WriterProperties(compression="ZSTD", compression_level=1),
                    commit_properties=CommitProperties(custom_metadata=dict(note)),
                )
                return DeltaTable(uri).version()
            except CommitFailedError:
                if attempt == CONFLICT_ATTEMPTS - 1:
                    raise
                time.sleep(random.uniform(0.01, 0.05) * min(attempt + 1, 10))
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _create_if_missing(self, table: Table) -> None:
        path = self.root / table.name
        if DeltaTable.is_deltatable(str(path)):
            return
        partition_by = [table.partition_column] if table.partition_column else None
        try:
            DeltaTable.create(str(path), schema=table.arrow_schema(), mode="ignore", partition_by=partition_by)
        except DeltaError:
            # Another process created it between the look and the commit.
            if not DeltaTable.is_deltatable(str(path)):
                raise


def predicate_for(table: Table, window: Window) -> str:
    """What `replace` clears for a window of this table's partitions."""
    days = f"{table.partition_column} >= '{window.first_day}' AND {table.partition_column} <= '{window.last_day}'"
    if table.grain == "day" or window.whole_days:
        return days
    return f"{days} AND hour >= '{window.start.isoformat()}' AND hour < '{window.end.isoformat()}'"
