"""Freshness that tells the truth: the newest business time in a table against the time that should be there by now.

Dagster's own freshness policies look at the time of the last run, which a backfill of an old day makes look new.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from analytics_assets.events.tables import EVENTS
from analytics_assets.operations.launcher import CATCH_UP
from analytics_assets.warehouse.engine import attach, engine
from analytics_assets.warehouse.incomplete import lacks
from analytics_assets.warehouse.tables import Table
from analytics_assets.warehouse.work import Platform

FRESHNESS_JOB = "freshness"
# A day's figures are due six hours after midnight, an hour's three hours after its end.
DUE_AFTER = {"day": timedelta(hours=6), "hour": timedelta(hours=3)}
# Hours in which nobody does anything are tolerated for so long.
QUIET = timedelta(days=1)


def newest_business_time(platform: Platform, table: Table, instance: dg.DagsterInstance) -> datetime | None:
    """End of the newest partition that is there; None where none is.

    A day on which nothing was sold is there once it is computed. Of `events` only partitions that hold rows count: from a
    tracker that is dead comes what comes from a quiet day.
    """
    found = [time for time in (_newest_with_rows(platform, table), _newest_computed(platform, table, instance)) if time]
    return max(found, default=None)


def _newest_computed(platform: Platform, table: Table, instance: dg.DagsterInstance) -> datetime | None:
    if table is EVENTS:
        return None
    keys = instance.get_materialized_partitions(dg.AssetKey(table.name))
    definition = platform.clock.hours if table.grain == "hour" else platform.clock.days
    return definition.time_window_for_partition_key(max(keys)).end.astimezone(UTC) if keys else None


def _newest_with_rows(platform: Platform, table: Table) -> datetime | None:
    column = "hour" if table.grain == "hour" else table.partition_column
    with engine() as connection:
        attach(connection, platform.lake.pin(table))
        row = connection.sql(f'SELECT max({column}) FROM "{table.name}"').fetchall()[0]
    if not row or row[0] is None:
        return None
    if table.grain == "hour":
        return row[0] + timedelta(hours=1)
    return platform.clock.begins(row[0] + timedelta(days=1))


def expected_business_time(platform: Platform, table: Table) -> datetime:
    """Up to when the table's partitions are due; for a historical export the clock stands at the end of its last day."""
    clock = platform.clock
    now = clock.now()
    due = now if clock.is_over else now - DUE_AFTER[table.grain or "day"]
    if table.grain == "hour":
        return due - timedelta(minutes=due.minute, seconds=due.second, microseconds=due.microsecond)
    return clock.begins(clock.day_of(due))


def freshness_checks(platform: Platform, tables: Sequence[Table]) -> list[dg.AssetChecksDefinition]:
    """One check a table; run them at any time, they read two numbers."""
    return [_freshness_check(platform, table) for table in tables]


def state_of(
    newest: datetime | None, expected: datetime, tolerance: timedelta, failed_before: bool, lacking: bool = False
) -> str:
    """`unknown` (never computed), `stale`, `late` (behind, and tolerated), `incomplete` (the night did not wait for the last hours of
    the newest day), `fresh`, or `recovered`: fresh for the first time after it failed."""
    if newest is None:
        return "unknown"
    if newest < expected - tolerance:
        return "stale"
    if newest < expected:
        return "late"
    if lacking:
        return "incomplete"
    return "recovered" if failed_before else "fresh"


def _freshness_check(platform: Platform, table: Table) -> dg.AssetChecksDefinition:
    key = dg.AssetCheckKey(dg.AssetKey(table.name), "is_fresh")

    @dg.asset_check(
        asset=table.name,
        name=key.name,
        description="The newest business time in the table is the one that is due by now, whenever the last run was. "
        "An hour without any event counts as missing, a day without a sale does not. `state` is fresh, late (quiet hours, tolerated "
        "for a day), stale, incomplete (computed before the last hours were in), unknown (never computed), or recovered.",
    )
    def is_fresh(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        newest, expected = newest_business_time(platform, table, context.instance), expected_business_time(platform, table)
        tolerance = QUIET if table.grain == "hour" else timedelta(0)
        newest_day = platform.clock.day_of(newest - timedelta(microseconds=1)) if newest else None
        lack = next((lack for lack in lacks(platform.lake) if lack.day == newest_day), None)
        state = state_of(newest, expected, tolerance, _failed_before(context.instance, key), lack is not None)
        behind = max(expected - newest, timedelta(0)) if newest else None
        return dg.AssetCheckResult(
            passed=state not in ("unknown", "stale"),
            metadata={
                "state": state,
                "newest business time": str(newest),
                "due by now": str(expected),
                "behind": "the table is empty" if behind is None else str(behind),
                **({"incomplete": lack.in_words(platform.settings.business.zone)} if lack else {}),
            },
        )

    return is_fresh


def _failed_before(instance: dg.DagsterInstance, key: dg.AssetCheckKey) -> bool:
    """Whether the newest evaluation of a check failed."""
    history = instance.event_log_storage.get_asset_check_execution_history(key, limit=2)
    made = [record.evaluation for record in history if isinstance(record.evaluation, dg.AssetCheckEvaluation)]
    return bool(made) and not made[0].passed


def freshness_schedule(platform: Platform, checks: Sequence[dg.AssetChecksDefinition]) -> dg.ScheduleDefinition:
    """Twenty past every hour, whether or not anything else ran: a table or a list that nobody updates is found."""
    keys = [key for check in checks for key in check.check_keys]
    return dg.ScheduleDefinition(
        name="freshness_hourly",
        job=dg.define_asset_job(FRESHNESS_JOB, selection=dg.AssetSelection.checks(*keys)),
        cron_schedule="20 * * * *",
        execution_timezone=platform.settings.business.time_zone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )


def look(instance: dg.DagsterInstance, definitions: dg.Definitions) -> None:
    """Make the checks of every hour now: what `make run` has put right is over when it ends, and not with the next hourly look."""
    config = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    job = definitions.resolve_job_def(FRESHNESS_JOB)
    job.execute_in_process(config, instance, tags={CATCH_UP: "true"}, raise_on_error=False)
