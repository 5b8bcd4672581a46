"""`batch_runs`: every run that ended is in it once, with what it did, whatever became of it."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import dagster as dg
import pytest

from analytics_assets.definitions import build_definitions, build_platform
from analytics_assets.home import Home
from analytics_assets.operations import run_history
from analytics_assets.operations.assets import record_now
from analytics_assets.operations.catch_up import end_dead_runs
from analytics_assets.operations.launcher import CATCH_UP
from analytics_assets.operations.run_history import BATCH_RUNS, record_runs
from analytics_assets.settings import parse_settings
from analytics_assets.warehouse.engine import attach, engine
from analytics_assets.warehouse.memory import PEAK_MEMORY

SETTINGS = '[business]\ntime_zone = "Europe/London"\ncurrency = "GBP"\nfirst_day = 2011-10-29\n'
DAYS = dg.DailyPartitionsDefinition("2011-10-29", timezone="Europe/London")
RANGE = {"dagster/asset_partition_range_start": "2011-10-29", "dagster/asset_partition_range_end": "2011-11-01"}


def definitions(flaky: int = 0, broken: bool = False) -> dg.Definitions:
    """`first` fails `flaky` times before it passes; `second` fails for good when `broken`; `third` comes after it."""
    left = [flaky]

    @dg.asset(partitions_def=DAYS, backfill_policy=dg.BackfillPolicy.single_run(), retry_policy=dg.RetryPolicy(max_retries=2))
    def first(context: dg.AssetExecutionContext):
        if left[0]:
            left[0] -= 1
            raise OSError("the disk was away")
        for number, key in enumerate(context.partition_keys):
            context.add_asset_metadata({"dagster/partition_row_count": number}, partition_key=key)
        yield dg.MaterializeResult(metadata={"dagster/row_count": 999})

    @dg.asset(deps=[first], partitions_def=DAYS, backfill_policy=dg.BackfillPolicy.single_run())
    def second() -> None:
        if broken:
            raise dg.Failure("no such column", allow_retries=False)

    @dg.asset(deps=[second], partitions_def=DAYS, backfill_policy=dg.BackfillPolicy.single_run())
    def third() -> None: ...

    @dg.asset
    def loader():
        yield dg.MaterializeResult(metadata={"dagster/row_count": 7, PEAK_MEMORY: 300 * 2**20})

    return dg.Definitions([first, second, third, loader])


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def platform(tmp_path):
    return build_platform(parse_settings(SETTINGS + "[operations]\nprice_per_hour = 3600\n", "x"), Home(tmp_path / "home"))


def run(defs: dg.Definitions, instance: dg.DagsterInstance, *assets: str, **tags: str) -> str:
    job = defs.resolve_implicit_global_asset_job_def()
    keys = [dg.AssetKey(name) for name in assets]
    return job.execute_in_process(instance=instance, asset_selection=keys, tags=tags, raise_on_error=False).run_id


def rows(platform, columns: str, where: str = "true") -> list[tuple]:
    with engine() as connection:
        attach(connection, platform.lake.pin(BATCH_RUNS))
        return connection.sql(f"SELECT {columns} FROM batch_runs WHERE {where} ORDER BY ALL").fetchall()


@pytest.mark.parametrize("one_event_a_range", ["true", "false"])
def test_a_range_is_one_row_a_partition_and_a_retry_is_an_attempt(platform, instance, monkeypatch, one_event_a_range) -> None:
    monkeypatch.setenv("DAGSTER_EMIT_PARTITION_SUBSET_IN_PLANNED_EVENTS", one_event_a_range)
    run_id = run(definitions(flaky=1), instance, "first", **RANGE)
    assert record_runs(platform, instance) == 1
    assert rows(platform, "asset, partition, rows, attempts, status, partitions, run_id") == [
        ("first", f"2011-{day}", number, 2, "success", 4, run_id)
        for number, day in enumerate(("10-29", "10-30", "10-31", "11-01"))
    ]


def test_seconds_add_up_to_what_dagster_says_and_cost_follows_from_them(platform, instance) -> None:
    run_id = run(definitions(), instance, "first", **RANGE)
    record_runs(platform, instance)
    stats = {step.step_key: step for step in instance.get_run_step_stats(run_id)}["first"]
    [(seconds, started, finished)] = rows(platform, "sum(seconds), min(started_at), max(finished_at)")
    assert seconds == pytest.approx(stats.end_time - stats.start_time, abs=1e-4)
    assert started == datetime.fromtimestamp(stats.start_time, UTC)
    assert finished == datetime.fromtimestamp(stats.end_time, UTC)
    assert all(cost == Decimal(str(each)).quantize(Decimal("0.000001")) for cost, each in rows(platform, "cost, seconds"))


def test_a_failure_is_recorded_and_what_comes_after_it_was_not_run(platform, instance) -> None:
    run(definitions(broken=True), instance, "first", "second", "third", **{"dagster/partition": "2011-10-30"})
    record_runs(platform, instance)
    assert rows(platform, "asset, partition, rows, attempts, status") == [
        ("first", "2011-10-30", 0, 1, "success"),
        ("second", "2011-10-30", None, 1, "failure"),
        ("third", "2011-10-30", None, 0, "not_run"),
    ]


def test_an_asset_without_partitions_has_rows_and_no_partition(platform, instance) -> None:
    run(definitions(), instance, "loader")
    record_runs(platform, instance)
    assert rows(platform, "asset, partition, rows, partitions, backfill, run_retry") == [("loader", None, 7, 1, None, 0)]


def test_peak_memory_is_that_of_the_step_and_unknown_where_the_step_does_not_tell(platform, instance) -> None:
    run(definitions(broken=True), instance, "first", "second", **RANGE)
    run(definitions(), instance, "loader")
    record_runs(platform, instance)
    assert rows(platform, "DISTINCT asset, peak_memory") == [("first", None), ("loader", 300 * 2**20), ("second", None)]


def test_a_worker_that_dies_leaves_a_failure_that_lasts_until_dagster_saw_it(platform, instance) -> None:
    run_id = run(definitions(), instance, "loader")
    dead = instance.get_run_by_id(run_id)
    instance.delete_run(run_id)
    instance.add_run(dead.with_status(dg.DagsterRunStatus.STARTED))
    store_start(instance, dead)
    instance.report_run_failed(instance.get_run_by_id(run_id), "the worker crashed")
    record_runs(platform, instance)
    [(status, attempts, seconds, made)] = rows(platform, "status, attempts, seconds, rows")
    assert (status, attempts, made) == ("failure", 1, None) and seconds >= 60


def store_start(instance: dg.DagsterInstance, dead: dg.DagsterRun) -> None:
    """A step that began a minute ago and never said another word."""
    planned = dg.DagsterEvent(
        "ASSET_MATERIALIZATION_PLANNED", dead.job_name, step_key="loader",
        event_specific_data=dg._core.events.AssetMaterializationPlannedData(dg.AssetKey("loader")),
    )  # fmt: skip
    began = dg.DagsterEvent("STEP_START", dead.job_name, step_key="loader")
    for event in (planned, began):
        at = datetime.now(UTC) - timedelta(seconds=60)
        instance.store_event(
            dg.EventLogEntry(None, 20, "", dead.run_id, at.timestamp(), "loader", dead.job_name, dagster_event=event)
        )


def test_recording_again_adds_nothing_and_a_new_run_is_added(platform, instance) -> None:
    defs = definitions()
    run(defs, instance, "first", **RANGE)
    assert record_runs(platform, instance) == 1
    before = rows(platform, "*")
    assert record_runs(platform, instance) == 0 and rows(platform, "*") == before
    run(defs, instance, "loader")
    assert record_runs(platform, instance) == 1
    assert len(rows(platform, "*")) == len(before) + 1


def test_the_record_outlives_dagsters_own(platform, instance) -> None:
    run_id = run(definitions(), instance, "loader")
    record_runs(platform, instance)
    instance.delete_run(run_id)
    run(definitions(), instance, "loader")
    record_runs(platform, instance)
    assert len(rows(platform, "*")) == 2 and (run_id,) in rows(platform, "run_id")


def test_a_table_that_was_lost_is_recorded_anew(platform, instance, tmp_path) -> None:
    run(definitions(), instance, "first", **RANGE)
    run(definitions(), instance, "loader")
    record_runs(platform, instance)
    elsewhere = build_platform(platform.settings, Home(tmp_path / "restored"))
    record_runs(elsewhere, instance)
    assert rows(elsewhere, "*") == rows(platform, "*")


def test_two_recorders_at_once_record_each_run_once(platform, instance, monkeypatch) -> None:
    run(definitions(), instance, "loader")
    replace, raced = type(platform.lake).replace, []

    def beaten(lake, *arguments):
        if not raced:
            raced.append(True)
            record_runs(platform, instance)
        return replace(lake, *arguments)

    monkeypatch.setattr(type(platform.lake), "replace", beaten)
    record_runs(platform, instance)
    assert raced and len(rows(platform, "*")) == 1


def test_more_runs_than_a_page_are_all_recorded_in_the_order_in_which_they_ended(platform, instance, monkeypatch) -> None:
    monkeypatch.setattr(run_history, "RUNS_A_PAGE", 2)
    ids = [run(definitions(), instance, "loader") for _ in range(5)]
    instance.add_run_tags(ids[0], {"touched": "last"})
    assert [record.dagster_run.run_id for record in run_history.ended_runs(instance, None)] in (ids, [*ids[1:], ids[0]])
    assert record_runs(platform, instance) == 5


@pytest.mark.parametrize("status", ["NOT_STARTED", "STARTED"])
def test_runs_of_a_catch_up_that_was_killed_are_ended_and_others_are_left_alone(platform, instance, status: str) -> None:
    runs = {}
    for tags in ({CATCH_UP: "true"}, {}):
        run_id = run(definitions(), instance, "loader", **tags)
        done = instance.get_run_by_id(run_id)
        instance.delete_run(run_id)
        runs[run_id] = instance.add_run(done.with_status(dg.DagsterRunStatus(status)))
    end_dead_runs(instance)
    assert [instance.get_run_by_id(run_id).status.value for run_id in runs] == ["FAILURE", status]


def test_the_run_that_records_a_catch_up_is_one_of_its_own(platform, instance) -> None:
    platform.hold_publishing = True
    assert record_now(build_definitions(platform), instance)
    [recorded] = instance.get_runs()
    assert recorded.tags[CATCH_UP] == "true" and recorded.tags["dagster/max_retries"] == "0"
