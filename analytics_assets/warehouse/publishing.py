"""`analytics.duckdb`: a link to an immutable, numbered version, built anew after commits and switched atomically."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from analytics_assets.home import Home
from analytics_assets.warehouse.engine import attach, scan
from analytics_assets.warehouse.lake import Lake, Pin
from analytics_assets.warehouse.tables import Table

VERSIONS_KEPT = 3
# What people open must open in the DuckDB that their notebook or BI tool brings.
OLDEST_READER = "v1.2.0"


def publish(home: Home, tables: Sequence[Table]) -> bool:
    """Publish the lake's present state, or leave it to the process that is publishing right now.

    Whoever holds the lock builds until the published versions are the lake's, so the last commit always shows, and an older
    state never replaces a newer one. A publisher that is killed leaves its work visible to the next caller.

    Returns:
        Whether this call built a version; False when there was nothing to do or the holder of the lock does it.
    """
    home.published.mkdir(parents=True, exist_ok=True)
    built = False
    with open(home.published / ".lock", "w") as lock:
        while is_behind(home, tables):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return built
            try:
                if is_behind(home, tables):
                    _build(home, tables)
                    built = True
            finally:
                fcntl.flock(lock, fcntl.LOCK_UN)
    return built


def is_behind(home: Home, tables: Sequence[Table]) -> bool:
    """Whether the lake holds versions that `analytics.duckdb` does not show."""
    lake = Lake(home.lake)
    return _published(home) != _contents(home, {table.name: lake.pin(table) for table in _read_by(tables)})


def _read_by(tables: Sequence[Table]) -> list[Table]:
    return [table for table in tables if table.publication]


def _contents(home: Home, pins: Mapping[str, Pin]) -> dict[str, Any]:
    """What a version shows. Its views hold absolute paths: a home that was moved must be published again."""
    return {"home": str(home.root), "versions": {name: pin.version for name, pin in pins.items()}}


def _published(home: Home) -> dict[str, Any] | None:
    try:
        return json.loads((home.published / "versions.json").read_text()) if home.database.exists() else None
    except (FileNotFoundError, ValueError):
        return None


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)


def _build(home: Home, tables: Sequence[Table]) -> None:
    lake = Lake(home.lake)
    pins = {table.name: lake.pin(table) for table in _read_by(tables)}
    numbers = sorted(int(p.stem.rsplit("-", 1)[1]) for p in home.published.glob("analytics-*.duckdb"))
    target = home.published / f"analytics-{(numbers[-1] if numbers else 0) + 1:06}.duckdb"
    building = home.published / "building.duckdb"
    for leftover in home.published.glob("building.duckdb*"):
        leftover.unlink()
    with contextlib.closing(duckdb.connect()) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(f"ATTACH {_literal(str(building))} AS analytics (STORAGE_VERSION '{OLDEST_READER}')")
        connection.execute("USE analytics")
        # One transaction: each comment by itself would wait for the disk, a thousand times.
        connection.execute("BEGIN")
        for table in _read_by(tables):
            _publish_table(connection, table, pins)
        connection.execute("COMMIT")
        connection.execute("CHECKPOINT analytics")
        connection.execute("USE memory")
        connection.execute("DETACH analytics")
    building.chmod(0o444)
    building.replace(target)
    link = home.published / ".link"
    link.unlink(missing_ok=True)
    link.symlink_to(target.relative_to(home.root))
    link.replace(home.database)
    _write_atomically(home.published / "versions.json", json.dumps(_contents(home, pins)))
    for number in numbers[: -VERSIONS_KEPT + 1]:
        # With the WAL of who opened it to write and died.
        for path in home.published.glob(f"analytics-{number:06}.duckdb*"):
            path.unlink()


def _publish_table(connection: duckdb.DuckDBPyConnection, table: Table, pins: dict[str, Pin]) -> None:
    publication = table.publication
    assert publication is not None
    if publication.sql:
        for name in (table.name, *publication.reads):
            attach(connection, pins[name], name=f"lake_{name}")
        rows = publication.sql.read_text(encoding="utf-8")
    else:
        rows = scan(pins[table.name])
    kind = "VIEW" if publication.as_view else "TABLE"
    connection.execute(f'CREATE {kind} "{table.name}" AS {rows}')
    for name in (table.name, *publication.reads) if publication.sql else ():
        connection.execute(f'DROP VIEW "lake_{name}"')
    text = f"One row per {table.rows_are}."
    connection.execute(f'COMMENT ON {kind} "{table.name}" IS {_literal(text)}')
    for column in table.published_columns:
        meaning = column.meaning + (f" Unit: {column.unit}." if column.unit else "")
        connection.execute(f'COMMENT ON COLUMN "{table.name}"."{column.name}" IS {_literal(meaning)}')


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
