"""The proof that running again gives the same: old partitions computed once more, beside the live ones, and compared.

Nothing is written. What is computed is computed from the lake as it is now, so that a day that secretly depends on what
came later, on the order of a backfill, on threads or on chance shows as a difference. Partitions that are known to be older
than an input are left out: those are to be restated, and differ rightly.
"""

import random
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
import pyarrow as pa

from analytics_assets.events.loading import differing_hours, lacking_hours
from analytics_assets.operations.catch_up import needed_partitions
from analytics_assets.warehouse.assets import RETRIES, only_passing_faults_retried
from analytics_assets.warehouse.engine import attach, engine, show
from analytics_assets.warehouse.lake import Window, predicate_for
from analytics_assets.warehouse.memory import PEAK_MEMORY, PeakMemory
from analytics_assets.warehouse.tables import Column, Table
from analytics_assets.warehouse.work import Computation, Platform, Work
from analytics_assets.warehouse.writing import in_window

CHECK = "recomputes_equal"
ROWS_SHOWN = 3
_MEANS = (
    "A sample of old partitions, computed again from the lake as it is now and not written, equals the live ones row by row. "
    "A failure names the rows: the table depends on more than the events up to its day."
)


REPRODUCIBILITY = Table(
    name="reproducibility",
    rows_are="partition that was computed again to compare it, and day on which it was",
    columns=(
        Column("proved_on", "DATE", "Business day on which it was computed again."),
        Column("asset", "VARCHAR", "The asset."),
        Column("partition", "VARCHAR", "Key of the hour or business day."),
        Column("equal", "BOOLEAN", "Whether the rows were those in the lake, columns that depend on the run left out."),
        Column(
            "differences", "VARCHAR", "Rows that were on one side only, personal columns masked; NULL where equal.", nullable=True
        ),
        Column("proved_at", "TIMESTAMPTZ", "When it was computed again.", run_dependent=True),
    ),
    key=("proved_on", "asset", "partition"),
    partition_column="proved_on",
)


@dataclass(frozen=True)
class Compared:
    """A partition that was computed again, and where it differs from the live one, in words."""

    asset: str
    partition: str
    differences: tuple[str, ...]


def compare(platform: Platform, computation: Computation, window: Window, log: Any) -> list[str]:
    """Compute a window again and say where its rows differ from those in the lake; personal columns are masked."""
    found = []
    with engine() as connection, closing(Work(platform, window, connection, log)) as work:
        rows = computation.compute(work)
        for table in computation.tables:
            hidden = table.personal_columns(platform.settings.accounts.are == "people")
            shown = ", ".join("'…'" if c.name in hidden else f'"{c.name}"' for c in table.columns if not c.run_dependent)
            attach(connection, platform.lake.pin(table), predicate_for(table, window), name="lake_rows")
            show(connection, table, rows[table.name], "computed_rows")
            live = f"SELECT * FROM lake_rows WHERE {in_window(table, window)}"
            digests = [connection.sql(table.digest_select(side)).order("1").fetchall() for side in ("computed_rows", f"({live})")]
            if digests[0] != digests[1]:
                columns = ", ".join(f'"{c.name}"' for c in table.columns if not c.run_dependent)
                for label, one, other in (("computed now", "computed_rows", f"({live})"), ("live", f"({live})", "computed_rows")):
                    only = f"SELECT {columns} FROM {one} EXCEPT ALL SELECT {columns} FROM {other}"
                    count = connection.sql(f"SELECT count(*) FROM ({only})").fetchall()[0][0]
                    sample = connection.sql(f"SELECT {shown} FROM ({only}) ORDER BY ALL LIMIT {ROWS_SHOWN}").fetchall()
                    if count:
                        found.append(f"{table.name}, {label} only: {count} rows, such as {'; '.join(map(str, sample))}")
    return found


