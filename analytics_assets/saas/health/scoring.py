"""From usage to scores and bands: what the asset, its outcomes and the effect of other weights are computed with."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa

from analytics_assets.saas.usage.assets import ACCOUNT_USAGE
from analytics_assets.settings import Health
from analytics_assets.warehouse.work import Work

_HERE = Path(__file__).parent

BANDS = ("healthy", "neutral", "at risk")
COMPONENTS = ("active_users", "events", "features", "recency", "seats")
POINT_DAYS = 42
"""A score looks at six weeks: two now, and the four before."""
BAND_DAYS = 28
"""A band looks at the scores of this many evenings; the trend at the score of so many days before."""
WINDOW_DAYS = POINT_DAYS + BAND_DAYS
FORTNIGHT = timedelta(days=14)
"""An account that was not there for so long 28 days ago has no trend."""
BAND_COVERAGE = 0.2
"""A score of which less is known gives no band, and moves none: alone and under four weeks old, recency and seats are a tenth."""


def hours_between(start: datetime, end: datetime) -> list[datetime]:
    """The hours of a window, each by the instant in UTC at which it begins."""
    count = round((end - start) / timedelta(hours=1))
    return [start.astimezone(UTC) + timedelta(hours=number) for number in range(count)]


def at_the_same_time(work: Work, hours: Sequence[datetime]) -> list[list[datetime]]:
    """Consecutive hours by their time on the business's clock, those of the last hour at the end.

    They share their days that end with the hour: a month of 720 hours is 24 computations. When the clock goes back, the first of the
    hour that comes twice stands alone: days before and after it hold both.
    """
    groups: dict[tuple[time, int], list[datetime]] = {}
    for hour in reversed(hours):
        zone = work.settings.business.zone
        key = hour.astimezone(zone).time(), (hour + timedelta(hours=1)).astimezone(zone).fold
        groups.setdefault(key, []).append(hour)
    return [group[::-1] for group in reversed(groups.values())]


def read_usage(work: Work, first: datetime, last: datetime) -> None:
    """Make `account_usage` readable, as far back as the health of the hours from `first` to `last` looks."""
    first_day, last_day = work.platform.clock.day_of(first) - timedelta(days=WINDOW_DAYS), work.platform.clock.day_of(last)
    work.read(ACCOUNT_USAGE, f"event_date >= '{first_day}' AND event_date <= '{last_day}'")


def last_hour(work: Work, day: date) -> datetime:
    """The last hour of a business day."""
    return work.platform.clock.begins(day + timedelta(days=1)) - timedelta(hours=1)


def measure(work: Work, last: datetime, days: int = 1, between: bool = True) -> None:
    """Make `health_points` for the hour `last`, that time of day on the days before it (`days` in all), and the 28 days before those.

    A block is a day that ends with that time on the business's clock, of 23 to 25 hours when the clock changes; the number of the
    newest is `last_block(days)`. Reads `account_usage` and `accounts`.

    Args:
        between: trends only look at the hours and at those 28 days before them; bands look at what lies between as well.
    """
    blocks = WINDOW_DAYS + days - 1
    zone, last_day = work.settings.business.zone, work.platform.clock.day_of(last)
    begin = last.astimezone(zone).replace(tzinfo=None) + timedelta(hours=1) - timedelta(days=blocks)
    hours = hours_between(begin.replace(tzinfo=zone).astimezone(UTC), last + timedelta(hours=1))
    block_of = [(hour.astimezone(zone).replace(tzinfo=None) - begin) // timedelta(days=1) for hour in hours]
    last_hour_of = dict(zip(block_of, range(len(hours)), strict=True))
    work.connection.register("block_hours", pa.table({"hour": hours, "hour_number": range(len(hours)), "block": block_of}))
    _keep(work, "usage_blocks", work.sql(_HERE / "usage_blocks.sql"))
    columns = {
        "block": range(blocks),
        "event_date": [last_day - timedelta(days=back) for back in range(blocks - 1, -1, -1)],
        "last_hour": [last_hour_of[block] for block in range(blocks)],
    }
    work.connection.register("health_blocks", pa.table(columns))
    points = work.sql(
        _HERE / "health_points.sql",
        blocks=blocks,
        ends=blocks if between else days,
        people_are_accounts=work.settings.accounts.are == "people",
    )
    _keep(work, "health_points", points)


def last_block(days: int = 1) -> int:
    """The number of the newest block that `measure` made."""
    return WINDOW_DAYS + days - 2


def score(work: Work, health: Health) -> None:
    """Make `health_scores` from `health_points` with these weights."""
    work.sql(_HERE / "health_scores.sql", **_weights(health)).create_view("health_scores")


def judge_evenings_before(work: Work, health: Health, hours: Sequence[datetime]) -> None:
    """Make `evening_bands` for consecutive hours: where each account stood when the newest day that is over by an hour's end ended.

    An hour that ends its day is that day's evening. `evening_scores` has the scores, in tenths, of the last of these evenings
    (`evenings_before` 0) and of those before it. Overwrites `health_points` and `health_scores`.
    """
    first, last = (_judged_on(work, hour) for hour in (hours[0], hours[-1]))
    evenings = [first + timedelta(days=number) for number in range((last - first).days + 1)]
    days = len(evenings) - 1
    measure(work, last_hour(work, last), days)
    score(work, health)
    judge_evenings(work, health, evenings, last_block(days))
    scores = work.connection.sql(
        "SELECT account_id, $newest - block AS evenings_before, score FROM health_scores", params={"newest": last_block(days)}
    )
    _keep(work, "evening_scores", scores)


def judge_evenings(work: Work, health: Health, days: Sequence[date], newest_block: int) -> None:
    """Make `evening_bands` for consecutive days, from `health_scores`.

    Args:
        newest_block: the block of `health_scores` that ends with the last day.
    """
    blocks = range(newest_block - len(days) + 1, newest_block + 1)
    work.connection.register("health_evenings", pa.table({"block": blocks, "as_of_date": days}))
    _keep(work, "evening_bands", work.sql(_HERE / "evening_bands.sql", **_edges(health), hysteresis=health.hysteresis))


def health_of_hours(work: Work, health: Health, hours: Sequence[datetime], newest_block: int) -> duckdb.DuckDBPyRelation:
    """The health of every account at the end of hours of one time of day, in the order of their key; reads `accounts` and `evening_bands`.

    Args:
        newest_block: the block of `health_scores` that ends with the last hour.
    """
    days = [work.platform.clock.day_of(hour) for hour in hours]
    columns = {
        "block": [newest_block - (days[-1] - day).days for day in days],
        "hour": hours,
        "event_date": days,
        "hour_of_day": [
            (hour - work.platform.clock.begins(day)) // timedelta(hours=1) for hour, day in zip(hours, days, strict=True)
        ],
        "judged_on": [_judged_on(work, hour) for hour in hours],
        "evening": [day - timedelta(days=1) for day in days],
        "known_since": [day - timedelta(days=BAND_DAYS) - FORTNIGHT for day in days],
    }
    work.connection.register("health_hours", pa.table(columns))
    due = {"healthy": health.healthy, "falling": health.falling}
    work.sql(_HERE / "health_reasons.sql", **due, **_weights(health)).create_view("health_reasons")
    return work.sql(_HERE / "account_health.sql", **_edges(health), **_weights(health)).order("hour, account_id")


def _keep(work: Work, name: str, rows: duckdb.DuckDBPyRelation) -> None:
    """Make rows a table of the connection: within its bound of memory, which Arrow is not."""
    work.connection.execute(f"DROP TABLE IF EXISTS {name}")
    rows.create(name)


def _judged_on(work: Work, hour: datetime) -> date:
    return work.platform.clock.day_of(hour + timedelta(hours=1)) - timedelta(days=1)


def _edges(health: Health) -> dict[str, float]:
    return {"healthy": health.healthy, "at_risk": health.at_risk, "least_coverage": BAND_COVERAGE}


def _weights(health: Health) -> dict[str, float]:
    return {f"{component}_weight": weight for component, weight in health.weights}
