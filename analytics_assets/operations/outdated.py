"""Days that are older than what they were computed from, and that nothing is about to restate: named, until somebody does.

Automation restates the last seven days by itself. What arrives later than that changes hours and days that nobody requests;
the check `is_up_to_date` on `events` names them, table by table, with all that follows from them.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg
from dagster import DagsterEventType, DagsterRunStatus, RunsFilter

from analytics_assets.operations.automation import PICKED_UP_BY_THE_NIGHT
from analytics_assets.operations.freshness import FRESHNESS_JOB
from analytics_assets.partitions import LOOKBACK
from analytics_assets.warehouse.assets import FILL
from analytics_assets.warehouse.inputs import partitions_there
from analytics_assets.warehouse.work import Platform

# So long after the last run nothing is about to be requested any more: automation looks every half minute.
SETTLED = timedelta(minutes=10)

if TYPE_CHECKING:
    import polars as pl


def outdated_days(
    platform: Platform, instance: dg.DagsterInstance, definitions: dg.Definitions, before: date
) -> dict[str, list[date]]:
    """Days before a day that were computed, and of whose inputs one has come in anew since.

    What follows from such a day is outdated with it. What goes out is left out: a list is of its day and is never made again.

    Returns:
        The days by asset, inputs before what is made of them; assets without any are left out.
    """
    import polars as pl

    clock = platform.clock
    keys_of_hours = clock.hour_keys(clock.begins(clock.first_day), clock.now())
    hours = pl.DataFrame({"day": [clock.day_of(hour) for hour in keys_of_hours]}, schema={"day": pl.Date})
    days = hours["day"].unique(maintain_order=True)
    place_of_day = hours["day"].rle_id()
    graph = definitions.resolve_asset_graph()
    by_the_hour = {
        node.key: isinstance(node.partitions_def, dg.HourlyPartitionsDefinition)
        for node in graph.asset_nodes
        if node.partitions_def
    }
    computed: dict[dg.AssetKey, pl.Series] = {}
    outdated: dict[str, list[date]] = {}
    for key in graph.toposorted_asset_keys:
        node = graph.get(key)
        if key not in by_the_hour or node.tags.get(FILL) == "newest":
            continue
        keys = list(keys_of_hours.values()) if by_the_hour[key] else [day.isoformat() for day in days]
        made = _made(instance, key, keys)
        late = pl.repeat(False, len(made), eager=True)
        for parent in node.parent_keys & computed.keys():
            if parent.to_user_string() in PICKED_UP_BY_THE_NIGHT:
                continue
            values = computed[parent]
            if by_the_hour[parent] and not by_the_hour[key]:
                values = hours.with_columns(values.alias("made")).group_by("day", maintain_order=True).max()["made"]
            elif by_the_hour[key] and not by_the_hour[parent]:
                values = values.gather(place_of_day)
            late |= (_newest(values, node.partition_mappings.get(parent)) > made).fill_null(False)
        computed[key] = pl.select(pl.when(late).then(float("inf")).otherwise(made)).to_series()
        named = days if not by_the_hour[key] else hours["day"]
        if found := [day for day in named.filter(late).unique(maintain_order=True) if day < before]:
            outdated[key.to_user_string()] = found
    return outdated


def _made(instance: dg.DagsterInstance, asset: dg.AssetKey, keys: Sequence[str]) -> "pl.Series":
    """When each partition was last computed, as Dagster's running number of events; NULL for one that is not there."""
    import polars as pl

    storage, there = instance.event_log_storage, partitions_there(instance, asset.to_user_string())
    numbers = storage.get_latest_storage_id_by_partition(asset, DagsterEventType.ASSET_MATERIALIZATION)
    return pl.Series([numbers[key] if key in there else None for key in keys], dtype=pl.Float64)


def _newest(values: "pl.Series", mapping: dg.PartitionMapping | None) -> "pl.Series":
    """The newest of those partitions of an input that each partition of an asset is computed from."""
    if not isinstance(mapping, dg.TimeWindowPartitionMapping) or not len(values):
        return values
    span = min(mapping.end_offset - mapping.start_offset + 1, len(values))
    return values.rolling_max(span, min_samples=1).shift(-mapping.end_offset)


def up_to_date_check(platform: Platform) -> dg.AssetChecksDefinition:
    """The check `is_up_to_date` on `events`, for all tables; it reads Dagster's record alone."""

    @dg.asset_check(
        asset="events",
        name="is_up_to_date",
        description="No day of any table is older than what it was computed from. The last seven days are restated by themselves "
        "and do not count while anything is at work; others are named here, with all that follows from them, and stand as they "
        "are until somebody restates them: `make run`, or a backfill of the days named. After a change of settings or of the version "
        "every night is computed anew, and the days before it are not: `make run` restates those that it keeps filled.",
    )
    def is_up_to_date(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        from analytics_assets.definitions import build_definitions
        from analytics_assets.operations.catch_up import changed_assets

        today, at_work = platform.clock.day_of(platform.clock.now()), _at_work(context.instance)
        definitions = build_definitions(platform)
        outdated = outdated_days(
            platform, context.instance, definitions, today - LOOKBACK if at_work else today + timedelta(days=1)
        )
        found = {name: _in_words(days) for name, days in outdated.items()}
        graph = definitions.resolve_asset_graph()
        for name in () if at_work else changed_assets(platform):
            if graph.get(dg.AssetKey(name)).group_name != "activation":
                found[name] = "; ".join([_CHANGED, *([found[name]] if name in found else [])])
        return dg.AssetCheckResult(passed=not found, severity=dg.AssetCheckSeverity.WARN, metadata=found)

    return is_up_to_date


_CHANGED = "settings or version have changed since `make run`"

_UNFINISHED = [
    *(DagsterRunStatus.QUEUED, DagsterRunStatus.NOT_STARTED, DagsterRunStatus.STARTING),
    *(DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING),
]


def _at_work(instance: dg.DagsterInstance) -> bool:
    """Whether a run is at work or has just ended, so that what follows from it may be about to run; checks themselves aside."""
    unfinished = RunsFilter(statuses=_UNFINISHED)
    just_now = RunsFilter(updated_after=datetime.now(UTC) - SETTLED)
    return any(run.job_name != FRESHNESS_JOB for found in (unfinished, just_now) for run in instance.get_runs(found))


def _in_words(days: Sequence[date]) -> str:
    """`2026-03-01 to 2026-03-04, 2026-03-09`."""
    spans: list[list[date]] = []
    for day in days:
        if spans and day - spans[-1][-1] == timedelta(days=1):
            spans[-1].append(day)
        else:
            spans.append([day])
    return ", ".join(f"{span[0]} to {span[-1]}" if len(span) > 1 else str(span[0]) for span in spans)