def sampled_windows(
    platform: Platform, instance: dg.DagsterInstance, definitions: dg.Definitions, seed: str
) -> dict[str, dict[str, Window]]:
    """Partitions to compute again, by asset and key: of those that are there and not older than an input."""
    clock, count = platform.clock, platform.settings.operations.proof_partitions
    chosen: dict[str, dict[str, Window]] = {}
    start = clock.begins(clock.first_day)
    begins = {key: hour for hour, key in clock.hour_keys(start, clock.now()).items()}
    changed = set(differing_hours(platform, start, clock.now())) | lacking_hours(platform)
    there = instance.get_materialized_partitions(dg.AssetKey("events"))
    sound = {"events": [key for key, hour in begins.items() if key in there and hour not in changed]}
    for needed in needed_partitions(platform, instance, definitions):
        sound[needed.asset] = [key for day, keys in needed.keys.items() if day not in needed.wanted for key in keys]
    for name, computation in platform.computations.items():
        keys = random.Random(f"{seed} {name}").sample(sound[name], min(count, len(sound[name])))
        if computation.tables[0].grain == "hour":
            chosen[name] = {key: clock.window(begins[key], begins[key] + timedelta(hours=1)) for key in sorted(keys)}
        else:
            days = {key: date.fromisoformat(key) for key in sorted(keys)}
            chosen[name] = {
                key: clock.window(clock.begins(day), clock.begins(day + timedelta(days=1))) for key, day in days.items()
            }
    return chosen


def prove(platform: Platform, instance: dg.DagsterInstance, seed: str, log: Any) -> list[Compared]:
    """Compute a sample of every table again and compare."""
    from analytics_assets.definitions import build_definitions

    windows = sampled_windows(platform, instance, build_definitions(platform), seed)
    return [
        Compared(name, key, tuple(compare(platform, platform.computations[name], window, log)))
        for name in sorted(windows)
        for key, window in windows[name].items()
    ]


def reproducibility_asset(platform: Platform) -> dg.AssetsDefinition:
    """The asset `reproducibility`, without partitions."""

    @dg.asset(
        name=REPRODUCIBILITY.name,
        check_specs=[dg.AssetCheckSpec(CHECK, asset=REPRODUCIBILITY.name, description=_MEANS)],
        metadata={"dagster/column_schema": REPRODUCIBILITY.dagster_schema(), "dagster/table_name": REPRODUCIBILITY.name},
        group_name="operations",
        owners=["team:analytics"],
        kinds={"duckdb", "deltalake"},
        retry_policy=RETRIES,
    )
    def reproducibility(context: dg.AssetExecutionContext) -> Iterator[Any]:
        """The proof that running again gives the same: old partitions computed once more, beside the live ones, and compared.

        Every day a few partitions of each table, drawn anew (`[operations] proof_partitions`), are computed from the lake as it
        is now and not written. A day that secretly depends on what came later, on the order of a backfill, on threads or on
        chance shows as a difference. Partitions known to be older than an input are left out: those are to be restated.

        Read `equal`: false names the rows that differ, without personal columns.
        """
        with only_passing_faults_retried(REPRODUCIBILITY.name), PeakMemory() as memory:
            now = datetime.now(UTC)
            proved_on = now.astimezone(platform.settings.business.zone).date()
            compared = prove(platform, context.instance, proved_on.isoformat(), context.log)
            rows = [
                {
                    "proved_on": proved_on,
                    "asset": one.asset,
                    "partition": one.partition,
                    "equal": not one.differences,
                    "differences": "; ".join(one.differences) or None,
                    "proved_at": now,
                }
                for one in compared
            ]
            table = pa.Table.from_pylist(rows, schema=REPRODUCIBILITY.arrow_schema())
            platform.lake.replace(REPRODUCIBILITY, table, f"proved_on = '{proved_on}'", {})
            platform.publish()
        different = [f"{one.asset} {one.partition}: {text}" for one in compared for text in one.differences]
        metadata: dict[str, Any] = {"compared": len(compared)} | ({"differences": different} if different else {})
        yield dg.AssetCheckResult(check_name=CHECK, passed=not different, metadata=metadata)
        counts = {"dagster/row_count": len(rows), "different": sum(not row["equal"] for row in rows)}
        yield dg.MaterializeResult(metadata={**counts, PEAK_MEMORY: memory.size})

    return reproducibility


def proof_schedule(platform: Platform, asset: dg.AssetsDefinition) -> dg.ScheduleDefinition:
    """Eleven in the morning, when the night is long over."""
    return dg.ScheduleDefinition(
        name="proof_daily",
        job=dg.define_asset_job("proof_of_idempotency", selection=dg.AssetSelection.assets(asset)),
        cron_schedule="0 11 * * *",
        execution_timezone=platform.settings.business.time_zone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
