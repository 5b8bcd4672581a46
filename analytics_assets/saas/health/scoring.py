"""From usage to scores and bands: what the asset, its outcomes and the effect of other weights are computed with."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
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


def at_the_same_time(hours: Sequence[datetime]) -> list[list[datetime]]:
    """Consecutive hours by their time of day, those of the last hour at the end.

    Hours that lie whole days apart share their blocks of 24 hours: a month of 720 hours is 24 computations.
    """
    groups = [list(hours[len(hours) - 1 - back :: -24])[::-1] for back in range(min(24, len(hours)))]
    return groups[::-1]


def read_usage(work: Work, first: datetime, last: datetime) -> None:
    """Make `account_usage` readable, as far back as the health of the hours from `first` to `last` looks."""
    days = [work.platform.clock.day_of(hour) for hour in (first + timedelta(hours=1) - timedelta(days=WINDOW_DAYS), last)]
    work.read(ACCOUNT_USAGE, f"event_date >= '{days[0]}' AND event_date <= '{days[1]}'")


def last_hour(work: Work, day: date) -> datetime:
    """The last hour of a business day."""
    return work.platform.clock.begins(day + timedelta(days=1)) - timedelta(hours=1)


def whole_days_apart(work: Work, days: Sequence[date]) -> list[list[date]]:
    """Consecutive days in groups whose ends lie whole days apart and share their blocks; the clock changes twice a year."""
    return [list(group) for _, group in groupby(days, key=lambda day: last_hour(work, day).timestamp() % 86_400)]


def measure(work: Work, last: datetime, days: int = 1, between: bool = True) -> None:
    """Make `health_points` for the hour `last`, the hours 24 hours apart before it (`days` in all), and the 28 days before those.

    Blocks end with that hour; the number of its own block is `last_block(days)`. Reads `account_usage` and `accounts`.

    Args:
        between: trends only look at the hours and at those 28 days before them; bands look at what lies between as well.
    """
    blocks = WINDOW_DAYS + days - 1
    end = last + timedelta(hours=1)
    usage = work.sql(_HERE / "usage_blocks.sql", window_start_at=end - timedelta(days=blocks), window_end_at=end)
    _keep(work, "usage_blocks", usage)
    dates = [work.platform.clock.day_of(last - timedelta(days=back)) for back in range(blocks - 1, -1, -1)]
    work.connection.register("health_blocks", pa.table({"block": range(blocks), "event_date": dates}))
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
    bands = []
    for same_time in whole_days_apart(work, evenings):
        days = len(same_time) - 1
        measure(work, last_hour(work, same_time[-1]), days)
        score(work, health)
        judge_evenings(work, health, same_time, last_block(days))
        bands.append(work.connection.table("evening_bands").to_arrow_table())
    _keep(work, "evening_bands", work.connection.from_arrow(pa.concat_tables(bands)))
    scores = work.connection.sql(
        "SELECT account_id, $newest - block AS evenings_before, score FROM health_scores", params={"newest": last_block(days)}
    )
    _keep(work, "evening_scores", scores)


def judge_evenings(work: Work, health: Health, days: Sequence[date], newest_block: int) -> None:
    """Make `evening_bands` for days whose ends lie 24 hours apart, from `health_scores`.

    Args:
        newest_block: the block of `health_scores` that ends with the last day.
    """
    blocks = range(newest_block - len(days) + 1, newest_block + 1)
    work.connection.register("health_evenings", pa.table({"block": blocks, "as_of_date": days}))
    _keep(work, "evening_bands", work.sql(_HERE / "evening_bands.sql", **_edges(health), hysteresis=health.hysteresis))


def health_of_hours(work: Work, health: Health, hours: Sequence[datetime], newest_block: int) -> duckdb.DuckDBPyRelation:
    """The health of every account at the end of hours that lie 24 hours apart, in the order of their key; reads `accounts` and `evening_bands`.

    Args:
        newest_block: the block of `health_scores` that ends with the last hour.
    """
    days = [work.platform.clock.day_of(hour) for hour in hours]
    columns = {
        "block": range(newest_block - len(hours) + 1, newest_block + 1),
        "hour": hours,
        "event_date": days,
        "hour_of_day": [
            (hour - work.platform.clock.begins(day)) // timedelta(hours=1) for hour, day in zip(hours, days, strict=True)
        ],
        "judged_on": [_judged_on(work, hour) for hour in hours],
        "evening": [day - timedelta(days=1) for day in days],
        "known_since": [work.platform.clock.day_of(hour - timedelta(days=BAND_DAYS)) - FORTNIGHT for hour in hours],
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
