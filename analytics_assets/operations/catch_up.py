"""Catching up: run what is missing or older than its inputs, in order, and nothing else. This is what `make run` does.

The lake tells which hours differ from the landed records, and which a run committed that did not come to record them; Dagster's
record tells which days are older than what they were computed from. Both survive a `kill -9` at any moment: what was not recorded
is computed again, and a partition whose rows come out the same is not written again.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import dagster as dg
from dagster import DagsterEventType

from analytics_assets.events.loading import data_through, differing_hours, hours_due, hours_to_restate
from analytics_assets.events.tables import ACCOUNT_RECORDS, EVENTS, PROPERTY_SETS, RECORDS
from analytics_assets.operations.launcher import CATCH_UP
from analytics_assets.warehouse.assets import FILL, FILLS
from analytics_assets.warehouse.engine import attach, engine
from analytics_assets.warehouse.publishing import publish
from analytics_assets.warehouse.work import Platform

AS_OF_DAYS = 30
# Partitions to recompute that lie closer than this are one run: a run costs more than a few of them.
MERGE_GAP_DAYS = 7
# What stages have made shows at the end, and in between no more often than this.
SECONDS_UNPUBLISHED = 60


class StepFailed(Exception):
    """A run failed; the message says which and why."""


@dataclass(frozen=True)
class Stage:
    """Assets that run together over one contiguous range of partitions; `outgoing` ones may be held back."""

    assets: tuple[str, ...]
    first: str
    last: str
    partitions: int
    outgoing: bool = False


@dataclass(frozen=True)
class Done:
    """A finished stage: wall seconds, and of these the ones in which each asset computed (the rest is Dagster's bookkeeping).

    `held_back` says why something that should have gone out did not; `by_a_fault`, such as a dead server, and not by the gate.
    """

    stage: Stage
    seconds: float
    computing_of: dict[str, float]
    held_back: str | None = None
    by_a_fault: bool = False

    @property
    def computing(self) -> float:
        """Seconds in which assets computed."""
        return sum(self.computing_of.values())


def run_stage(definitions: dg.Definitions, instance: dg.DagsterInstance, stage: Stage | None) -> Done:
    """Run a stage in this process; None runs the unpartitioned load.

    Raises:
        StepFailed: with the failed step's own message.
    """
    # One planned event for the whole range instead of one a partition: it halves the bookkeeping of a bulk load.
    os.environ["DAGSTER_EMIT_PARTITION_SUBSET_IN_PLANNED_EVENTS"] = "true"
    started = time.monotonic()
    job = definitions.resolve_implicit_global_asset_job_def()
    keys = [dg.AssetKey(name) for name in (stage.assets if stage else ("export_files",))]
    # The next catch-up begins anew; the daemon cannot, and would say that it will.
    tags = {CATCH_UP: "true", "dagster/max_retries": "0"}
    if stage:
        tags |= {"dagster/asset_partition_range_start": stage.first, "dagster/asset_partition_range_end": stage.last}
    config: dict[str, object] = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    if stage is None:
        config["ops"] = {"export_files": {"config": {"mark_hours": False}}}
    result = job.execute_in_process(instance=instance, asset_selection=keys, tags=tags, run_config=config, raise_on_error=False)
    if not result.success:
        if stage is None or not stage.outgoing:
            raise StepFailed(_why(result))
        by_a_fault = all(check.passed for check in result.get_asset_check_evaluations())
        return Done(stage, time.monotonic() - started, {}, held_back=_why(result), by_a_fault=by_a_fault)
    computing = {}
    for name in stage.assets if stage else ():
        record = instance.fetch_materializations(dg.AssetKey(name), limit=1).records[0]
        assert record.asset_materialization is not None
        computing[name] = float(record.asset_materialization.metadata["seconds"].value)  # type: ignore[arg-type]
    return Done(stage or Stage(("export_files",), "", "", 1), time.monotonic() - started, computing)


def end_dead_runs(instance: dg.DagsterInstance) -> None:
    """Record the end of runs of a catch-up that was killed. Only who holds the lock `run` may: nobody else's run is at work."""
    # Automation waits for a run that was never begun as for one that is at work.
    unended = [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTED]
    for run in instance.get_runs(dg.RunsFilter(statuses=unended, tags={CATCH_UP: "true"})):
        instance.report_run_failed(run, "the process of this run was killed")


def _why(result: dg.ExecuteInProcessResult) -> str:
    """What each failed step says, without the name of the exception's class."""
    said = []
    for event in result.all_events:
        if event.event_type == DagsterEventType.STEP_FAILURE:
            error = event.step_failure_data.error
            failure = event.step_failure_data.user_failure_data
            text = (failure and failure.description) or (error and (error.cause or error).message) or event.message or ""
            said.append(re.sub(r"^[\w.]*\.\w+: ", "", str(text).strip()))
    return "\n".join(said) or "the run failed; see the UI for its log"


def events_to_run(platform: Platform, instance: dg.DagsterInstance) -> list[Stage]:
    """Ranges of hours that were never computed, or before they were in, or whose events are not those of the landed records."""
    through = data_through(platform.home)
    if through is None:
        return []
    clock = platform.clock
    start, end = clock.begins(clock.first_day), hours_due(platform, through)
    keys = clock.hour_keys(start, end)
    there = instance.get_materialized_partitions(dg.AssetKey("events"))
    differing = set(differing_hours(platform, start, end)) | hours_to_restate(platform, through)
    unrecorded = unrecorded_hours(platform, instance)
    for hour in list(differing):
        before = hour - timedelta(minutes=platform.settings.items.window_minutes)
        if clock.day_of(before) != clock.day_of(hour):
            # Item lines after midnight belong to orders of the day before: its last hour, and so its orders, run again.
            differing.add(clock.begins(clock.day_of(hour)) - timedelta(hours=1))
    rebuilt = "events" in changed_assets(platform)
    wanted = [
        number
        for number, (hour, key) in enumerate(keys.items())
        if rebuilt or key not in there or hour in differing or key in unrecorded
    ]
    names = list(keys.values())
    return [Stage(("events",), names[low], names[high], high - low + 1) for low, high in _spans(wanted, 24 * MERGE_GAP_DAYS)]


def unrecorded_hours(platform: Platform, instance: dg.DagsterInstance) -> set[str]:
    """Keys of hours that a run committed and did not come to record, since it was killed in between.

    Their events are those of the landed records, and nothing that is made of them is older by the record.
    """
    writes = [write for table in (EVENTS, PROPERTY_SETS, ACCOUNT_RECORDS) for write in platform.lake.written_by_runs(table)]
    runs = instance.get_runs(dg.RunsFilter(run_ids=list({write.run_id for write in writes}))) if writes else []
    ended_well = {run.run_id for run in runs if run.is_success}
    made = _made(instance, "events")
    found: set[str] = set()
    for write in writes:
        if write.run_id in ended_well:
            continue
        since = dg.AssetRecordsFilter(_EVENTS, after_timestamp=write.at.timestamp())
        recorded = instance.fetch_materializations(since, limit=1, ascending=True).records
        first = recorded[0].storage_id if recorded else math.inf
        found |= {key for key in platform.clock.hour_keys(write.start, write.end).values() if made.get(key, -1) < first}
    return found


@dataclass(frozen=True)
class Needed:
    """What an asset keeps filled: its partitions by business day, and the days that are missing or older than an input.

    Hourly assets are planned by the day too: a day of theirs is run again as a whole.
    """

    asset: str
    inputs: frozenset[str]
    outgoing: bool
    keys: dict[date, list[str]]
    wanted: list[date]

    def ranges(self) -> list[tuple[str, str, int]]:
        """First key, last key and number of partitions of each run that it takes."""
        days = list(self.keys)
        spans = _spans(map(days.index, self.wanted), gap=MERGE_GAP_DAYS)
        counted = [(low, high, sum(len(self.keys[day]) for day in days[low : high + 1])) for low, high in spans]
        return [(self.keys[days[low]][0], self.keys[days[high]][-1], count) for low, high, count in counted]


def metrics_to_run(platform: Platform, instance: dg.DagsterInstance, definitions: dg.Definitions) -> list[Stage]:
    """Ranges of partitions that are missing or older than an input, in the order in which they must run.

    Assets that can run one after the other and need the same partitions are one stage.
    """
    waiting = {needed.asset: needed for needed in needed_partitions(platform, instance, definitions)}
    groups: list[tuple[list[str], list[tuple[str, str, int]], bool]] = []
    while waiting:
        ready = [needed for needed in waiting.values() if not needed.inputs & waiting.keys()]
        following = [needed for needed in ready if groups and groups[-1][1:] == (needed.ranges(), needed.outgoing)]
        needed = (following or ready)[0]
        if following:
            groups[-1][0].append(needed.asset)
        else:
            groups.append(([needed.asset], needed.ranges(), needed.outgoing))
        del waiting[needed.asset]
    return [Stage(tuple(names), *one, outgoing) for names, ranges, outgoing in groups for one in ranges]


def needed_partitions(platform: Platform, instance: dg.DagsterInstance, definitions: dg.Definitions) -> list[Needed]:
    """What every asset that is computed from events needs. How many days one keeps filled says its tag."""
    through = data_through(platform.home)
    if through is None:
        return []
    clock, rebuilt = platform.clock, changed_assets(platform)
    end = hours_due(platform, through)
    hours: dict[date, list[str]] = defaultdict(list)
    for hour, key in clock.hour_keys(clock.begins(clock.first_day), end).items():
        hours[clock.day_of(hour)].append(key)
    all_days = list(hours)
    days = {day: [day.isoformat()] for day in all_days if day < clock.day_of(end)}
    graph = definitions.resolve_asset_graph()
    nodes = [node for key in graph.toposorted_asset_keys if FILL in (node := graph.get(key)).tags and key != _EVENTS]
    planned: dict[dg.AssetKey, list[date]] = {}
    needed: dict[dg.AssetKey, Needed] = {}
    for node in nodes:
        by_the_hour = isinstance(node.partitions_def, dg.HourlyPartitionsDefinition)
        every = hours if by_the_hour else days
        count = {"newest": 1, "recent": AS_OF_DAYS}.get(node.tags[FILL], len(every))
        keys = dict(list(every.items())[-count:])
        changed = dict.fromkeys(all_days, -math.inf)
        for parent in node.parent_keys:
            computed = _computed(instance, parent.to_user_string(), planned.get(parent, []))
            reach = _days_back(node.partition_mappings.get(parent), by_the_hour)
            newest = _newest_within(computed, all_days, reach)
            changed = {day: max(changed[day], newest[day]) for day in all_days}
        made = _made(instance, node.key.to_user_string())
        planned[node.key] = [
            day
            for day, of_day in keys.items()
            if node.key.to_user_string() in rebuilt or min(made.get(key, -1) for key in of_day) < max(changed[day], 0)
        ]
        inputs = frozenset(parent.to_user_string() for parent in node.parent_keys)
        outgoing = node.group_name == "activation"
        needed[node.key] = Needed(node.key.to_user_string(), inputs, outgoing, keys, planned[node.key])
    # Assets that keep the same days filled stand together, so that they can share a run.
    return [needed[node.key] for node in sorted(nodes, key=lambda node: FILLS.index(node.tags[FILL]))]


_EVENTS = dg.AssetKey("events")


def _days_back(mapping: dg.PartitionMapping | None, by_the_hour: bool) -> int:
    """How many business days before its own an asset reads of an input, whose mapping counts in partitions of the asset."""
    if not isinstance(mapping, dg.TimeWindowPartitionMapping):
        return 0
    return math.ceil(-mapping.start_offset / (24 if by_the_hour else 1))


def _newest_within(computed: Mapping[date, float], days: Sequence[date], reach: int) -> dict[date, float]:
    """When the newest of each day and the `reach` days before it was computed; minus infinity for none."""
    import polars as pl

    values = pl.Series([computed.get(day, -math.inf) for day in days], dtype=pl.Float64)
    return dict(zip(days, values.rolling_max(min(reach, len(days)) + 1, min_samples=1), strict=True))


def _computed(instance: dg.DagsterInstance, asset: str, planned: Sequence[date]) -> dict[date, float]:
    """When each day of an asset was last computed, an hourly one's with its latest hour; infinite for what is about to be."""
    computed: dict[date, float] = {}
    for key, storage_id in _made(instance, asset).items():
        day = date.fromisoformat(key[:10])
        computed[day] = max(computed.get(day, storage_id), storage_id)
    return computed | dict.fromkeys(planned, math.inf)


def _made(instance: dg.DagsterInstance, asset: str) -> dict[str, int]:
    """When each partition was last materialised, as Dagster's running number of events."""
    return dict(
        instance.event_log_storage.get_latest_storage_id_by_partition(dg.AssetKey(asset), DagsterEventType.ASSET_MATERIALIZATION)
    )


def changed_assets(platform: Platform) -> list[str]:
    """Assets whose code or settings have changed since their partitions were made; they are computed anew."""
    from analytics_assets.definitions import code_versions

    built_with = platform.home.contents().built_with or {}
    return [name for name, version in code_versions(platform).items() if built_with.get(name, version) != version]


def _spans(wanted: Iterable[int], gap: int) -> list[tuple[int, int]]:
    """First and last of each run of wanted places; places at most `gap` apart share a run."""
    spans: list[tuple[int, int]] = []
    for number in wanted:
        if spans and number - spans[-1][1] <= gap:
            spans[-1] = (spans[-1][0], number)
        else:
            spans.append((number, number))
    return spans


def catch_up(platform: Platform, instance: dg.DagsterInstance, started: Callable[[Stage], None]) -> list[Done]:
    """Bring every table up to the landed files; `started` is called before each run.

    Raises:
        StepFailed: the first run that fails; what came before it stands. What is held back from going out is no failure.
    """
    from analytics_assets.definitions import build_definitions, code_versions

    definitions, versions = build_definitions(platform, all_at_once=False), code_versions(platform)
    done: list[Done] = []
    published = time.monotonic()

    def remember(names: Iterable[str]) -> None:
        before = platform.home.contents().built_with or {}
        platform.home.remember(built_with=before | {name: versions[name] for name in names if name in versions})

    def run(stages: list[Stage]) -> None:
        nonlocal published
        ahead = Counter(name for stage in stages for name in stage.assets)
        for stage in stages:
            started(stage)
            done.append(run_stage(definitions, instance, stage))
            if time.monotonic() - published > SECONDS_UNPUBLISHED:
                publish(platform.home, platform.published_tables)
                published = time.monotonic()
            ahead.subtract(stage.assets)
            # As soon as the last of its ranges is there: who is killed in a long restatement goes on from here.
            if not done[-1].held_back:
                remember(name for name in stage.assets if not ahead[name])

    with platform.publishing_at_the_end():
        run(events_to_run(platform, instance))
        check_purchases(platform)
        run(metrics_to_run(platform, instance, definitions))
    # What was held back was not built: it is tried again, with whatever has changed, by the next run.
    held = {name for one in done if one.held_back for name in one.stage.assets}
    remember(versions.keys() - held)
    return done


def check_purchases(platform: Platform) -> None:
    """Stop before anything is computed from nothing.

    Raises:
        StepFailed: no event has the name of a purchase and none names an account, or every event lies outside the business's days.
    """
    with engine() as connection:
        attach(connection, platform.lake.pin(EVENTS))
        attach(connection, platform.lake.pin(RECORDS))
        attach(connection, platform.lake.pin(ACCOUNT_RECORDS))
        events, wanted = connection.sql(
            """SELECT count(*), count(*) FILTER (order_kind = 'order') + (SELECT count(*) FROM account_records WHERE account_id IS NOT NULL)
            FROM events"""
        ).fetchall()[0]
        if wanted or (events and platform.settings.accounts.are == "people"):
            return
        if not events:
            low, high = connection.sql("SELECT min(occurred_at), max(occurred_at) FROM records WHERE kind = 'event'").fetchall()[
                0
            ]
            if low is None:
                raise StepFailed("No line of the export could be read: see rejected_lines, or run `make check`.")
            business = platform.settings.business
            raise StepFailed(
                f"No event lies between first_day ({platform.clock.first_day}) and last_day ({business.last_day or 'today'}): "
                f"the export's events run from {low} to {high}. Correct first_day and last_day under [business] in the settings."
            )
        names = [
            name for (name,) in connection.sql("SELECT name FROM events GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 12").fetchall()
        ]
    purchases = ", ".join(repr(name) for name in platform.settings.events.purchase)
    raise StepFailed(
        f"None of the {events:,} events is a purchase, and no record names an account: `purchase` under [events] in the settings names {purchases}, "
        f"but the most frequent events are {', '.join(repr(name) for name in names)}. "
        "Name the right one there and run again; what was loaded stays."
    )
