"""Catching up: run what is missing or older than its inputs, in order, and nothing else. This is what `make run` does.

The lake tells which hours differ from the landed records; Dagster's record tells which days are older than what they were
computed from. Both survive a `kill -9` at any moment: what was not recorded is computed again, and a partition whose rows
come out the same is not written again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import dagster as dg
from dagster import DagsterEventType

from analytics_assets.events.loading import data_through, hours_in
from analytics_assets.events.tables import EVENTS, PROPERTY_SETS, RECORDS
from analytics_assets.warehouse.assets import Platform
from analytics_assets.warehouse.engine import attach, engine

AS_OF_DAYS = 30
# Hours to recompute that lie closer than this are one run: a run costs more than a few hours.
MERGE_GAP = 24 * 7


class StepFailed(Exception):
    """A run failed; the message says which and why."""


@dataclass(frozen=True)
class Stage:
    """Assets that run together over one contiguous range of partitions."""

    assets: tuple[str, ...]
    first: str
    last: str
    partitions: int


@dataclass(frozen=True)
class Done:
    """A finished stage: wall seconds, and of these the ones in which each asset computed (the rest is Dagster's bookkeeping)."""

    stage: Stage
    seconds: float
    computing_of: dict[str, float]

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
    tags = {"dagster/asset_partition_range_start": stage.first, "dagster/asset_partition_range_end": stage.last} if stage else {}
    config: dict[str, object] = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    if stage is None:
        config["ops"] = {"export_files": {"config": {"mark_hours": False}}}
    result = job.execute_in_process(instance=instance, asset_selection=keys, tags=tags, run_config=config, raise_on_error=False)
    if not result.success:
        raise StepFailed(_why(result))
    computing = {}
    for name in stage.assets if stage else ():
        record = instance.fetch_materializations(dg.AssetKey(name), limit=1).records[0]
        assert record.asset_materialization is not None
        computing[name] = float(record.asset_materialization.metadata["seconds"].value)  # type: ignore[arg-type]
    return Done(stage or Stage(("export_files",), "", "", 1), time.monotonic() - started, computing)


def _why(result: dg.ExecuteInProcessResult) -> str:
    for event in result.all_events:
        if event.event_type == DagsterEventType.STEP_FAILURE:
            error = event.step_failure_data.error
            failure = event.step_failure_data.user_failure_data
            return str((failure and failure.description) or (error and (error.cause or error).message) or event.message).strip()
    return "the run failed; see the UI for its log"


def events_to_run(platform: Platform, instance: dg.DagsterInstance) -> list[Stage]:
    """Ranges of hours that were never computed, or whose events are not those of the landed records."""
    through = data_through(platform.home)
    if through is None:
        return []
    clock = platform.clock
    start, end = clock.begins(clock.first_day), hours_in(platform, through)
    keys = clock.hour_keys(start, end)
    there = instance.get_materialized_partitions(dg.AssetKey("events"))
    differing = set(_differing_hours(platform, start, end))
    for hour in list(differing):
        before = hour - timedelta(minutes=platform.settings.items.window_minutes)
        if clock.day_of(before) != clock.day_of(hour):
            # Item lines after midnight belong to orders of the day before: its last hour, and so its orders, run again.
            differing.add(clock.begins(clock.day_of(hour)) - timedelta(hours=1))
    rebuilt = "events" in changed_assets(platform)
    wanted = [number for number, (hour, key) in enumerate(keys.items()) if rebuilt or key not in there or hour in differing]
    return _ranges(("events",), list(keys.values()), wanted, MERGE_GAP)


def _differing_hours(platform: Platform, start: datetime, end: datetime) -> list[datetime]:
    with engine() as connection:
        for table in (RECORDS, EVENTS, PROPERTY_SETS):
            attach(connection, platform.lake.pin(table))
        found = connection.sql(
            """
            WITH landed AS (
                SELECT DISTINCT record_id, occurred_at FROM records
                WHERE kind <> 'alias' AND occurred_at >= $start_at AND occurred_at < $end_at
            ),
            sides AS (
                SELECT occurred_at AS t, record_id AS id, 1 AS side FROM landed
                UNION ALL SELECT occurred_at, event_id, -1 FROM events
                UNION ALL SELECT occurred_at, set_id, -1 FROM property_sets
            )
            SELECT to_timestamp(epoch_us(t) // 1000000 - epoch_us(t AT TIME ZONE $zone) // 1000000 % 3600) AS hour FROM sides GROUP BY 1
            HAVING sum(side) <> 0 OR sum(side * CAST(md5_number(id) >> 80 AS HUGEINT)) <> 0
            """,
            params={"start_at": start, "end_at": end, "zone": platform.settings.business.time_zone},
        ).fetchall()
    return [hour.astimezone(UTC) for (hour,) in found]


def days_to_run(
    platform: Platform, instance: dg.DagsterInstance, assets: tuple[str, ...], inputs: dict[str, bool], as_of: bool
) -> list[Stage]:
    """Ranges of days of `assets` that are missing or older than an input.

    Args:
        platform: the platform.
        instance: whose record of materialisations counts.
        assets: assets that run together.
        inputs: upstream assets outside of `assets`; True for an hourly one.
        as_of: the assets read all earlier days, and only the last 30 are filled.
    """
    through = data_through(platform.home)
    if through is None:
        return []
    clock = platform.clock
    last = clock.day_of(hours_in(platform, through)) - timedelta(days=1)
    first = max(clock.first_day, last - timedelta(days=AS_OF_DAYS - 1)) if as_of else clock.first_day
    if last < clock.first_day:
        return []
    keys = [(first + timedelta(days=i)).isoformat() for i in range((last - first).days + 1)]
    made = _made(instance, assets[0])
    for name in assets[1:]:
        other = _made(instance, name)
        made = {day: min(made[day], other[day]) for day in made.keys() & other.keys()}
    changed: dict[date, int] = {}
    for name, hourly in inputs.items():
        for key, storage_id in _made(instance, name).items():
            day = date.fromisoformat(key[:10]) if hourly else date.fromisoformat(key)
            changed[day] = max(changed.get(day, 0), storage_id)
    if as_of:
        newest, cumulative = 0, {}
        for day in sorted(changed):
            newest = max(newest, changed[day])
            cumulative[day] = newest
        changed = cumulative
    rebuilt = not set(assets).isdisjoint(changed_assets(platform))
    wanted = [
        number
        for number, key in enumerate(keys)
        if rebuilt or key not in made or made[key] < changed.get(date.fromisoformat(key), 0)
    ]
    return _ranges(assets, keys, wanted, gap=7)


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


def _ranges(assets: tuple[str, ...], keys: Sequence[str], wanted: Iterable[int], gap: int) -> list[Stage]:
    spans: list[list[int]] = []
    for number in wanted:
        if spans and number - spans[-1][1] <= gap:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return [Stage(assets, keys[a], keys[b], b - a + 1) for a, b in spans]


def catch_up(platform: Platform, instance: dg.DagsterInstance, started: Callable[[Stage], None]) -> list[Done]:
    """Bring every table up to the landed files; `started` is called before each run.

    Raises:
        StepFailed: the first run that fails; what came before it stands.
    """
    from analytics_assets.definitions import build_definitions, code_versions

    definitions = build_definitions(platform)
    done: list[Done] = []

    def run(stages: list[Stage]) -> None:
        for stage in stages:
            started(stage)
            done.append(run_stage(definitions, instance, stage))

    run(events_to_run(platform, instance))
    check_purchases(platform)
    run(days_to_run(platform, instance, ("order_items", "orders"), {"events": True}, as_of=False))
    run(
        days_to_run(
            platform, instance, ("identities", "customers", "customer_ltv"), {"events": True, "orders": False}, as_of=True
        )
    )
    platform.home.remember(built_with=code_versions(platform))
    return done


def check_purchases(platform: Platform) -> None:
    """Stop before money is computed from nothing.

    Raises:
        StepFailed: no event has the name of a purchase, or every event lies outside the business's days.
    """
    with engine() as connection:
        attach(connection, platform.lake.pin(EVENTS))
        attach(connection, platform.lake.pin(RECORDS))
        events, purchases = connection.sql("SELECT count(*), count(*) FILTER (order_kind = 'order') FROM events").fetchall()[0]
        if purchases:
            return
        if not events:
            low, high = connection.sql("SELECT min(occurred_at), max(occurred_at) FROM records WHERE kind = 'event'").fetchall()[
                0
            ]
            business = platform.settings.business
            raise StepFailed(
                f"No event lies between first_day ({platform.clock.first_day}) and last_day ({business.last_day or 'today'}): "
                f"the export's events run from {low} to {high}. Correct first_day and last_day under [business] in the settings."
            )
        names = [
            name for (name,) in connection.sql("SELECT name FROM events GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 12").fetchall()
        ]
    wanted = ", ".join(repr(name) for name in platform.settings.events.purchase)
    raise StepFailed(
        f"None of the {events:,} events is a purchase: `purchase` under [events] in the settings names {wanted}, "
        f"but the most frequent events are {', '.join(repr(name) for name in names)}. "
        "Name the right one there and run again; what was loaded stays."
    )
