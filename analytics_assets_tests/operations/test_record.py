"""Dagster's record in batches is Dagster's record, and a home opens with the storage that it was made with."""

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage

from analytics_assets.home import Home, HomeError
from analytics_assets.operations.record import (
    POSTGRES_URL,
    BatchedEventLog,
    BatchedSqlite,
    open_record,
    record_environment,
)

DAYS = dg.DailyPartitionsDefinition(start_date="2011-10-29", end_date="2011-11-13")
URL = "postgresql+psycopg2://analytics:not-to-be-told@db.test/dagster"


@dg.asset(
    partitions_def=DAYS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    check_specs=[dg.AssetCheckSpec("holds", asset="first")],
    code_version="1",
)
def first(context: dg.AssetExecutionContext):
    yield dg.AssetCheckResult(check_name="holds", passed=True)
    for number, key in enumerate(context.partition_keys):
        context.add_asset_metadata({"dagster/partition_row_count": number}, partition_key=key)
    yield dg.MaterializeResult(metadata={"seconds": 1.5})


@dg.asset(deps=[first], partitions_def=DAYS, backfill_policy=dg.BackfillPolicy.single_run())
def second() -> None: ...


DEFINITIONS = dg.Definitions([first, second], executor=dg.in_process_executor)

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def run(instance: dg.DagsterInstance, low: str = "2011-10-29", high: str = "2011-11-12") -> str:
    tags = {"dagster/asset_partition_range_start": low, "dagster/asset_partition_range_end": high}
    result = DEFINITIONS.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance, tags=tags, run_config=QUIET
    )
    assert result.success
    return result.run_id


def opened(storage: type[DagsterSqliteStorage], folder: Path) -> dg.DagsterInstance:
    folder.mkdir(exist_ok=True)
    module, name = storage.__module__, storage.__name__
    custom = {"module": module, "class": name, "config": {"base_dir": str(folder)}}
    return dg.DagsterInstance.local_temp(str(folder), overrides={"storage": {"custom": custom}, "telemetry": {"enabled": False}})


def stored(folder: Path, shard: str, run_ids: list[str]) -> list[tuple]:
    """Every row that tells of assets, without ids of runs and processes and the time of day."""
    tables = {
        "event_logs": "id, event, dagster_event_type, step_key, asset_key, partition",
        "asset_event_tags": "event_id, asset_key, key, value",
        "asset_keys": "asset_key, last_materialization, last_run_id",
    }
    found = []
    with closing(sqlite3.connect(folder / "history" / "runs" / f"{shard}.db")) as connection:
        for table, columns in tables.items():
            where = "WHERE dagster_event_type LIKE 'ASSET_MAT%'" if table == "event_logs" else ""
            for row in connection.execute(f"SELECT {columns} FROM {table} {where} ORDER BY 1, 2, 3"):
                text = "|".join(map(str, row))
                for number, run_id in enumerate(run_ids):
                    text = text.replace(run_id, f"run {number}")
                text = re.sub(r'"(timestamp|pid)": [\d.]+', "", text)
                # Made from the ids of the runs.
                found.append((table, re.sub(r"\b[0-9a-f]{64}\b", "version", text)))
    return found


@pytest.mark.parametrize("one_event_a_range", ["true", "false"])
def test_batches_store_what_dagster_stores_one_by_one(tmp_path, monkeypatch, one_event_a_range) -> None:
    monkeypatch.setenv("DAGSTER_EMIT_PARTITION_SUBSET_IN_PLANNED_EVENTS", one_event_a_range)
    rows = {}
    # Batches of 7: several for one asset, and one that is not full.
    for storage, size in ((DagsterSqliteStorage, "0"), (BatchedSqlite, "7")):
        monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", size)
        folder = tmp_path / storage.__name__
        with opened(storage, folder) as instance:
            runs = [run(instance), run(instance, "2011-11-03", "2011-11-11")]
            rows[storage] = [stored(folder, shard, runs) for shard in ("index", *runs)]
    assert rows[BatchedSqlite] == rows[DagsterSqliteStorage]
    assert len(rows[BatchedSqlite][0]) > 40


