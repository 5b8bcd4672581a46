"""Runs `.sql` files in DuckDB over pinned tables: an in-memory connection each, UTC, bound parameters."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from analytics_assets.warehouse.lake import Pin
from analytics_assets.warehouse.staged import Staged
from analytics_assets.warehouse.tables import Table


@contextmanager
def engine() -> Iterator[duckdb.DuckDBPyConnection]:
    """An in-memory connection in the session zone UTC, closed at the end whatever happens."""
    connection = duckdb.connect(":memory:")
    _open.append(connection)
    try:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET enable_progress_bar = false")
        yield connection
    finally:
        _open.remove(connection)
        connection.close()


_open: list[duckdb.DuckDBPyConnection] = []


def interrupt_queries() -> None:
    """End the queries that this process executes with `duckdb.InterruptException`: an interrupt reaches them when they are over."""
    for connection in _open.copy():
        connection.interrupt()


def attach(
    connection: duckdb.DuckDBPyConnection,
    pin: Pin,
    pruning: str | None = None,
    name: str | None = None,
    in_memory: bool = False,
) -> None:
    """Make a pinned table readable under its name, with the declared columns and types, empty or not.

    `pruning` names a predicate that rules out whole files; the rows that remain are not filtered by it. `in_memory` reads
    the files once: a loop over days that opened a year of day files each time spent 10 s of 11 on opening them.
    """
    kind = "TABLE" if in_memory else "VIEW"
    connection.execute(f'CREATE OR REPLACE {kind} "{name or pin.table.name}" AS {scan(pin, pruning)}')


def show(connection: duckdb.DuckDBPyConnection, table: Table, rows: pa.Table | Staged, name: str) -> None:
    """Make rows that were computed readable under a name."""
    if isinstance(rows, Staged):
        connection.execute(f'CREATE OR REPLACE VIEW "{name}" AS {rows.select()}')
    else:
        connection.register(name, rows)


def scan(pin: Pin, pruning: str | None = None) -> str:
    """A SELECT over the Parquet files of a pinned table."""
    return pin.table.select_from_files(pin.files(pruning), pin.laid_out_by)


def run(connection: duckdb.DuckDBPyConnection, sql_file: Path, parameters: Mapping[str, Any]) -> duckdb.DuckDBPyRelation:
    """The rows of a `.sql` file. Parameters that the file does not name are left out, those that it lacks are an error."""
    text = sql_file.read_text(encoding="utf-8")
    code = re.sub(r"--[^\n]*", "", text)
    named = set(re.findall(r"\$([a-z_]+)", code))
    return connection.sql(text, params={name: parameters[name] for name in sorted(named)})


def declared(connection: duckdb.DuckDBPyConnection, table: Table, relation: Any) -> pa.Table:
    """A result as exactly the columns that the table declares.

    Raises:
        ValueError: a column is missing or one too many, by name.
    """
    found = relation.column_names if isinstance(relation, pa.Table) else list(relation.columns)
    missing, extra = set(table.column_names) - set(found), set(found) - set(table.column_names)
    if missing or extra:
        raise ValueError(f"{table.name}: columns missing: {sorted(missing)}, not declared: {sorted(extra)}")
    return connection.sql(table.typed_select("relation")).to_arrow_table().cast(table.arrow_schema())
