"""When what runs: the hourly load, and conditions for everything behind it."""

from datetime import timedelta

import dagster as dg
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetNode
from dagster._core.definitions.declarative_automation.operators import DepsAutomationCondition
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from analytics_assets.operations.launcher import CATCH_UP
from analytics_assets.partitions import LONGEST_DAY, LOOKBACK
from analytics_assets.warehouse.work import Platform

# A change of these requests nothing by itself: whoever reads them takes them as they are when something else requests it.
PICKED_UP_BY_THE_NIGHT = ("identities", "accounts")
# Assets by the hour that daily ones are made of.
HOURLY = ("events", "account_usage")
# The label of the conditions of assets whose partitions read no earlier time, or a day of it: late data restates the few that it touches.
AT_ANY_AGE = "at any age"
# Dagster's tag of the runs and backfills that conditions request.
_AUTOMATED = "dagster/from_automation_condition"


def when_inputs_changed(
    *ignored: str, by_the_hour: bool = False, lookback: timedelta | None = LOOKBACK, at_any_age: bool = False
) -> dg.AutomationCondition:
    """Run a partition of the last seven days when an input of it changed and all of them are there.

    - `in_latest_time_window`: late data restates the last week by itself; what is older is a backfill that someone asks for. By the hour
      it is the whole of its first day: what is older is named by the day, and hours in between would be neither restated nor named.
    - `at_any_age`: what was computed once is restated however old it is. What never was is left to `make run`: an asset that a new
      version brings does not ask for years of days.
    - `made_by_make_run`: that makes what follows from all that it makes, and is no news. What follows from a run of it that was killed
      is made by the next one; meanwhile `is_up_to_date` names it, and what files brought is marked by the next load.
    - `newly_missing | changed`, `.since(...)`: remembers an update until it was acted upon. Plain `eager()` forgets one that
      arrives in the tick in which the target completes, and one between a request and the next tick.
    - `will_be_requested`: what is requested together runs together, inputs first, and the night is one run.
    - `left_out`: what an input was requested together with does not run again when the input arrives, as `eager()` would have
      it; it does run when it never came about, since a run before it failed or was cancelled. Only an input of the same grain
      is requested together with what is made of it: hours never are with their day, and always count as changed.
    - `~any_deps_missing`: no day runs before all of its 23, 24 or 25 hours are in.
    - `~in_motion`, `~in_progress`: nothing is read that is about to be replaced, nothing runs twice at once. A day waits for the hours
      that its inputs are made of, too: where late hours of two days came in by two runs, all that is as of the later day ran twice.
    - `~left_to_a_backfill`: a backfill whose worker was killed has given up what follows, so that it is not in progress, and runs
      it after all once the run has been begun anew. It was run twice.
    - `ignored` inputs do not trigger: the night picks them up.
    - `lookback=None` is the newest day alone: what goes out is never sent for a day that has passed.
    """
    condition = dg.AutomationCondition
    made_by_make_run = condition.all_new_updates_have_run_tags(tag_values={CATCH_UP: "true"})
    arrived = condition.newly_updated() & ~condition.executed_with_root_target() & ~made_by_make_run
    requested_by_us = condition.all_new_updates_have_run_tags(tag_values={_AUTOMATED: "true"})

    def any_input(match: dg.AutomationCondition) -> DepsAutomationCondition:
        return condition.any_deps_match(match).ignore(dg.AssetSelection.assets(*ignored))

    of_other_grain = dg.AssetSelection.assets(*(() if by_the_hour else HOURLY))
    together = any_input(arrived & requested_by_us).ignore(of_other_grain)
    changed = any_input((arrived & ~requested_by_us) | condition.will_be_requested()) | any_input(arrived).allow(of_other_grain)
    requested = condition.newly_requested()
    first = condition.initial_evaluation()
    unhandled = (condition.newly_missing() | changed).since((requested & ~changed) | first)
    late = (~condition.missing() & changed).since((requested & ~changed) | first)
    left_out = together.since((requested & ~together) | condition.newly_updated() | first)
    left_to_a_backfill = dg.AutoMaterializeRule.skip_on_backfill_in_progress().to_asset_condition()
    if by_the_hour and lookback:
        lookback += LONGEST_DAY
    recent = condition.in_latest_time_window(lookback) & (unhandled | left_out)
    in_motion: dg.AutomationCondition = condition.any_deps_in_progress()
    if not by_the_hour:
        in_motion |= condition.any_deps_match(condition.any_deps_in_progress())
    free = ~condition.any_deps_missing() & ~in_motion & ~condition.in_progress() & ~left_to_a_backfill
    return ((recent | late | left_out) & free).with_label(AT_ANY_AGE) if at_any_age else recent & free


def is_restated_at_any_age(node: BaseAssetNode) -> bool:
    """Whether late data restates the asset's partitions by itself however old they are."""
    return node.automation_condition is not None and node.automation_condition.get_label() == AT_ANY_AGE


def automation_sensor() -> dg.AutomationConditionSensorDefinition:
    """Evaluates the conditions; on from the start, since a platform that waits to be switched on runs nothing."""
    return dg.AutomationConditionSensorDefinition(
        "automation",
        target=dg.AssetSelection.all(),
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=30,
    )


def load_job() -> UnresolvedAssetJobDefinition:
    """Loads new export files."""
    return dg.define_asset_job("load_exports", selection=dg.AssetSelection.assets("export_files"))


def load_schedule(platform: Platform, job: UnresolvedAssetJobDefinition) -> dg.ScheduleDefinition:
    """Five minutes past every hour, in the business's time zone."""
    return dg.ScheduleDefinition(
        name="load_exports_hourly",
        job=job,
        cron_schedule="5 * * * *",
        execution_timezone=platform.settings.business.time_zone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )


def nightly_job() -> UnresolvedAssetJobDefinition:
    """All daily metrics of a day, or of a range of days in one run."""
    return dg.define_asset_job(
        "daily_metrics",
        selection=dg.AssetSelection.groups("retail", "activation", "saas")
        - dg.AssetSelection.assets("account_usage", "account_health")
        | dg.AssetSelection.assets("identities", "traits"),
    )


def publish_sensor(platform: Platform) -> dg.SensorDefinition:
    """Publishes what a publisher that was killed left unpublished."""

    @dg.sensor(name="publish_leftovers", minimum_interval_seconds=30, default_status=dg.DefaultSensorStatus.RUNNING)
    def publish_leftovers() -> dg.SkipReason:
        """Bring `analytics.duckdb` up to date when a publisher died in between."""
        if platform.publish():
            return dg.SkipReason("published what a dead publisher had left")
        return dg.SkipReason("analytics.duckdb is up to date")

    return publish_leftovers