def test_a_batch_is_one_transaction_of_the_run_and_one_of_the_index(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", "1000")
    monkeypatch.setenv("DAGSTER_EMIT_PARTITION_SUBSET_IN_PLANNED_EVENTS", "true")
    with opened(BatchedSqlite, tmp_path) as instance:
        run(instance, "2011-10-29", "2011-10-30")
        connections = []
        log = instance.event_log_storage
        connect = log._connect
        monkeypatch.setattr(log, "_connect", lambda shard: connections.append(shard) or connect(shard))
        counts = []
        for high in ("2011-10-30", "2011-11-12"):
            connections.clear()
            run(instance, high=high)
            counts.append(len(connections))
        assert counts[0] == counts[1], "15 partitions take as many transactions as two"


def test_a_record_of_dagsters_own_storage_is_read_on_and_can_go_back(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", "1000")
    key = dg.AssetKey("first")
    with opened(DagsterSqliteStorage, tmp_path) as instance:
        run(instance, high="2011-11-01")
    with opened(BatchedSqlite, tmp_path) as instance:
        assert len(instance.get_materialized_partitions(key)) == 4
        run(instance, "2011-11-02", "2011-11-05")
    with opened(DagsterSqliteStorage, tmp_path) as instance:
        assert len(instance.get_materialized_partitions(key)) == 8
        newest = instance.fetch_materializations(key, limit=1).records[0]
        assert newest.partition_key == "2011-11-05" and instance.get_latest_materialization_event(key)
        assert newest.asset_materialization.metadata["dagster/partition_row_count"].value == 3
        assert instance.get_run_step_stats(newest.run_id)


def test_nothing_stays_planned_for_ever(tmp_path) -> None:
    with opened(BatchedSqlite, tmp_path) as instance:
        run(instance)
        check = dg.AssetCheckKey(dg.AssetKey("first"), "holds")
        history = instance.event_log_storage.get_asset_check_execution_history(check, limit=100)
        assert [record.status.value for record in history] == ["SUCCEEDED"]


@pytest.fixture
def home(tmp_path, monkeypatch) -> Home:
    for name in (POSTGRES_URL, "DAGSTER_HOME", "DAGSTER_EVENT_BATCH_SIZE", "DAGSTER_DISABLE_TELEMETRY"):
        # What a test's environment gets from `open_record` is taken away again.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return Home(tmp_path / "home")


def test_a_home_has_its_record_on_sqlite_in_batches_and_telemetry_off(home) -> None:
    with open_record(home) as instance:
        assert isinstance(instance.event_log_storage, BatchedEventLog)
        assert instance.get_settings("telemetry") == {"enabled": False}
        assert instance.run_monitoring_settings["free_slots_after_run_end_seconds"] == 60


def test_an_operators_own_file_is_left_alone_and_ours_follows_the_project(home) -> None:
    record_environment(home)
    file = home.dagster / "dagster.yaml"
    ours = file.read_text()
    file.write_text(ours.replace("max_concurrent_runs: 2", "max_concurrent_runs: 5"))
    record_environment(home)
    assert file.read_text() == ours
    own = ours.split("\n", 1)[1].replace("max_concurrent_runs: 2", "max_concurrent_runs: 5")
    file.write_text(own)
    with open_record(home) as instance:
        assert instance.get_concurrency_config().run_queue_config.max_concurrent_runs == 5
    assert file.read_text() == own


def test_the_link_of_an_older_home_becomes_a_file_and_what_it_linked_to_stays(home, tmp_path) -> None:
    home.dagster.mkdir(parents=True)
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    (home.dagster / "dagster.yaml").symlink_to(tmp_path / "dagster.yaml")
    with open_record(home) as instance:
        assert isinstance(instance.event_log_storage, BatchedEventLog)
    assert (tmp_path / "dagster.yaml").read_text() == "telemetry: {enabled: false}\n"


def test_a_record_in_postgresql_is_never_mistaken_for_one_on_sqlite(home, monkeypatch) -> None:
    monkeypatch.setenv(POSTGRES_URL, URL)
    record_environment(home)
    text = (home.dagster / "dagster.yaml").read_text()
    assert (
        yaml.safe_load(text)["storage"] == {"postgres": {"postgres_url": {"env": POSTGRES_URL}}} and "not-to-be-told" not in text
    )
    monkeypatch.delenv(POSTGRES_URL)
    with pytest.raises(HomeError, match=POSTGRES_URL):
        record_environment(home)


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_the_address_of_another_driver_is_refused_without_telling_the_password(home, monkeypatch, scheme) -> None:
    monkeypatch.setenv(POSTGRES_URL, URL.replace("postgresql+psycopg2", scheme))
    with pytest.raises(HomeError, match=r"postgresql\+psycopg2://") as raised:
        record_environment(home)
    assert "not-to-be-told" not in str(raised.value)


def test_the_databases_are_opened_once_a_run_and_anew_when_the_record_was_wiped(tmp_path, monkeypatch) -> None:
    opened_files = []

    def connect(file, *arguments, real=sqlite3.connect, **options):
        opened_files.append(Path(file).stem)
        return real(file, *arguments, **options)

    with opened(BatchedSqlite, tmp_path) as instance:
        run(instance)
        monkeypatch.setattr(sqlite3.dbapi2, "connect", connect)
        ids = [run(instance), run(instance)]
        assert [opened_files.count(name) for name in (*ids, "index")] == [1, 1, 0]
        instance.wipe()
        after = run(instance)
        assert [one.run_id for one in instance.get_runs()] == [after]
        assert len(instance.get_materialized_partitions(dg.AssetKey("first"))) == 15
        files = (tmp_path / "history" / "runs").glob("*.db")
        assert {file.stem for file in files} >= {after, "index"}
