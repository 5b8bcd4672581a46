"""Looking after the lake: small files become large ones, and files that no version within reach needs are removed."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from analytics_assets.warehouse.assets import Platform

# Versions of the last month can be read and restored.
KEPT = timedelta(days=30)


@dataclass(frozen=True)
class Freed:
    """What maintenance did to one table."""

    table: str
    files_merged: int
    files_removed: int
    bytes_removed: int


def maintain(platform: Platform, now: datetime) -> list[Freed]:
    """Merge the small files of every table and remove what no version of the last month holds.

    What a published version still reads stays: views in `analytics.duckdb`, and in the two versions before it, that
    somebody may have open, lead to files of the lake.
    """
    tables = sorted(path.parent for path in platform.home.lake.glob("*/_delta_log"))
    return [_maintain(table, kept_since(platform, now), now) for table in tables]


def kept_since(platform: Platform, now: datetime) -> datetime:
    """Files that were in use at this instant or later are kept."""
    published = [datetime.fromtimestamp(path.stat().st_mtime, UTC) for path in platform.home.published.glob("analytics-*.duckdb")]
    return min([now - KEPT, *(at - timedelta(hours=1) for at in published)])


def _maintain(table: Path, since: datetime, now: datetime) -> Freed:
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
    torn = [path for path in table.rglob("*#[0-9]*") if path.stat().st_mtime < since.timestamp()]
    size = sum(path.stat().st_size for path in (*unneeded, *torn) if path.exists())
    if unneeded:
        delta.vacuum(retention_hours=hours, dry_run=False, full=True)
    for path in torn:
        path.unlink()
    return Freed(table.name, merged, len(unneeded) + len(torn), size)


def maintenance_job(platform: Platform) -> dg.JobDefinition:
    """The job `lake_maintenance`; its step's page shows what each table gave back."""

    @dg.op(name="maintain_lake")
    def maintain_lake(context: dg.OpExecutionContext) -> Iterator[Any]:
        """Compaction and vacuum of every table."""
        freed = maintain(platform, datetime.now(UTC))
        platform.publish()
        lines = ["| table | files merged | files removed | MiB removed |", "|---|---|---|---|"]
        lines += [
            f"| {one.table} | {one.files_merged} | {one.files_removed} | {one.bytes_removed / 2**20:.1f} |" for one in freed
        ]
        total = sum(one.bytes_removed for one in freed)
        context.log.info(f"removed {total / 2**20:.1f} MiB in {sum(one.files_removed for one in freed)} files")
        yield dg.Output(None, metadata={"freed": dg.MetadataValue.md("\n".join(lines)), "bytes removed": total})

    @dg.job(name="lake_maintenance", description="Merges small files of the lake and removes those that nobody needs any more.")
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
