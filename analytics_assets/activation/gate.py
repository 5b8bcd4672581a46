"""The gate: nothing goes out unless its inputs are fresh, sound and made by models that passed their test.

It reads Dagster's record (what was computed when, which checks passed) and the tables of the models' tests. It says every
reason at once, in plain words; whoever asks it holds the last good generation while there is one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import dagster as dg
from dagster import DagsterEventType
from dagster._core.definitions.data_version import CODE_VERSION_TAG

from analytics_assets.operations.freshness import DUE_AFTER, QUIET
from analytics_assets.partitions import BusinessClock
from analytics_assets.retail.recommendations.assets import FEWEST_TO_CHOOSE_BY
from analytics_assets.warehouse.incomplete import Lack

# A late alias remakes the map of identities and is picked up by the next night: until then the older map is good enough.
MAY_BE_NEWER = ("identities",)
# Evaluations of a check that are looked through for the newest one that spans the day.
EVALUATIONS_READ = 200


class HeldBack(Exception):
    """What was made for a day must not go out."""

    def __init__(self, reasons: Sequence[str]) -> None:
        """Keep every reason, in plain words; none names a person."""
        super().__init__("; ".join(reasons))
        self.reasons = list(reasons)


def newest_due_day(clock: BusinessClock) -> date:
    """The newest business day whose lists should be out by now: yesterday, from six in the morning on.

    For a historical export, whose clock stands still, the last day.
    """
    return clock.day_of(clock.now() if clock.is_over else clock.now() - DUE_AFTER["day"]) - timedelta(days=1)


def newest_over_day(clock: BusinessClock) -> date:
    """The newest business day that is over by now, whether its lists are due or not."""
    return clock.day_of(clock.now()) - timedelta(days=1)


def reasons_to_hold(instance: dg.DagsterInstance, inputs: Sequence[dg.AssetsDefinition], day: date) -> list[str]:
    """Why what is made of these assets must not go out for a day; empty when it may.

    - Fresh: the day of every input is there, was computed after everything that it is computed from, and with the settings and by
      the code of now.
    - Sound: the newest evaluation of each of its blocking checks that spans the day has passed.
    """
    return [reason for asset in inputs for reason in (*_not_fresh(instance, asset, day), *_not_sound(instance, asset, day))]


def lacks_hours(lacking: Iterable[Lack], day: date, zone: ZoneInfo) -> list[str]:
    """Why what is made for a day must not go out when the night did not wait: among what is missing may be who wants no more mail."""
    return [lack.in_words(zone) for lack in lacking if lack.day <= day]


def silent(newest_event: datetime | None, day_ends: datetime, zone: ZoneInfo) -> list[str]:
    """Why what is made for a day must not go out when events end long before it does: a tracker or an export may be dead.

    Args:
        newest_event: end of the newest hour that holds an event; None where none does.
        day_ends: the instant at which the business day ends.
        zone: the business's time zone, in which it is said.
    """
    if newest_event is None or newest_event >= day_ends - QUIET:
        return []
    return [
        f"events are stale: the newest is of before {newest_event.astimezone(zone):%Y-%m-%d %H:%M}; the export may be incomplete"
    ]


def _not_fresh(instance: dg.DagsterInstance, asset: dg.AssetsDefinition, day: date) -> Iterable[str]:
    name = asset.key.to_user_string()
    made = _made(instance, asset.key)
    if day.isoformat() not in made:
        newest = max(made, default=None)
        yield f"{name}: {day} has not been computed" + (f"; the newest day is {newest}" if newest else "")
        return
    if _made_with(instance, asset.key, day) not in (None, asset.code_versions_by_key[asset.key]):
        yield f"{name}: {day} was computed with other settings or by another version; materialise it again, or `make run`"
    for dep in (dep for spec in asset.specs for dep in spec.deps if dep.asset_key.to_user_string() not in MAY_BE_NEWER):
        mapping = dep.partition_mapping
        as_of = isinstance(mapping, dg.TimeWindowPartitionMapping) and mapping.start_offset < 0
        later = sorted(
            key
            for key, storage_id in _made(instance, dep.asset_key).items()
            if storage_id > made[day.isoformat()] and (key[:10] <= day.isoformat() if as_of else key[:10] == day.isoformat())
        )
        if later:
            changed = f"{dep.asset_key.to_user_string()} {later[0]}" + (f" and {len(later) - 1} more" if later[1:] else "")
            yield f"{name}: {day} was computed before {changed} came in anew; materialise it again"


def _made(instance: dg.DagsterInstance, asset: dg.AssetKey) -> dict[str, int]:
    """When each partition was last materialised, as Dagster's running number of events."""
    storage = instance.event_log_storage
    return dict(storage.get_latest_storage_id_by_partition(asset, DagsterEventType.ASSET_MATERIALIZATION))


