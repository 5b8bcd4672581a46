"""Dagster's record of a home: what ran, what was materialised, what is queued. Here is how it is kept and opened.

It lies on SQLite below the home, or in PostgreSQL where `ANALYTICS_DAGSTER_POSTGRES_URL` names a server. The home's
`dagster/dagster.yaml` says which: it is made from the project's, or is the operator's own.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import dagster as dg
from dagster import DagsterEventType
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationPlanned
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.event_log.sqlite.sqlite_event_log import INDEX_SHARD_NAME, SqliteEventLogStorage
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData
from sqlalchemy import Connection, Engine, StaticPool, create_engine
from sqlalchemy.exc import OperationalError

from analytics_assets.home import Home, HomeError
from analytics_assets.settings import PROJECT_ROOT

POSTGRES_URL = "ANALYTICS_DAGSTER_POSTGRES_URL"
_OURS = "# Made from the project's dagster.yaml whenever a program starts. Without this line it is your own and is left alone.\n"
_ON_SQLITE = """
storage:
  custom:
    module: analytics_assets.operations.record
    class: BatchedSqlite
    config:
      base_dir: {env: DAGSTER_HOME}
"""
_ON_POSTGRES = f"""
storage:
  postgres:
    postgres_url: {{env: {POSTGRES_URL}}}
