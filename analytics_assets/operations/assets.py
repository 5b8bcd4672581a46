"""The assets `batch_runs` and `alerts`: what ran, whether the night will fit its window, and what is or was wrong."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa

from analytics_assets.operations.alerts import ALERTS, rows_of_alerts
from analytics_assets.operations.delivery import outbox_of
from analytics_assets.operations.launcher import CATCH_UP
from analytics_assets.operations.run_history import BATCH_RUNS, record_runs
from analytics_assets.operations.window import FEWEST_NIGHTS, NIGHTS_READ, Driver, Forecast, clock, driver, forecast, in_words
from analytics_assets.partitions import BusinessClock
from analytics_assets.settings import Operations
from analytics_assets.warehouse.assets import RETRIES, only_passing_faults_retried
from analytics_assets.warehouse.engine import attach, engine
from analytics_assets.warehouse.work import Platform

WINDOW_HOLDS = "window_holds"


@dataclass(frozen=True)
class Nights:
    """Business days and the minute after their midnight at which the last of their tables was there; seconds and rows by asset."""

    days: tuple[date, ...]
    minutes: tuple[float, ...]
    of_asset: dict[str, list[tuple[date, float, int | None]]]


def nights(platform: Platform) -> Nights:
    """The nights in the record: first computations of a day that began after its midnight and before the window's end.

    What was begun later was late for other reasons, or was asked for by somebody; it says nothing about how long a night is.
    """
    with engine() as connection:
        attach(connection, platform.lake.pin(BATCH_RUNS))
        rows = connection.sql((Path(__file__).parent / "nights.sql").read_text()).fetchall()
    ends = platform.settings.operations.window_ends
    last_start = ends.hour * 60 + ends.minute
    ended: dict[date, float] = {}
    of_asset: dict[str, list[tuple[date, float, int | None]]] = {}
    for day, asset, started_at, finished_at, seconds, count in rows:
        if 0 <= minute_of_night(platform.clock, day, started_at) < last_start:
            ended[day] = max(ended.get(day, 0.0), minute_of_night(platform.clock, day, finished_at))
            of_asset.setdefault(asset, []).append((day, seconds, count))
    days = sorted(ended)[-NIGHTS_READ:]
    kept = {name: [one for one in each if one[0] >= days[0]] for name, each in of_asset.items()} if days else {}
    return Nights(tuple(days), tuple(ended[day] for day in days), kept)


def minute_of_night(business: BusinessClock, day: date, instant: datetime) -> float:
    """Minutes on the clock on the wall after the midnight that ended a business day: what a deadline on that clock is held to."""
    wall = instant.astimezone(business.settings.business.zone).replace(tzinfo=None)
    return (wall - datetime.combine(day + timedelta(days=1), datetime.min.time())).total_seconds() / 60


def window_check(platform: Platform, found: Nights) -> tuple[dg.AssetCheckResult, Forecast | None]:
    """Whether nights are expected to end in time for the next `warn_days` days."""
    settings = platform.settings.operations
    limit = settings.window_ends.hour * 60 + settings.window_ends.minute
    seen = forecast(found.days, found.minutes, limit)
    if seen is None:
        says = f"{len(found.days)} nights are recorded; a forecast needs {FEWEST_NIGHTS}"
        return dg.AssetCheckResult(check_name=WINDOW_HOLDS, passed=True, severity=_WARN, metadata={"forecast": says}), None
    metadata: dict[str, Any] = {"forecast": in_words(seen, limit, found.days[-1]), "nights": seen.nights}
    if drives := _driver(found, seen):
        metadata["driven by"] = str(drives)
    return (
        dg.AssetCheckResult(
            check_name=WINDOW_HOLDS, passed=not seen.within(settings.warn_days), severity=_WARN, metadata=metadata
        ),
        seen,
    )


def _driver(found: Nights, seen: Forecast) -> Driver | None:
    return driver(found.of_asset) if seen.grows else None


_WARN = dg.AssetCheckSeverity.WARN


def plot_window(found: Nights, seen: Forecast, settings: Operations) -> bytes:
    """A PNG: when each night ended, the fitted course with its forecast, and the end of the window."""
    import altair as alt
    import polars as pl
    import vl_convert as vlc

    limit = (settings.window_ends.hour * 60 + settings.window_ends.minute) / 60
    ahead = min(max(settings.warn_days, seen.crosses_in or 0), 120)
    measured = pl.DataFrame({"day": found.days, "hours": [minutes / 60 for minutes in found.minutes]})
    coming = [found.days[-1] + timedelta(days=number) for number in range(ahead + 1)]
    course = pl.DataFrame(
        {
            "day": [*found.days[-seen.nights :], *coming],
            "hours": [minutes / 60 for minutes in seen.fitted] + [(seen.level + seen.slope * n) / 60 for n in range(ahead + 1)],
            "what": ["fitted"] * seen.nights + ["forecast"] * (ahead + 1),
        }
    )
    x, y = alt.X("day:T", title="business day"), alt.Y("hours:Q", title="night ended, hours after midnight").scale(zero=False)
    points = alt.Chart(measured).mark_circle(size=22, opacity=0.7).encode(x, y)
    lines = alt.Chart(course).mark_line().encode(x, y, alt.StrokeDash("what:N", title=None))
    rule = alt.Chart(pl.DataFrame({"hours": [limit]})).mark_rule(color="#b00").encode(y="hours:Q")
    title = f"The night and its window, which ends at {clock(limit * 60)}"
    chart = alt.layer(points, lines, rule).properties(width=460, height=240, title=title)
    return vlc.vegalite_to_png(chart.to_json(), scale=1.5)


def batch_runs_asset(platform: Platform) -> dg.AssetsDefinition:
    """The asset `batch_runs`, without partitions: a historical export's days end, its runs do not."""

    @dg.asset(
        name=BATCH_RUNS.name,
        check_specs=[dg.AssetCheckSpec(WINDOW_HOLDS, asset=BATCH_RUNS.name, description=_WINDOW_HOLDS)],
        metadata={"dagster/column_schema": BATCH_RUNS.dagster_schema(), "dagster/table_name": BATCH_RUNS.name},
        **_ABOUT,
    )
    def batch_runs(context: dg.AssetExecutionContext) -> Iterator[Any]:
        """What ran, asset by asset and partition by partition: when, how long, how many rows, at what cost, and how it ended.

        Read from Dagster's own record and kept beyond it. A run is in here once it has ended; a range is one step whose
        seconds are shared evenly among its partitions, so that sums are right. Attempts count the retries of a step;
        `run_retry` those of a whole run whose worker crashed; `backfill` names the backfill: the three are never mixed.

        Read it to find what a night costs and what grows: the check `window_holds` forecasts when the night outgrows its window.
        """
        with only_passing_faults_retried(BATCH_RUNS.name):
            recorded = record_runs(platform, context.instance)
            found = nights(platform)
            result, seen = window_check(platform, found)
            metadata: dict[str, Any] = {"runs recorded": recorded, "dagster/row_count": _rows(platform)}
            if seen:
                image = base64.b64encode(plot_window(found, seen, platform.settings.operations)).decode()
                metadata["plot"] = dg.MetadataValue.md(f"![the night](data:image/png;base64,{image})")
            platform.publish()
        yield result
        yield dg.MaterializeResult(metadata=metadata)

    return batch_runs


