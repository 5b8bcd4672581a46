"""What a table is: declared once, used to create, read, validate, digest and document it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import dagster as dg
import duckdb
import pyarrow as pa


@dataclass(frozen=True)
class Column:
    """One column. `type` is DuckDB's name; `run_dependent` columns (load times, run ids) are no part of a digest.

    `personal` columns tell who somebody is and are masked in previews; so is `account_id` where people are accounts.
    """

    name: str
    type: str
    meaning: str
    unit: str | None = None
    nullable: bool = False
    run_dependent: bool = False
    personal: bool = False


@dataclass(frozen=True)
class Publication:
    """How the table shows in `analytics.duckdb`.

    `as_view` leaves the rows in the lake's immutable files. `sql` names a query over lake tables that makes the published
    rows, where they say more than the stored ones; `extra_columns` are the columns that it adds, by the name of the column before.
    """

    as_view: bool = False
    sql: Path | None = None
    reads: tuple[str, ...] = ()
    extra_columns: tuple[tuple[str, Column], ...] = ()


@dataclass(frozen=True)
class Table:
    """One table: its grain, columns, key, and how it is cut into partitions.

    `partition_column` is the business day by which the files are laid out. `grain` "hour" means that one partition is the
    rows whose `hour` lies in the window; "day" the rows of one `partition_column`; None an unpartitioned table.

    `schema_version` is raised with every change of columns, types or partitioning: stored tables are then brought to the
    declaration, and code that declares a lower one leaves them alone.
    """

    name: str
    rows_are: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    grain: Literal["hour", "day"] | None = None
    partition_column: str | None = None
    publication: Publication | None = Publication()
    schema_version: int = 1

    @property
    def column_names(self) -> list[str]:
        """Names in declared order."""
        return [column.name for column in self.columns]

    def personal_columns(self, people_are_accounts: bool) -> list[str]:
        """Names of the columns that tell who somebody is."""
        return [c.name for c in self.columns if c.personal or (people_are_accounts and c.name == "account_id")]

    @property
    def partition_expression(self) -> str:
        """The SQL expression whose value tells the partitions of this table apart."""
        return "hour" if self.grain == "hour" else (self.partition_column or "NULL")

    @property
    def published_columns(self) -> tuple[Column, ...]:
        """The columns as people see them in `analytics.duckdb`."""
        columns = list(self.columns)
        for after, column in self.publication.extra_columns if self.publication else ():
            columns.insert([c.name for c in columns].index(after) + 1, column)
        return tuple(columns)

    def typed_select(self, relation: str) -> str:
        """SELECT of exactly the declared columns, in order and of the declared types, from `relation`."""
        columns = ", ".join(f'CAST("{c.name}" AS {c.type}) AS "{c.name}"' for c in self.columns)
        return f"SELECT {columns} FROM {relation}"

    def empty_select(self) -> str:
        """The table without rows."""
        columns = ", ".join(f'CAST(NULL AS {c.type}) AS "{c.name}"' for c in self.columns)
        return f"SELECT {columns} WHERE false"

    def select_from_files(self, files: Sequence[str], laid_out_by: Sequence[str] = ()) -> str:
        """SELECT of exactly the declared columns from Parquet files; a column that none of the files has is NULL.

        `laid_out_by` names the columns that stand in the paths and not in the files.
        """
        if not files:
            return self.empty_select()
        paths = ", ".join("'" + path.replace("'", "''") + "'" for path in files)
        types = {column.name: column.type for column in self.columns}
        kinds = ", ".join(f"'{name}': {types.get(name, 'VARCHAR')}" for name in laid_out_by)
        hive = f", hive_partitioning = true, hive_types = {{{kinds}}}" if laid_out_by else ""
        found = f"read_parquet([{paths}], union_by_name = true{hive})"
        # Files from before a column was added do not have it; the empty table does, and costs nothing.
        return self.typed_select(f"(FROM ({self.empty_select()}) UNION ALL BY NAME FROM {found})")

    @functools.cache  # noqa: B019 - tables are declared once and live as long as the process
    def arrow_schema(self) -> pa.Schema:
        """The declared columns as an Arrow schema, nullability included."""
        with duckdb.connect() as connection:
            schema = connection.sql(self.empty_select()).to_arrow_table().schema
        fields = []
        for column in self.columns:
            field = schema.field(column.name)
            kind = pa.timestamp("us", tz="UTC") if pa.types.is_timestamp(field.type) else field.type
            fields.append(pa.field(column.name, kind, nullable=True))
        return pa.schema(fields)

    def digest_select(self, relation: str) -> str:
        """SELECT of (partition, rows, digest): independent of row order, file layout, threads and run.

        The digest is the sum of a 64-bit hash of each row, so that two sets of rows have the same with a chance of 1 in 2**64.
        It may be compared within one version of DuckDB, which is all that deciding whether to write takes: both sides are
        hashed then. MD5 over the values as text held for ever and took 15 times as long (17.4 s for 40 M rows, now 1.1 s).
        """
        columns = ", ".join(f'"{c.name}"' for c in self.columns if not c.run_dependent)
        # The hash of several values is the XOR of a hash of each: without the second one, values that change places between
        # two rows would leave the sum as it was about once in 10**8 times.
        return (
            f"SELECT {self.partition_expression} AS partition, count(*) AS rows, "
            f"printf('%032x', CAST(sum(hash(hash({columns}))) AS HUGEINT)) AS digest "
            f"FROM ({self.typed_select(relation)}) GROUP BY ALL"
        )

    def dagster_schema(self) -> dg.TableSchema:
        """The published columns with meaning and unit, for the asset's page."""
        return dg.TableSchema(
            columns=[
                dg.TableColumn(
                    name=c.name,
                    type=c.type,
                    description=c.meaning + (f" Unit: {c.unit}." if c.unit else ""),
                    constraints=dg.TableColumnConstraints(nullable=c.nullable, unique=self.key == (c.name,)),
                )
                for c in self.published_columns
            ],
            constraints=dg.TableConstraints(other=[f"one row per {self.rows_are}", f"key: {', '.join(self.key)}"]),
        )