"""
# Written in batches, events of a range cost about a tenth of what they cost one by one.
EVENTS_A_BATCH = 1000

# With it, what comes in while a tick of automation is at work is news of the next tick alone. Without it that was news of both, of the first
# with no word of which run it came by, and what had been requested together with it ran again. PostgreSQL's transactions may end in another
# order than their events are numbered.
SECONDS_TO_SETTLE_ON_SQLITE, SECONDS_TO_SETTLE_ON_POSTGRES = "0.01", "1"


def record_environment(home: Home) -> dict[str, str]:
    """What a program of Dagster's must find in its environment to work on the record of a home.

    Raises:
        HomeError: the record is in PostgreSQL and cannot be reached as the environment stands.
    """
    url = os.environ.get(POSTGRES_URL)
    configuration = home.dagster / "dagster.yaml"
    # A link is what homes had before.
    before = configuration.read_text() if configuration.exists() and not configuration.is_symlink() else _OURS
    if not url and POSTGRES_URL in before:
        raise HomeError(f"Dagster's record of {home.root} is in PostgreSQL: set {POSTGRES_URL} to its server.")
    if url and not url.startswith("postgresql+psycopg2://"):
        raise HomeError(
            f"{POSTGRES_URL} must begin with postgresql+psycopg2://, as in postgresql+psycopg2://user:password@host/database."
        )
    if url and importlib.util.find_spec("dagster_postgres") is None:
        raise HomeError(
            f"{POSTGRES_URL} is set, but dagster-postgres is not installed: python3 analytics_assets/install.py --postgres"
        )
    wanted = _OURS + (PROJECT_ROOT / "dagster.yaml").read_text() + (_ON_POSTGRES if url else _ON_SQLITE)
    if before.startswith(_OURS) and before != wanted:
        home.dagster.mkdir(parents=True, exist_ok=True)
        temporary = home.dagster / f".dagster.yaml.{os.getpid()}"
        temporary.write_text(wanted)
        temporary.replace(configuration)
    return {
        "DAGSTER_HOME": str(home.dagster),
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "DAGSTER_EVENT_BATCH_SIZE": str(EVENTS_A_BATCH),
        "DAGSTER_AUTOMATION_TICK_SETTLE_SECONDS": SECONDS_TO_SETTLE_ON_POSTGRES if url else SECONDS_TO_SETTLE_ON_SQLITE,
    }


@contextmanager
def open_record(home: Home) -> Iterator[dg.DagsterInstance]:
    """Dagster's record of a home, as its programs open it.

    Raises:
        HomeError: the record is in PostgreSQL, and the server is not, or no longer, to be reached.
    """
    os.environ.update(record_environment(home))
    try:
        with dg.DagsterInstance.get() as instance:
            yield instance
    except Exception as error:
        if os.environ.get(POSTGRES_URL) and isinstance(error.__cause__, OperationalError):
            raise HomeError(f"Dagster's record cannot be reached under {POSTGRES_URL}: {error.__cause__.orig}") from error
        raise


_IN_BATCHES = {DagsterEventType.ASSET_MATERIALIZATION, DagsterEventType.ASSET_MATERIALIZATION_PLANNED}


class BatchedEventLog(SqliteEventLogStorage):
    """Dagster's event log on SQLite, with events of a range stored at once, and its databases kept open.

    Dagster's PostgreSQL storage does the same; its SQLite storage opens a database anew for every event, and compiles every statement.
    The tables are those of Dagster's own SQLite storage: either opens a home.
    """

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        """A transaction in the index or in the database of a run; one at a time, whichever thread asks."""
        with self._db_lock, self._engine_of(shard).begin() as connection:
            yield connection

    def _engine_of(self, shard: str) -> Engine:
        """The engine of a database, open: those of the index and of the run that was asked for last. No process uses what it was forked with."""
        if self._owner != os.getpid():
            self._owner, self._engines = os.getpid(), {}
        if shard not in self._engines:
            for other in self._engines.keys() - {INDEX_SHARD_NAME}:
                self._engines.pop(other).dispose()
            arguments = {"timeout": SQLITE_BUSY_TIMEOUT_SECONDS, "check_same_thread": False}
            engine = create_engine(self.conn_string_for_shard(shard), poolclass=StaticPool, connect_args=arguments)
            if shard not in self._initialized_dbs:
                self._initdb(engine)
                self._initialized_dbs.add(shard)
            self._engines[shard] = engine
        return self._engines[shard]

    _owner: int | None = None
    _engines: dict[str, Engine]

    def has_table(self, table_name: str) -> bool:
        """Whether the index has a table; one that was there stays."""
        if table_name not in self._tables and super().has_table(table_name):
            self._tables |= {table_name}
        return table_name in self._tables

    _tables: frozenset[str] = frozenset()

    def _close(self) -> None:
        with self._db_lock:
            if self._owner == os.getpid():
                for engine in self._engines.values():
                    engine.dispose()
            self._owner = None

    def wipe(self) -> None:
        """Forget every event, and remove the databases of runs."""
        self._close()
        super().wipe()

    def dispose(self) -> None:
        """Close the databases."""
        self._close()
        super().dispose()

    def store_event_batch(self, events: Sequence[dg.EventLogEntry]) -> None:
        """Store events of one run in their order."""
        for of_partitions, group in groupby(events, lambda event: event.get_dagster_event().event_type in _IN_BATCHES):
            if of_partitions:
                self._store_together(list(group))
            else:
                super().store_event_batch(list(group))

    def _store_together(self, events: Sequence[dg.EventLogEntry]) -> None:
        """One transaction in the run's database, one in the index of assets, whose own row tells of its newest event."""
        insert = self.prepare_insert_event_batch(events)
        with self.run_connection(events[0].run_id) as connection:
            connection.execute(insert)
        with self.index_transaction() as connection:
            numbers = sorted(connection.execute(insert.returning(SqlEventLogStorageTable.c.id)).scalars())
            self._store_asset_event_tags(connection, events, numbers)
            newest = {event.get_dagster_event().asset_key: place for place, event in enumerate(events)}
            for place in newest.values():
                self._store_asset_event(connection, events[place], numbers[place])

    def store_asset_check_event(self, event: dg.EventLogEntry, event_id: int | None) -> None:
        """Store a check's event. A range's checks have one result for all of it: rows planned for each partition would stay so for ever."""
        planned = event.get_dagster_event().event_specific_data
        if not isinstance(planned, AssetCheckEvaluationPlanned) or len(planned.partitions_subset or ()) < 2:
            super().store_asset_check_event(event, event_id)


class BatchedSqlite(DagsterSqliteStorage):
    """The whole record on SQLite, its event log in batches. `dagster.yaml` names it."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        """Open or make the record below `base_dir`, which is `DAGSTER_HOME`."""
        super().__init__(base_dir, inst_data)
        self._event_log_storage = BatchedEventLog(str(Path(base_dir) / "history" / "runs"))

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> BatchedSqlite:
        """As `dagster.yaml` says."""
        return cls.from_local(config_value["base_dir"], inst_data)