_WINDOW_HOLDS = (
    "No night of the next `[operations] warn_days` days is expected to end after `window_ends`. It says what the night does now, "
    "how it moves, when it crosses, and which asset drives it."
)
_ABOUT: dict[str, Any] = {
    "group_name": "operations",
    "owners": ["team:analytics"],
    "kinds": {"dagster", "deltalake"},
    "retry_policy": RETRIES,
}


def _rows(platform: Platform) -> int:
    with engine() as connection:
        attach(connection, platform.lake.pin(BATCH_RUNS))
        return int(connection.sql("SELECT count(*) FROM batch_runs").fetchall()[0][0])


def alerts_asset(platform: Platform) -> dg.AssetsDefinition:
    """The asset `alerts`, without partitions."""

    @dg.asset(
        name=ALERTS.name,
        metadata={"dagster/column_schema": ALERTS.dagster_schema(), "dagster/table_name": ALERTS.name},
        **_ABOUT,
    )
    def alerts() -> dg.MaterializeResult:
        """What was or is wrong, since when, until when, and what became of each message about it.

        A copy of the outbox, made every hour; `analytics-assets alerts` shows the outbox itself. An alert is told once, and once
        more when it is over. `delivery` says of every message whether its endpoint accepted it, and if not, why and how
        often it was tried.

        Read `recovered_at`: NULL still stands.
        """
        with only_passing_faults_retried(ALERTS.name):
            rows = rows_of_alerts(outbox_of(platform))
            platform.lake.replace(ALERTS, pa.Table.from_pylist(rows, schema=ALERTS.arrow_schema()), None, {})
            platform.publish()
        standing = sum(row["recovered_at"] is None for row in rows)
        return dg.MaterializeResult(metadata={"dagster/row_count": len(rows), "standing": standing})

    return alerts


def record_schedule(platform: Platform, assets: Sequence[dg.AssetsDefinition]) -> dg.ScheduleDefinition:
    """Twenty to every hour: the record of runs and alerts, and the forecast of the night."""
    return dg.ScheduleDefinition(
        name="record_hourly",
        job=dg.define_asset_job("record", selection=dg.AssetSelection.assets(*assets)),
        cron_schedule="40 * * * *",
        execution_timezone=platform.settings.business.time_zone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )


def record_now(definitions: dg.Definitions, instance: dg.DagsterInstance) -> bool:
    """Refresh `batch_runs` and `alerts` in this process; whether it worked."""
    result = definitions.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=instance,
        asset_selection=[dg.AssetKey(BATCH_RUNS.name), dg.AssetKey(ALERTS.name)],
        # Who catches up runs it, and ends it when that was killed or interrupted.
        tags={CATCH_UP: "true", "dagster/max_retries": "0"},
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        raise_on_error=False,
    )
    return result.success
