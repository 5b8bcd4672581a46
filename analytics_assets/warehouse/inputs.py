"""Which partitions an asset is computed from, which of them are missing, and what they are incomplete without."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import dagster as dg

from analytics_assets.partitions import (
    BusinessClock,
    all_earlier_days,
    hours_of_the_day,
    keys_between,
    the_evening_before,
    with_earlier,
)
from analytics_assets.warehouse.incomplete import Lack
from analytics_assets.warehouse.lake import Window
from analytics_assets.warehouse.tables import Table


@dataclass(frozen=True)
class Needs:
    """An upstream asset, and which of its partitions: those of the same time, and earlier ones too.

    `as_of` takes all earlier ones, `back` so many before the own, counted in partitions of the asset that needs them;
    `evening_before` takes the day before the business day alone. Before the first day there are none. `hourly` says that the
    upstream's partitions are hours.
    """

    asset: str
    as_of: bool = False
    hourly: bool = False
    back: int = 0
    evening_before: bool = False


def dependency(need: Needs, by_the_hour: bool) -> dg.AssetDep:
    """The need as Dagster maps it, of an asset whose partitions are hours or days."""
    if need.as_of:
        return dg.AssetDep(need.asset, partition_mapping=all_earlier_days())
    if need.back:
        return dg.AssetDep(need.asset, partition_mapping=with_earlier(need.back))
    if need.evening_before:
        return dg.AssetDep(need.asset, partition_mapping=the_evening_before(by_the_hour))
    return dg.AssetDep(need.asset, partition_mapping=hours_of_the_day() if need.hourly else None)


def missing_inputs(
    instance: dg.DagsterInstance, clock: BusinessClock, needs: Sequence[Needs], window: Window, by_the_hour: bool
) -> dict[str, str]:
    """What a window lacks, in words, by upstream asset."""
    missing = {}
    for need in needs:
        definition = clock.hours if need.hourly else clock.days
        start, end = _needed(clock, need, window, by_the_hour)
        wanted = keys_between(definition, start, end)
        there = partitions_there(instance, need.asset)
        absent = [key for key in wanted if key not in there]
        if absent:
            missing[need.asset] = f"{len(absent)} of {len(wanted)} partitions, first {absent[0]}"
    return missing


def partitions_there(instance: dg.DagsterInstance, asset: str) -> set[str]:
    """Partitions that were materialised and that maintenance has not removed since, which it records as an observation."""
    key, events = dg.AssetKey(asset), instance.event_log_storage
    removed = events.get_latest_storage_id_by_partition(key, dg.DagsterEventType.ASSET_OBSERVATION)
    if not removed:
        return instance.get_materialized_partitions(key)
    made = events.get_latest_storage_id_by_partition(key, dg.DagsterEventType.ASSET_MATERIALIZATION)
    return {partition for partition, made_at in made.items() if made_at > removed.get(partition, -1)}


def _needed(clock: BusinessClock, need: Needs, window: Window, by_the_hour: bool) -> tuple[datetime, datetime]:
    """From when to when partitions of an input are read for a window."""
    first = clock.begins(clock.first_day)
    if need.as_of:
        return first, window.end
    if need.evening_before:
        return max(first, clock.begins(window.first_day - timedelta(days=1))), max(first, clock.begins(window.last_day))
    if by_the_hour:
        return max(first, window.start - timedelta(hours=need.back)), window.end
    return max(first, clock.begins(window.first_day - timedelta(days=need.back))), window.end


def incomplete_partitions(
    clock: BusinessClock, table: Table, needs: Sequence[Needs], keys: Sequence[str], lacking: Sequence[Lack]
) -> dict[str, str]:
    """What partitions are made without, in words, by key: hours of their day that were not in, or of a day before where they read it."""
    if not lacking:
        return {}
    reads_earlier = any(need.as_of or need.back or need.evening_before for need in needs)
    definition = clock.hours if table.grain == "hour" else clock.days
    incomplete = {}
    for key in keys:
        window = definition.time_window_for_partition_key(key)
        day = clock.day_of(window.start)
        found = [
            lack for lack in lacking if lack.first_hour < window.end and (lack.day == day or (reads_earlier and lack.day < day))
        ]
        if found:
            incomplete[key] = "; ".join(lack.in_words(clock.settings.business.zone) for lack in found)
    return incomplete
