"""Looking after the lake: old days become month-ends, small files become large ones, and what nobody needs is removed."""

import calendar
import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from analytics_assets.warehouse.lake import Lake
from analytics_assets.warehouse.tables import Table
from analytics_assets.warehouse.work import Computation, Platform

# Versions of the last month can be read and restored.
KEPT = timedelta(days=30)
SPILL_KEPT = timedelta(days=2)


@dataclass(frozen=True)
class Freed:
    """What maintenance did to one table. Rows of days that were taken out leave their files to the versions of the last month."""

    table: str
    rows_taken_out: int
    files_merged: int
    files_removed: int
    bytes_removed: int


def maintain(platform: Platform, instance: dg.DagsterInstance, now: datetime) -> list[Freed]:
    """Thin out old days, merge the small files of every table, and remove what no version of the last month holds.

    What a published version still reads stays: views in `analytics.duckdb`, and in the two versions before it, that
    somebody may have open, lead to files of the lake.
    """
    for folder in platform.home.spill.glob("*"):
        # Of a process that was killed: one at work goes on writing.
        if datetime.fromtimestamp(folder.stat().st_mtime, UTC) < now - SPILL_KEPT:
            shutil.rmtree(folder, ignore_errors=True)
    taken_out: dict[str, int] = {}
    for asset, computation in platform.computations.items():
        taken_out |= _thin_out(platform, instance, asset, computation)
    since = kept_since(platform, now)
    # A folder without a version is of a writer that was killed while it made the table, or is just making it.
    tables = sorted(path for path in platform.home.lake.glob("*") if DeltaTable.is_deltatable(str(path)))
    return [_maintain(table, since, now, taken_out.get(table.name, 0)) for table in tables]


def days_beyond(days: Sequence[date], today: date, kept: int) -> list[date]:
    """Those of `days` that are neither among the last `kept` before today nor the last day of a month."""
    oldest = today - timedelta(days=kept)
    return sorted(day for day in days if day < oldest and day.day < calendar.monthrange(day.year, day.month)[1])


def _thin_out(platform: Platform, instance: dg.DagsterInstance, asset: str, computation: Computation) -> dict[str, int]:
    """Take old days out of the tables of an asset, but for month-ends; how many rows of each.

    Tables whose every day is kept filled are left alone, and so is what is not computed, the ledger of sends among it.
    """
    if computation.fill == "all":
        return {}
    clock, lake = platform.clock, platform.lake
    today, kept = clock.day_of(clock.now()), platform.settings.operations.as_of_days_kept
    beyond = {table.name: days_beyond(_days_of(lake, table), today, kept) for table in computation.tables}
    # Recorded first: a day that is there and counts as removed is removed next time; the other way round it would be read as empty.
    for day in sorted(set().union(*beyond.values())):
        hours = clock.hour_keys(clock.begins(day), clock.begins(day + timedelta(days=1))).values()
        for key in hours if computation.tables[0].grain == "hour" else [day.isoformat()]:
            removed = {"removed": f"older than {kept} days and not the last day of a month: materialise it to have it again"}
            instance.report_runless_asset_event(dg.AssetObservation(asset, partition=key, metadata=removed))
    note = {"removed": f"days older than {kept} days, but for month-ends"}
    return {table.name: lake.remove_days(table, beyond[table.name], note) for table in computation.tables if beyond[table.name]}


def _days_of(lake: Lake, table: Table) -> list[date]:
    """The business days of which a table has files."""
    delta = lake.pin(table).delta
    return [date.fromisoformat(part[str(table.partition_column)]) for part in delta.partitions()] if delta else []


def kept_since(platform: Platform, now: datetime) -> datetime:
    """Files that were in use at this instant or later are kept."""
    published = _still_there(platform.home.published.glob("analytics-*.duckdb"))
    return min([now - KEPT, *(datetime.fromtimestamp(found.st_mtime, UTC) - timedelta(hours=1) for _, found in published)])


def _still_there(paths: Iterable[Path]) -> list[tuple[Path, os.stat_result]]:
    """Files with what the system says of them, without those that their owner has taken away or renamed meanwhile."""
    found = []
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            found.append((path, path.stat()))
    return found


def _maintain(table: Path, since: datetime, now: datetime, taken_out: int) -> Freed:
    delta = DeltaTable(str(table))
    try:
        merged = int(delta.optimize.compact()["numFilesRemoved"])
    except CommitFailedError:
        # Somebody wrote meanwhile: theirs counts, and there is another day.
        merged, delta = 0, DeltaTable(str(table))
    hours = int((now - since) / timedelta(hours=1)) + 1
    # `full`: files of writers that were killed before their commit stand in no version's log.
    unneeded = [table / name for name in delta.vacuum(retention_hours=hours, dry_run=True, full=True)]
    # What was being written when its writer was killed ends in # and a number, and is no file to Delta.
    torn = [path for path, found in _still_there(table.rglob("*#[0-9]*")) if found.st_mtime < since.timestamp()]
    size = sum(found.st_size for _, found in _still_there((*unneeded, *torn)))
    if unneeded:
        delta.vacuum(retention_hours=hours, dry_run=False, full=True)
    for path in torn:
        path.unlink(missing_ok=True)
    return Freed(table.name, taken_out, merged, len(unneeded) + len(torn), size)


def maintenance_job(platform: Platform) -> dg.JobDefinition:
    """The job `lake_maintenance`; its step's page shows what each table gave back."""

    @dg.op(name="maintain_lake")
    def maintain_lake(context: dg.OpExecutionContext) -> Iterator[Any]:
        """Old days, compaction and vacuum of every table."""
        freed = maintain(platform, context.instance, datetime.now(UTC))
        platform.publish()
        lines = ["| table | rows taken out | files merged | files removed | MiB removed |", "|---|---|---|---|---|"]
        lines += [
            f"| {one.table} | {one.rows_taken_out} | {one.files_merged} | {one.files_removed} | {one.bytes_removed / 2**20:.1f} |"
            for one in freed
        ]
        total = sum(one.bytes_removed for one in freed)
        context.log.info(f"removed {total / 2**20:.1f} MiB in {sum(one.files_removed for one in freed)} files")
        yield dg.Output(None, metadata={"freed": dg.MetadataValue.md("\n".join(lines)), "bytes removed": total})

    @dg.job(
        name="lake_maintenance",
        description="Takes out old days but for month-ends, merges small files, removes what nobody needs.",
    )
    def lake_maintenance() -> None:
        maintain_lake()

    return lake_maintenance


def maintenance_schedule(platform: Platform, job: dg.JobDefinition) -> dg.ScheduleDefinition:
    """Sundays at noon, far from the night."""
    return dg.ScheduleDefinition(
        name="lake_maintenance_weekly",
        job=job,
        cron_schedule="0 12 * * 0",
        execution_timezone=platform.settings.business.time_zone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
