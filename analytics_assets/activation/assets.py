"""The assets that go out: `email_campaign` and `onsite_recommendations`, both behind the gate."""

import contextlib
import inspect
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg

from analytics_assets.activation.gate import (
    HeldBack,
    lacks_hours,
    newest_due_day,
    newest_over_day,
    reasons_to_hold,
    silent,
)
from analytics_assets.activation.generations import Channel
from analytics_assets.activation.outlets import EMAIL, NOBODY, ONSITE, Outlet, has_no_customers
from analytics_assets.events.tables import EVENTS
from analytics_assets.operations.freshness import newest_business_time
from analytics_assets.partitions import all_earlier_days
from analytics_assets.warehouse.assets import FILL, RETRIES, code_version, only_passing_faults_retried
from analytics_assets.warehouse.engine import engine
from analytics_assets.warehouse.incomplete import lacks
from analytics_assets.warehouse.memory import PEAK_MEMORY, PeakMemory
from analytics_assets.warehouse.work import Platform, Work


def email_campaign_asset(
    platform: Platform, condition: dg.AutomationCondition, inputs: Sequence[dg.AssetsDefinition]
) -> dg.AssetsDefinition:
    """The daily asset `email_campaign`.

    `inputs`: the assets traits, identities, order_items, customer_ltv, customer_segments and recommendations, whose days and
    checks the gate looks at.
    """
    return _asset(platform, condition, inputs, EMAIL)


def onsite_recommendations_asset(
    platform: Platform, condition: dg.AutomationCondition, inputs: Sequence[dg.AssetsDefinition]
) -> dg.AssetsDefinition:
    """The daily asset `onsite_recommendations`.

    `inputs`: the asset recommendations, whose days and checks the gate looks at.
    """
    return _asset(platform, condition, inputs, ONSITE)


def _asset(
    platform: Platform, condition: dg.AutomationCondition, inputs: Sequence[dg.AssetsDefinition], outlet: Outlet
) -> dg.AssetsDefinition:
    name, channel = outlet.name, outlet.channel(platform.home)

    @dg.asset(
        name=name,
        description=inspect.getdoc(outlet.make),
        partitions_def=platform.clock.days,
        deps=[_dep(asset) for asset in inputs],
        check_specs=[dg.AssetCheckSpec("may_go_out", asset=name, blocking=True, description=_MAY_GO_OUT)],
        retry_policy=RETRIES,
        backfill_policy=dg.BackfillPolicy.single_run(),
        code_version=f"{code_version(platform, outlet.make, (), outlet.settings)}-{outlet.made_with(platform)}",
        automation_condition=condition,
        group_name="activation",
        owners=["team:analytics"],
        tags={FILL: "newest"},
        kinds={"duckdb", outlet.format},
        metadata={
            "dagster/column_schema": dg.TableSchema(
                columns=[dg.TableColumn(column, "string", description=meaning) for column, meaning in outlet.columns.items()]
            ),
            "folder": dg.MetadataValue.path(str(channel.root)),
        },
    )
    def asset(context: dg.AssetExecutionContext) -> Iterator[Any]:
        started = time.monotonic()
        bounds = context.partition_time_window
        window = platform.clock.window(bounds.start, bounds.end)
        figures: dict[str, Any] = {}
        if has_no_customers(platform):
            yield dg.AssetCheckResult(
                check_name="may_go_out", passed=True, metadata={"partitions": str(window.last_day), **NOBODY}
            )
            yield dg.MaterializeResult(metadata={**NOBODY, "seconds": round(time.monotonic() - started, 3)})
            return
        memory = PeakMemory()
        with only_passing_faults_retried(name), platform.home.lock(outlet.lock), memory, engine() as connection:
            work = Work(platform, window, connection, context.log)
            for day in work.days:
                if outlet.is_final(platform, day):
                    figures = {"sent": f"the list of {day} has been sent and stays as it is"}
                    continue
                try:
                    with _status_kept(platform, channel, day):
                        figures = _make_day(context, outlet, work, inputs, day)
                except HeldBack as held:
                    details: dict[str, Any] = {"partitions": day.isoformat(), "reasons": held.reasons}
                    yield dg.AssetCheckResult(check_name="may_go_out", passed=False, metadata=details)
                    newest = channel.newest()
                    stands = f"What is out is of {newest.day}." if newest else "Nothing has gone out yet."
                    text = f"{name} {day} is held back: {held}. {stands}"
                    raise dg.Failure(text, metadata={"reasons": held.reasons}, allow_retries=False) from None
        span = f"{window.first_day}" if window.first_day == window.last_day else f"{window.first_day} to {window.last_day}"
        yield dg.AssetCheckResult(check_name="may_go_out", passed=True, metadata={"partitions": span})
        spent = {"seconds": round(time.monotonic() - started, 3), PEAK_MEMORY: memory.size}
        yield dg.MaterializeResult(metadata=figures | spent)

    return asset


_MAY_GO_OUT = (
    "Inputs are there, newer than what they are made of, and passed their checks; the models passed their tests; the lists keep "
    "their promises."
)


def _dep(asset: dg.AssetsDefinition) -> dg.AssetDep:
    """As-of tables are read for the day alone, tables of events for all days up to it."""
    as_of_table = asset.tags_by_key[asset.key][FILL] != "all"
    return dg.AssetDep(asset.key, partition_mapping=None if as_of_table else all_earlier_days())


@contextlib.contextmanager
def _status_kept(platform: Platform, channel: Channel, day: date) -> Iterator[None]:
    """Bring `status.json` up to what came of a day."""
    due, over = newest_due_day(platform.clock), newest_over_day(platform.clock)
    try:
        yield
    except HeldBack as held:
        channel.write_status(due, over, day, held.reasons)
        raise
    except Exception as error:
        # The words of a fault in the data may name somebody. On a full disk there may be no room for the status either.
        why = (error.strerror or str(error)) if isinstance(error, OSError) else f"{type(error).__name__}: see the run"
        with contextlib.suppress(OSError):
            channel.write_status(due, over, day, [why])
        raise
    channel.write_status(due, over, day, [])


def _make_day(
    context: dg.AssetExecutionContext, outlet: Outlet, work: Work, inputs: Sequence[dg.AssetsDefinition], day: date
) -> dict[str, Any]:
    clock, zone = work.platform.clock, work.settings.business.zone
    newest_event = newest_business_time(work.platform, EVENTS, context.instance)
    stale = silent(newest_event, clock.begins(day + timedelta(days=1)), zone)
    lacking = lacks_hours(lacks(work.platform.lake), day, zone)
    if reasons := [*stale, *lacking, *reasons_to_hold(context.instance, inputs, day)]:
        raise HeldBack(reasons)
    for table in outlet.day_tables:
        work.read(table, f"{table.partition_column} = '{day}'")
    for table in outlet.history_tables:
        work.read(table, f"{table.partition_column} <= '{day}'")
    channel = outlet.channel(work.platform.home)
    with channel.building() as folder:
        made = outlet.make(work, day, folder)
        content = {"data_through": clock.begins(day + timedelta(days=1)).isoformat(), **made.content}
        circumstances = {
            "run_id": context.run.run_id,
            "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "inputs": {table: pin.version for table, pin in sorted(work.pins.items())},
        }
        generation = channel.seal(folder, day, made.rows, content, circumstances)
    figures = outlet.release(work.platform, generation)
    path = dg.MetadataValue.path(str(channel.root / day.isoformat()))
    return {"generation": generation.name, "folder": path, **made.figures, **figures}
