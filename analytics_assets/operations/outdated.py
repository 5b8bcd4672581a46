"""Days that are older than what they were computed from, and that nothing is about to restate: named, until somebody does.

Automation restates by itself the hours and days that late data falls on, and what is as of the last seven days. Older days of tables that
are as of a day follow from it too, and nobody requests them; the check `is_up_to_date` on `events` names them, table by table, with
all that follows from them.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING

import dagster as dg
from dagster import DagsterEventType, DagsterRunStatus, RunsFilter

from analytics_assets.events.loading import data_through, hours_due
from analytics_assets.operations.automation import PICKED_UP_BY_THE_NIGHT, is_restated_at_any_age
from analytics_assets.operations.freshness import FRESHNESS_JOB
from analytics_assets.partitions import LOOKBACK, keys_between
from analytics_assets.warehouse.assets import FILL
from analytics_assets.warehouse.inputs import partitions_there
from analytics_assets.warehouse.work import Platform

# So long after the last run nothing is about to be requested any more: automation looks every half minute.
SETTLED = timedelta(minutes=10)

if TYPE_CHECKING:
    import polars as pl


def outdated_days(
    platform: Platform, instance: dg.DagsterInstance, definitions: dg.Definitions, at_work: bool
) -> dict[str, list[date]]:
    """Days that were computed, and of whose inputs one has come in anew since, with all that follows from them.

    While something is `at_work`, those are left out that automation restates by itself. What goes out is left out always: a list is of its day and is never made again.

    Returns:
        The days by asset, inputs before what is made of them; assets without any are left out.
    """
    import polars as pl

    clock = platform.clock
    lookback = clock.day_of(clock.now()) - LOOKBACK
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

    def as_read(of: pl.Series, parent: dg.AssetKey, key: dg.AssetKey, mapping: dg.PartitionMapping | None) -> pl.Series:
        """The greatest value among those partitions of an input that each partition of an asset is computed from."""
        if by_the_hour[parent] and not by_the_hour[key]:
            of = hours.with_columns(of.alias("of")).group_by("day", maintain_order=True).max()["of"]
        elif by_the_hour[key] and not by_the_hour[parent]:
            of = of.gather(place_of_day)
        return _newest(of, mapping)

    for key in graph.toposorted_asset_keys:
        node = graph.get(key)
        if key not in by_the_hour or node.tags.get(FILL) == "newest":
            continue
        keys = list(keys_of_hours.values()) if by_the_hour[key] else [day.isoformat() for day in days]
        made = _made(instance, key, keys)
        named = days if not by_the_hour[key] else hours["day"]
        late = pl.repeat(False, len(made), eager=True)
        for parent in node.parent_keys & computed.keys():
            if parent.to_user_string() in PICKED_UP_BY_THE_NIGHT:
                continue
            newest = as_read(computed[parent], parent, key, node.partition_mappings.get(parent))
            late |= (newest > made).fill_null(False)
        computed[key] = pl.select(pl.when(late).then(float("inf")).otherwise(made)).to_series()
        # By the hour automation goes back into the day before, how far depends on the hour.
        by_itself = (named >= lookback - timedelta(days=by_the_hour[key])) | is_restated_at_any_age(node)
        if found := named.filter(late & ~(by_itself & at_work)).unique(maintain_order=True).to_list():
            outdated[key.to_user_string()] = found
    return outdated


def how_to_restate(platform: Platform, definitions: dg.Definitions, outdated: Mapping[str, Sequence[date]]) -> str:
    """The commands that restate outdated days, in their order: `make run`, and one a span of what that leaves alone."""
    from analytics_assets.operations.catch_up import AS_OF_DAYS

    clock, graph = platform.clock, definitions.resolve_asset_graph()
    through = data_through(platform.home)
    kept_filled = clock.day_of(hours_due(platform, through) if through else clock.now()) - timedelta(days=AS_OF_DAYS)
    left: dict[str, list[date]] = {}
    for name, days in outdated.items():
        node = graph.get(dg.AssetKey(name))
        # Of hours the day that is not over is one of those that are kept filled.
        by_the_hour = isinstance(node.partitions_def, dg.HourlyPartitionsDefinition)
        older = [day for day in days if day < kept_filled + timedelta(days=by_the_hour)]
        if node.tags.get(FILL) == "recent" and older:
            left[name] = older
    commands = ["make run"]
    for first, last in _spans(sorted({day for days in left.values() for day in days})):
        of_span = [name for name, days in left.items() if any(first <= day <= last for day in days)]
        # One run cannot have both hours and days.
        for definition, names in groupby(of_span, lambda name: graph.get(dg.AssetKey(name)).partitions_def):
            assert isinstance(definition, dg.TimeWindowPartitionsDefinition)
            keys = keys_between(definition, clock.begins(first), clock.begins(last + timedelta(days=1)))
            commands.append(_MATERIALIZE.format(assets=",".join(names), first=keys[0], last=keys[-1]))
    return " && ".join(commands)


_MATERIALIZE = (
    "DAGSTER_HOME=$ANALYTICS_HOME/dagster .venv/bin/dagster asset materialize -m analytics_assets.definitions "
    "--select {assets} --partition-range {first}...{last}"
)


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
        description="No day of any table is older than what it was computed from. Hours and days that late data falls on, and what "
        "is as of the last seven days, are restated by themselves and do not count while anything is at work; others are named here, "
        "with all that follows from them, and stand as they are until somebody restates them, by the commands that stand beside them. After a change of settings or of the version "
        "every night is computed anew, and the days before it are not: `make run` restates those that it keeps filled.",
    )
    def is_up_to_date(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        from analytics_assets.definitions import build_definitions
        from analytics_assets.operations.catch_up import changed_assets

        at_work, definitions = _at_work(context.instance), build_definitions(platform)
        outdated = outdated_days(platform, context.instance, definitions, at_work)
        found = {name: _in_words(days) for name, days in outdated.items()}
        graph = definitions.resolve_asset_graph()
        for name in () if at_work else changed_assets(platform):
            if graph.get(dg.AssetKey(name)).group_name != "activation":
                found[name] = "; ".join([_CHANGED, *([found[name]] if name in found else [])])
        restate = {"to restate them": how_to_restate(platform, definitions, outdated)} if found else {}
        return dg.AssetCheckResult(passed=not found, severity=dg.AssetCheckSeverity.WARN, metadata=found | restate)

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
    return ", ".join(f"{first} to {last}" if last > first else str(first) for first, last in _spans(days))


def _spans(days: Sequence[date]) -> list[tuple[date, date]]:
    """First and last of each run of days without a gap."""
    spans: list[tuple[date, date]] = []
    for day in days:
        if spans and day - spans[-1][1] == timedelta(days=1):
            spans[-1] = (spans[-1][0], day)
        else:
            spans.append((day, day))
    return spans