def _made_with(instance: dg.DagsterInstance, asset: dg.AssetKey, day: date) -> str | None:
    """The code version, settings included, with which a day was last materialised; None where somebody reported it by hand."""
    newest = instance.fetch_materializations(dg.AssetRecordsFilter(asset, asset_partitions=[day.isoformat()]), limit=1).records[0]
    materialization = newest.asset_materialization
    return (materialization.tags or {}).get(CODE_VERSION_TAG) if materialization else None


def _not_sound(instance: dg.DagsterInstance, asset: dg.AssetsDefinition, day: date) -> Iterable[str]:
    name = asset.key.to_user_string()
    for spec in asset.check_specs:
        if not spec.blocking:
            continue
        history = instance.event_log_storage.get_asset_check_execution_history(spec.key, EVALUATIONS_READ)
        # Planned and never made: the run ended before it.
        evaluations = (record.evaluation for record in history if isinstance(record.evaluation, dg.AssetCheckEvaluation))
        newest = next((found for found in evaluations if _spans(str(found.metadata["partitions"].value), day)), None)
        if newest is None:
            yield f"{name}: the check {spec.name} has not been made for {day}"
        elif not newest.passed:
            yield f"{name}: the check {spec.name} failed for {newest.metadata['partitions'].value}"


def _spans(partitions: str, day: date) -> bool:
    first, _, last = partitions.partition(" to ")
    return first <= day.isoformat() <= (last or first)


def recommenders_tested(rows: Iterable[tuple[str, str, date, int, float, float]]) -> list[tuple[str, bool, str]]:
    """List, whether the model that makes it has proved itself, and the figures.

    It has where it found no less of what was bought than popular products did, in the newest weeks held out that had enough
    customers together to tell: the newest alone in a large shop. Popular products themselves pass when they were the best choice.

    Args:
        rows: list, model, cut-off, customers, recall and recall of popular, as `chosen_recommenders.sql` gives.
    """
    weeks: dict[str, list[tuple[date, str, int, float, float]]] = defaultdict(list)
    for name, model, cut_off, customers, recall, recall_of_popular in rows:
        weeks[name].append((cut_off, model, customers, recall * customers, recall_of_popular * customers))
    tested = []
    for name, found in weeks.items():
        customers, hits, hits_of_popular = 0, 0.0, 0.0
        for since, model, bought, ours, theirs in sorted(found, reverse=True):  # noqa: B007 - the last week counted is told
            customers, hits, hits_of_popular = customers + bought, hits + ours, hits_of_popular + theirs
            if customers >= FEWEST_TO_CHOOSE_BY:
                break
        if customers < FEWEST_TO_CHOOSE_BY:
            why = f"only {customers} customers bought in the weeks held out, {FEWEST_TO_CHOOSE_BY} are needed"
            tested.append((name, False, why))
        else:
            times = f"{hits / hits_of_popular:.2f} times" if hits_of_popular else "anything against nothing"
            why = f"{model} found {times} what popular products did after {since} ({customers} customers)"
            tested.append((name, hits >= hits_of_popular, why))
    return tested


def models_not_accepted(tested: Iterable[tuple[str, bool, str]], wanted: Sequence[str], day: date) -> list[str]:
    """Why a model must not speak for us.

    Args:
        tested: what was tested for the day, whether it passed, and why; one that passed is enough.
        wanted: everything of which a model must have passed; what was not tested has not.
        day: the business day.
    """
    outcomes = list(tested)
    reasons = []
    for one in wanted:
        if not any(model == one and passed for model, passed, _ in outcomes):
            why = sorted({reason for model, _, reason in outcomes if model == one})
            reasons.append(
                f"the model of {one} is not accepted for {day}: {', '.join(why) or 'it has not been tested on that day'}"
            )
    return reasons
