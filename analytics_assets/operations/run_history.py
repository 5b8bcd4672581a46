"""`batch_runs`: what ran when, for how long and at what cost, read from Dagster's own record and kept beyond it.

A run is recorded once it has ended, whatever became of it. The table itself says how far the record has come, so nothing
is lost when a recorder is killed, and recording a run again replaces its rows by the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import dagster as dg
import pyarrow as pa
from dagster import DagsterEventType, DagsterRun, DagsterRunStatus, RunRecord, RunsFilter

from analytics_assets.warehouse.engine import attach, engine
from analytics_assets.warehouse.lake import Window, predicate_for
from analytics_assets.warehouse.memory import PEAK_MEMORY
from analytics_assets.warehouse.tables import Column, Table
from analytics_assets.warehouse.work import Platform

BATCH_RUNS = Table(
    name="batch_runs",
    rows_are="asset, partition and run that computed it or tried to",
    columns=(
        Column("asset", "VARCHAR", "The asset."),
        Column("partition", "VARCHAR", "Key of the hour or business day; NULL for an asset without partitions.", nullable=True),
        Column("run_id", "VARCHAR", "Dagster's id of the run."),
        Column("run_date", "DATE", "Business day on which the run began."),
        Column("job", "VARCHAR", "Dagster's name of the job; `__ASSET_JOB` for assets chosen one by one."),
        Column("started_at", "TIMESTAMPTZ", "When the asset began, or the run where the asset never did."),
        Column("finished_at", "TIMESTAMPTZ", "When the asset ended, or the run that died under it."),
        Column("seconds", "DOUBLE", "From beginning to end, pauses before retries included, divided by `partitions`.", "seconds"),
        Column("rows", "BIGINT", "Rows of the partition; NULL where none were made.", "rows", nullable=True),
        Column("attempts", "BIGINT", "How often the step was begun in this run: 2 is one retry after a passing fault.", "attempts"),
        Column("status", "VARCHAR", "`success`, `failure`, `canceled`, or `not_run`: something before it failed."),
        Column("partitions", "BIGINT", "Partitions that the step computed together: a range is one step.", "partitions"),
        Column("run_retry", "BIGINT", "0, or n where Dagster began the n-th new run after a worker crashed."),
        Column("backfill", "VARCHAR", "Dagster's id of the backfill that asked for the run, if one did.", nullable=True),
        Column(
            "cost", "DECIMAL(18,6)", "`seconds` at `[operations] price_per_hour` as it was set then; NULL where it was not.",
            "the business's currency", nullable=True,
        ),
        Column(
            "peak_memory", "BIGINT",
            "Largest resident memory of the run's process while the step computed all its partitions; NULL where that is unknown: "
            "the step failed, or the system is not Linux.", "bytes", nullable=True,
        ),
    ),
    key=("asset", "partition", "run_id"),
    partition_column="run_date",
    schema_version=2,
)  # fmt: skip

ENDED = (DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED)
# Runs are looked at again for so long after they ended: clocks of two machines differ, commits overtake each other.
OVERLAP = timedelta(hours=1)
RUNS_A_COMMIT = 200
RUNS_A_PAGE = 500

_STEP_BEGINS = {DagsterEventType.STEP_START, DagsterEventType.STEP_RESTARTED}
_STEP_ENDS = {DagsterEventType.STEP_SUCCESS, DagsterEventType.STEP_FAILURE}
_READ = {
    DagsterEventType.ASSET_MATERIALIZATION_PLANNED,
    DagsterEventType.ASSET_MATERIALIZATION,
    DagsterEventType.ASSET_CHECK_EVALUATION,
    DagsterEventType.STEP_UP_FOR_RETRY,
    *_STEP_BEGINS,
    *_STEP_ENDS,
}


@dataclass
class StepRun:
    """One asset in one run: its partitions, its beginnings, its end, and what it said."""

    asset: str
    partitions: list[str | None] = field(default_factory=list)
    begun: list[datetime] = field(default_factory=list)
    ended: datetime | None = None
    failure: str | None = None
    made: dict[str | None, int | None] = field(default_factory=dict)
    peak_memory: int | None = None
    checks: list[dg.AssetCheckEvaluation] = field(default_factory=list)

    @property
    def span(self) -> str | None:
        """The partitions as one text: `2026-03-31`, or `2026-03-01 to 2026-03-31`."""
        keys = sorted(key for key in self.partitions if key is not None)
        if not keys:
            return None
        return keys[0] if len(keys) == 1 else f"{keys[0]} to {keys[-1]}"


def ended_runs(instance: dg.DagsterInstance, after: datetime | None) -> list[RunRecord]:
    """Runs that ended after an instant, in the order in which they did; None is all of them."""
    found: list[RunRecord] = []
    while True:
        # Dagster's cursor is a place in the order in which runs were made, whatever order is asked for.
        page = instance.get_run_records(
            RunsFilter(statuses=list(ENDED), updated_after=after),
            limit=RUNS_A_PAGE,
            ascending=True,
            cursor=found[-1].dagster_run.run_id if found else None,
        )
        found += page
        if len(page) < RUNS_A_PAGE:
            return sorted(found, key=lambda record: (record.update_timestamp, record.storage_id))


def steps_of(instance: dg.DagsterInstance, run: DagsterRun) -> dict[str, StepRun]:
    """What a run did with each asset that it was to materialise, by asset; checks of other assets by the asset checked."""
    steps: dict[str, StepRun] = {}
    assets_of: dict[str, list[str]] = {}
    for record in instance.event_log_storage.get_records_for_run(run.run_id, of_type=_READ).records:
        event, at = record.event_log_entry.get_dagster_event(), _instant(record.event_log_entry.timestamp)
        kind = event.event_type
        if kind == DagsterEventType.ASSET_MATERIALIZATION_PLANNED:
            planned: Any = event.event_specific_data
            name = planned.asset_key.to_user_string()
            step = steps.setdefault(name, StepRun(name))
            step.partitions += (
                list(planned.partitions_subset.get_partition_keys()) if planned.partitions_subset else [event.partition]
            )
            if event.step_key and name not in assets_of.setdefault(event.step_key, []):
                assets_of[event.step_key].append(name)
        elif kind == DagsterEventType.ASSET_MATERIALIZATION:
            assert event.asset_key is not None
            if step_made := steps.get(event.asset_key.to_user_string()):
                metadata = event.step_materialization_data.materialization.metadata
                step_made.made[event.partition] = _rows(metadata, event.partition)
                if PEAK_MEMORY in metadata:
                    step_made.peak_memory = metadata[PEAK_MEMORY].value  # type: ignore[assignment]
        elif kind == DagsterEventType.ASSET_CHECK_EVALUATION:
            evaluation = event.asset_check_evaluation_data
            name = evaluation.asset_key.to_user_string()
            steps.setdefault(name, StepRun(name)).checks.append(evaluation)
        for name in assets_of.get(event.step_key or "", ()):
            step = steps[name]
            if kind in _STEP_BEGINS:
                step.begun.append(at)
            elif kind in _STEP_ENDS:
                step.ended = at
                if kind == DagsterEventType.STEP_FAILURE:
                    step.failure = failure_text(event)
    return steps


def failure_text(event: dg.DagsterEvent) -> str:
    """Why a step failed, in its own words."""
    error, failure = event.step_failure_data.error, event.step_failure_data.user_failure_data
    return str((failure and failure.description) or (error and (error.cause or error).message) or event.message).strip()


def _rows(metadata: Mapping[str, dg.MetadataValue], partition: str | None) -> int | None:
    """A table without rows in a partition is a partition of zero rows; an asset that does not count has none to tell."""
    for name in ("dagster/partition_row_count", "dagster/row_count"):
        if name in metadata:
            return int(metadata[name].value)  # type: ignore[arg-type]
    return None


def _instant(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def rows_of_run(platform: Platform, record: RunRecord, steps: Mapping[str, StepRun]) -> list[dict[str, Any]]:
    """The rows of `batch_runs` of one ended run."""
    run = record.dagster_run
    run_ended = _instant(record.end_time or record.update_timestamp.timestamp())
    run_started = _instant(record.start_time or record.create_timestamp.timestamp())
    rows = []
    for step in steps.values():
        began = min(step.begun, default=run_started)
        ended = step.ended or (run_ended if step.begun else began)
        count = len(step.partitions)
        seconds = round((ended - began).total_seconds() / count, 6) if count else 0.0
        rows += [
            {
                "asset": step.asset,
                "partition": partition,
                "run_id": run.run_id,
                "run_date": platform.clock.day_of(run_started),
                "job": run.job_name,
                "started_at": began,
                "finished_at": ended,
                "seconds": seconds,
                "rows": step.made.get(partition),
                "attempts": len(step.begun),
                "status": _status(run, step, partition),
                "partitions": count,
                "run_retry": int(run.tags.get("dagster/retry_number", 0)),
                "backfill": run.tags.get("dagster/backfill"),
                "cost": _cost(seconds, platform.settings.operations.price_per_hour),
                "peak_memory": step.peak_memory,
            }
            for partition in step.partitions
        ]
    return rows


def _status(run: DagsterRun, step: StepRun, partition: str | None) -> str:
    if partition in step.made and step.failure is None:
        return "success"
    if step.failure is not None:
        return "failure"
    if not step.begun:
        return "canceled" if run.status == DagsterRunStatus.CANCELED else "not_run"
    return {DagsterRunStatus.SUCCESS: "success", DagsterRunStatus.CANCELED: "canceled"}.get(run.status, "failure")


def _cost(seconds: float, price_per_hour: Decimal | None) -> Decimal | None:
    if price_per_hour is None:
        return None
    return (Decimal(str(seconds)) * price_per_hour / 3600).quantize(Decimal("0.000001"))


def record_runs(platform: Platform, instance: dg.DagsterInstance) -> int:
    """Bring `batch_runs` up to the runs that have ended.

    Returns:
        How many runs were recorded.
    """
    with engine() as connection:
        attach(connection, platform.lake.pin(BATCH_RUNS))
        newest = connection.sql("SELECT max(finished_at) FROM batch_runs").fetchall()[0][0]
        after = newest - OVERLAP if newest else None
        query = "SELECT DISTINCT run_id FROM batch_runs WHERE finished_at >= $since"
        known = {run_id for (run_id,) in connection.sql(query, params={"since": after}).fetchall()} if after else set()
    recorded, waiting = 0, []
    for record in ended_runs(instance, after):
        if record.dagster_run.run_id in known:
            continue
        if rows := rows_of_run(platform, record, steps_of(instance, record.dagster_run)):
            waiting.append(rows)
            recorded += 1
        if len(waiting) == RUNS_A_COMMIT:
            _commit(platform, waiting)
            waiting = []
    if waiting:
        _commit(platform, waiting)
    return recorded


def _commit(platform: Platform, runs: list[list[dict[str, Any]]]) -> None:
    rows = pa.Table.from_pylist([row for run in runs for row in run], schema=BATCH_RUNS.arrow_schema())
    days = [run[0]["run_date"] for run in runs]
    clock = platform.clock
    window = Window(min(days), max(days), clock.begins(min(days)), clock.begins(max(days) + timedelta(days=1)))
    ids = ", ".join(f"'{run[0]['run_id']}'" for run in runs)
    platform.lake.replace(BATCH_RUNS, rows, f"{predicate_for(BATCH_RUNS, window)} AND run_id IN ({ids})", {})
