"""How rows become a commit: not at all where the lake holds the same, and never over rows that another run wrote meanwhile."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import Any

import pyarrow as pa

from analytics_assets.warehouse.engine import attach
from analytics_assets.warehouse.lake import LakeError, Pin, Window, predicate_for
from analytics_assets.warehouse.staged import Staged
from analytics_assets.warehouse.tables import Table
from analytics_assets.warehouse.work import Rows, Work

PREVIEW_ROWS = 5
EMPTY_DIGEST = "0" * 32


class Overtaken(Exception):
    """Another run replaced rows of the same partitions while this one computed, perhaps from newer inputs: compute again."""


def refuse_mixture(work: Work, tables: Sequence[Table]) -> None:
    """Write no partition with a column that the others lack: who reads all of them would take their NULLs for values.

    Raises:
        LakeError: the table was made by an earlier version and has rows outside the window.
    """
    for table in tables:
        now = work.platform.lake.pin(table)
        if lacking := now.lacks:
            attach(work.connection, now, name="stored")
            others = work.connection.sql(f"SELECT 1 FROM stored WHERE NOT ({in_window(table, work.window)}) LIMIT 1").fetchall()
            if others:
                raise LakeError(
                    f"{table.name} was made by an earlier version, without {', '.join(lacking)}: `make run` computes all of it anew."
                )


@dataclass(frozen=True)
class Written:
    """What became of the rows: the version that has them, and rows and digest of each partition."""

    version: int
    digests: dict[Any, tuple[int, str]]
    newest_rows: pa.Table
    unchanged: bool


def write(work: Work, table: Table, rows: Rows, name: str, run_id: str) -> Written:
    """Commit the rows of a window, which show as `name`, unless the lake holds exactly these already."""
    digests = _digests(work, table, name)
    newest_rows = work.connection.sql(f"{newest(table, name)} LIMIT {PREVIEW_ROWS}").to_arrow_table()
    lake = work.platform.lake
    now = lake.pin(table)
    predicate = predicate_for(table, work.window)
    if now.version is not None and _stored_digests(work, now) == digests:
        return Written(now.version, digests, newest_rows, unchanged=True)
    note = {"run_id": run_id, "partitions": f"{work.window.start.isoformat()} to {work.window.end.isoformat()}"}

    def before(pin: Pin) -> None:
        seen = work.before[table.name]
        if pin.files(predicate) != seen.files(predicate) and _stored_digests(work, pin) != _stored_digests(work, seen):
            raise Overtaken(f"{table.name} {note['partitions']}: another run replaced these rows while this one computed.")

    if isinstance(rows, Staged):
        replaced = lake.adopt(rows, work.window, note, before)
    else:
        replaced = lake.replace(table, rows, predicate, note, before)
    return Written(replaced, digests, newest_rows, unchanged=False)


def _stored_digests(work: Work, pin: Pin) -> dict[Any, tuple[int, str]]:
    """Digests of the window's partitions as a version holds them."""
    attach(work.connection, pin, predicate_for(pin.table, work.window), name="stored")
    return _digests(work, pin.table, f"(FROM stored WHERE {in_window(pin.table, work.window)})")


def newest(table: Table, name: str) -> str:
    """A query for the rows of the newest partition that there is."""
    return f"FROM {name} WHERE {table.partition_expression} = (SELECT max({table.partition_expression}) FROM {name})"


def in_window(table: Table, window: Window) -> str:
    """The SQL condition that a row of a table lies in the partitions of a window."""
    if table.grain == "hour":
        return f"hour >= TIMESTAMPTZ '{window.start.isoformat()}' AND hour < TIMESTAMPTZ '{window.end.isoformat()}'"
    return f"{table.partition_column} BETWEEN DATE '{window.first_day}' AND DATE '{window.last_day}'"


def _digests(work: Work, table: Table, relation: str) -> dict[Any, tuple[int, str]]:
    return {part: (rows, digest) for part, rows, digest in work.connection.sql(table.digest_select(relation)).fetchall()}


def by_key(work: Work, table: Table, digests: Mapping[Any, tuple[int, str]]) -> dict[str, tuple[int, str]]:
    """Rows and digest by partition key."""
    if table.grain == "day":
        return {day.isoformat(): found for day, found in digests.items()}
    keys = work.platform.clock.hour_keys(work.window.start, work.window.end)
    return {keys[hour.astimezone(UTC)]: found for hour, found in digests.items()}
