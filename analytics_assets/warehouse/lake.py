"""Delta tables below one folder: read at pinned versions, replaced atomically, never edited in place."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from urllib.parse import unquote

import duckdb
import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.schema import Schema
from deltalake.transaction import AddAction, RemoveAction

from analytics_assets.warehouse.staged import Staged
from analytics_assets.warehouse.tables import Table

CONFLICT_ATTEMPTS = 40
VERSIONS_A_CHECKPOINT = 100
# Within a commit a checkpoint that fails, for want of room, makes a commit that stands look like one that failed.
_NOTHING_AFTER = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)


# What the notes of a commit may say, in the order in which it is shown.
NOTED = ("restored_version", "partitions", "as_of_date", "campaign", "removed", "schema_version", "run_id")
# The property of a stored table that says which declaration it was made or migrated by.
SCHEMA_VERSION = "analytics_assets.schema_version"


class LakeError(Exception):
    """A table cannot be used as it lies there; the message says why and what to do."""


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
class Write:
    """A commit of a run: when it was, and the instants between which lie the partitions that it replaced."""

    run_id: str
    at: datetime
    start: datetime
    end: datetime


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

    @property
    def laid_out_by(self) -> list[str]:
        """The columns that stand in the paths of the files."""
        return self.delta.metadata().partition_columns if self.delta else []

    @property
    def lacks(self) -> list[str]:
        """Declared columns that may not be NULL and that no row has: all rows were made by an earlier version of the code."""
        held = {field.name for field in self.delta.schema().fields} if self.delta else set(self.table.column_names)
        return [column.name for column in self.table.columns if not column.nullable and column.name not in held]


def _any(pin: Pin) -> None:
    """Let a commit follow any version."""


@dataclass(frozen=True)
class Version:
    """A commit to a table: when it was made, by which operation, and what it was noted with (a run, the partitions)."""

    number: int
    at: datetime
    operation: str
    note: str


@dataclass(frozen=True)
class Lake:
    """The tables below `root`."""

    root: Path

    def pin(self, table: Table) -> Pin:
        """The table as it is now.

        Raises:
            LakeError: a newer version of the code has brought it to a later declaration.
        """
        delta = self._stored(table)
        return Pin(table, delta.version() if delta else None, delta)

    def _stored(self, table: Table) -> DeltaTable | None:
        try:
            delta = DeltaTable(str(self.root / table.name))
        except TableNotFoundError:
            return None
        found = _schema_version(delta)
        if found > table.schema_version:
            raise LakeError(
                f"{self.root / table.name} was written by a newer version of Analytics Assets (schema version {found} of "
                f"{table.name}; this one knows {table.schema_version}). Use that version, or a home of its own for this one."
            )
        return delta

    def replace(
        self,
        table: Table,
        rows: pa.Table | Staged,
        predicate: str | None,
        note: Mapping[str, str],
        before: Callable[[Pin], None] = _any,
    ) -> int:
        """Put `rows` in place of everything that matches `predicate` (None: everything), in one commit.

        Rows outside the predicate are refused by Delta. A commit that another process got in before is tried again with
        jitter: the predicate makes a repetition harmless. `before` is shown the version that the commit follows, at each
        try, and stops it by an exception: what it saw of the predicate's rows still holds when the commit is made.

        Returns:
            The version that holds the rows.
        """

        def commit(pin: Pin) -> int:
            before(pin)
            assert pin.delta
            write_deltalake(
                pin.delta,
                rows.reader() if isinstance(rows, Staged) else rows,
                mode="overwrite",
                predicate=predicate,
                writer_properties=WriterProperties(compression="ZSTD", compression_level=1),
                commit_properties=CommitProperties(custom_metadata=dict(note)),
                post_commithook_properties=_NOTHING_AFTER,
            )
            return DeltaTable(str(self.root / table.name)).version()

        return self._committed(table, commit)

    def migrate(self, table: Table) -> bool:
        """Bring a table that an earlier version made to its declaration now, not at the next write; whether that changed it."""
        before = self.pin(table).version
        return before is not None and _repeated_on_conflict(lambda: self._as_declared(table).version()) != before

    def versions(self, table: Table, newest: int) -> list[Version]:
        """The newest versions of a table, the last one first.

        Raises:
            LakeError: the table has never been written.
        """
        found = []
        for commit in self._written(table).history(newest):
            note = "; ".join(f"{name} {commit[name]}" for name in NOTED if name in commit)
            at = datetime.fromtimestamp(commit["timestamp"] / 1000, UTC)
            found.append(Version(commit["version"], at, str(commit["operation"]).lower(), note))
        return found

    def written_by_runs(self, table: Table) -> list[Write]:
        """What runs wrote, as far back as the table's history goes, the last one first."""
        delta = self._stored(table)
        found = []
        for commit in delta.history() if delta else ():
            if "run_id" in commit and "partitions" in commit:
                start, end = map(datetime.fromisoformat, commit["partitions"].split(" to "))
                found.append(Write(commit["run_id"], datetime.fromtimestamp(commit["timestamp"] / 1000, UTC), start, end))
        return found

    def restore(self, table: Table, version: int) -> int:
        """Put a table back to an earlier version, in a commit of its own: nothing is lost by it.

        Returns:
            The version that holds the earlier one's rows.

        Raises:
            LakeError: there is no such version, or files of it have been removed. Nothing was changed.
        """
        delta = self._written(table)
        if not 0 <= version <= delta.version():
            raise LakeError(f"{table.name} has no version {version}: the versions are 0 to {delta.version()}.")
        try:
            delta.restore(
                version,
                commit_properties=CommitProperties(custom_metadata={"restored_version": str(version)}),
                post_commithook_properties=_NOTHING_AFTER,
            )
        except (DeltaError, OSError) as error:
            raise LakeError(
                f"{table.name}: version {version} can be restored no more, since maintenance removes what is older than a month "
                f"({str(error).splitlines()[0]}). Nothing was changed."
            ) from error
        return delta.version()

    def _written(self, table: Table) -> DeltaTable:
        if delta := self._stored(table):
            return delta
        raise LakeError(f"{self.root / table.name}: there is no table yet.")

    def remove_days(self, table: Table, days: Sequence[date], note: Mapping[str, str]) -> int:
        """Take the rows of whole business days out of a table, in one commit.

        Returns:
            How many rows that were.
        """
        named = ", ".join(f"'{day}'" for day in days)
        rows = 0

        def commit(pin: Pin) -> int:
            nonlocal rows
            assert pin.delta
            metrics = pin.delta.delete(
                f"{table.partition_column} IN ({named})",
                commit_properties=CommitProperties(custom_metadata=dict(note)),
                post_commithook_properties=_NOTHING_AFTER,
            )
            rows = int(metrics["num_deleted_rows"])
            return pin.delta.version()

        self._committed(table, commit)
        return rows

    def stage(self, table: Table) -> Staged:
        """A place for rows that are too many for memory."""
        return Staged(table, self.root / table.name)

    def adopt(self, staged: Staged, window: Window, note: Mapping[str, str], before: Callable[[Pin], None] = _any) -> int:
        """Put staged rows in place of those of the window, in one commit.

        The files stay where they are, unless the window cuts a day: its other hours stay, and Delta writes them and ours anew.

        `before` is as in `replace`.

        Returns:
            The version that holds the rows.
        """
        table = staged.table
        if table.grain == "hour" and not window.whole_days:
            return self.replace(table, staged, predicate_for(table, window), note, before)
        begun = self.pin(table).version or 0
        actions: list[AddAction | RemoveAction] = [*staged.add_actions()]
        column = str(table.partition_column)
        days = [(column, ">=", window.first_day.isoformat()), (column, "<=", window.last_day.isoformat())]

        def commit(pin: Pin) -> int:
            # The files to take out are those of the version that was read: no other commit may come in between, and ours is the next.
            once = CommitProperties(custom_metadata=dict(note), max_commit_retries=0)
            before(pin)
            assert pin.delta
            schema = pin.delta.schema()
            pin.delta.create_write_transaction(
                actions, "overwrite", schema, [column], days, commit_properties=once, post_commithook_properties=_NOTHING_AFTER
            )
            return pin.delta.version() + 1

        try:
            return self._committed(table, commit)
        finally:
            # Whatever went wrong after it: a file that a version has is not ours to delete, also one that another has replaced since.
            staged.leave(self._files_since(table, begun))

    def _files_since(self, table: Table, version: int) -> set[str]:
        """The files of a version and of all that followed it."""
        newest = self.pin(table).version
        if newest is None:
            return set()
        path = str(self.root / table.name)
        each = (DeltaTable(path, version=number) for number in range(version, newest + 1))
        return {file for delta in each for file in Pin(table, delta.version(), delta).files()}

    def _committed(self, table: Table, commit: Callable[[Pin], int]) -> int:
        """Make a commit that follows the version shown to it, again with jitter while another process gets in before.

        Every hundredth is followed by a checkpoint.
        """

        def attempt() -> int:
            delta = self._as_declared(table)
            return commit(Pin(table, delta.version(), delta))

        version = _repeated_on_conflict(attempt)
        if version % VERSIONS_A_CHECKPOINT == 0:
            # The commit stands without it, and the next hundred try again.
            with contextlib.suppress(DeltaError, OSError):
                delta = DeltaTable(str(self.root / table.name))
                delta.create_checkpoint()
                delta.cleanup_metadata()
        return version

    def _as_declared(self, table: Table) -> DeltaTable:
        """The stored table with the declared columns, types and partitioning; created where it is missing.

        One that an earlier version made is migrated, in one commit: columns that were added become NULL in its rows, which takes no
        rewriting; for anything else (a column removed, another type, another partitioning) its rows are written anew. Earlier versions
        can be read as before.

        Raises:
            CommitFailedError: another process got in between; look again.
            LakeError: the stored rows do not fit the declaration, or a newer version wrote them. Nothing was changed.
        """
        delta = self._stored(table) or self._created(table)
        declared, held = ({f.name: f for f in s.fields} for s in (Schema.from_arrow(table.arrow_schema()), delta.schema()))
        partition_by = [table.partition_column] if table.partition_column else []
        kept = {name: field.type for name, field in held.items()}.items() <= {
            name: f.type for name, f in declared.items()
        }.items()
        kept = kept and delta.metadata().partition_columns == partition_by
        if not kept:
            _write_anew(table, delta, partition_by)
        elif len(held) < len(declared):
            added = [field for name, field in declared.items() if name not in held]
            delta.alter.add_columns(added, post_commithook_properties=_NOTHING_AFTER)
        if _schema_version(delta) < table.schema_version:
            delta.alter.set_table_properties(
                {SCHEMA_VERSION: str(table.schema_version)}, raise_if_not_exists=False, post_commithook_properties=_NOTHING_AFTER
            )
        return delta

    def _created(self, table: Table) -> DeltaTable:
        path = str(self.root / table.name)
        try:
            return DeltaTable.create(
                path,
                schema=table.arrow_schema(),
                mode="ignore",
                partition_by=[table.partition_column] if table.partition_column else None,
                configuration={SCHEMA_VERSION: str(table.schema_version)},
                raise_if_key_not_exists=False,
            )
        except DeltaError:
            # Another process created it between the look and the commit.
            if not DeltaTable.is_deltatable(path):
                raise
            return DeltaTable(path)


def _schema_version(delta: DeltaTable) -> int:
    return int(delta.metadata().configuration.get(SCHEMA_VERSION) or 1)


def _write_anew(table: Table, delta: DeltaTable, partition_by: list[str]) -> None:
    """Replace all rows by themselves in the declared columns and types, in one commit, a batch at a time in memory."""
    pin = Pin(table, delta.version(), delta)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        rows = connection.sql(table.select_from_files(pin.files(), pin.laid_out_by))
        try:
            write_deltalake(
                delta,
                pa.RecordBatchReader.from_batches(table.arrow_schema(), rows.to_arrow_reader()),
                mode="overwrite",
                schema_mode="overwrite",
                partition_by=partition_by,
                writer_properties=WriterProperties(compression="ZSTD", compression_level=1),
                # The rows are those of the version that was read: no other commit may come in between.
                commit_properties=CommitProperties(
                    custom_metadata={"schema_version": str(table.schema_version)}, max_commit_retries=0
                ),
                post_commithook_properties=_NOTHING_AFTER,
            )
        except CommitFailedError:
            raise
        except (DeltaError, duckdb.Error, pa.ArrowException) as error:
            raise LakeError(
                f"{table.name}: rows that an earlier version stored cannot be brought to the declaration ({str(error).splitlines()[0]}). Nothing was changed."
            ) from error


def _repeated_on_conflict(commit: Callable[[], int]) -> int:
    """Commit again, with jitter, while another process gets in before."""
    for attempt in range(1, CONFLICT_ATTEMPTS):
        try:
            return commit()
        except CommitFailedError:
            time.sleep(random.uniform(0.01, 0.05) * min(attempt, 10))
    return commit()


def predicate_for(table: Table, window: Window) -> str:
    """What `replace` clears for a window of this table's partitions."""
    days = f"{table.partition_column} >= '{window.first_day}' AND {table.partition_column} <= '{window.last_day}'"
    if table.grain == "day" or window.whole_days:
        return days
    return f"{days} AND hour >= '{window.start.isoformat()}' AND hour < '{window.end.isoformat()}'"
