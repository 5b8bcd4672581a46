"""An hour of `account_health` with three years of usage in the lake, beside the same hour with a hundred days of it."""

import logging
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl

from analytics_assets.home import Home
from analytics_assets.saas.health.assets import account_health
from analytics_assets.saas.usage.assets import ACCOUNT_USAGE
from analytics_assets.settings import parse_settings
from analytics_assets.warehouse.assets import Platform, Work
from analytics_assets.warehouse.engine import engine
from analytics_assets_tests.benchmarks.comparison import Comparison, seconds_of, taking_turns

LAST_DAY = date(2026, 3, 31)

# Every account in every hour: more rows than any company has, and the same on every machine.
USAGE = """
SELECT
    CAST($day AS DATE) AS event_date, CAST($day AS TIMESTAMPTZ) + to_hours(CAST(h AS INTEGER)) AS hour, 'account ' || a AS account_id,
    CAST(1 + r % 200 AS BIGINT) AS events, CAST(1 + r // 200 % 20 AS BIGINT) AS active_users,
    CAST(1 + r // 4000 % 12 AS BIGINT) AS features_used, CAST(1 + r // 200 % 20 AS BIGINT) AS sessions,
    CASE WHEN a % 5 > 0 THEN CAST(20 + a % 30 AS BIGINT) END AS seats
FROM (SELECT a, h, hash(a * 1000003 + h + 24 * $number) AS r FROM range($accounts) AS t(a), range(24) AS u(h))
ORDER BY h, a
"""


def measure(repetitions: int, folder: Path, accounts: int = 20_000, days: tuple[int, int] = (1_096, 100)) -> Iterator[Comparison]:
    """Seconds of the last hour, computed alone, in a home of `days[0]` and in one of `days[1]` days; the goal is no difference."""
    long, short = (_home(folder / f"{count} days", accounts, count) for count in days)
    what = f"account_health, one hour, {accounts:,} accounts"
    seconds = taking_turns(lambda _: _hour(long), lambda _: _hour(short), repetitions)
    yield Comparison(what, f"{days[0]} days of usage", f"{days[1]} days of usage", *seconds, 1.1)


def _home(folder: Path, accounts: int, days: int) -> Platform:
    first = LAST_DAY - timedelta(days=days - 1)
    text = f'[business]\ntime_zone = "UTC"\ncurrency = "GBP"\nfirst_day = {first}\nlast_day = {LAST_DAY}\n'
    platform = Platform(parse_settings(text, "the benchmark's settings"), Home(folder))
    with engine() as connection:
        for number in range(days):
            day = first + timedelta(days=number)
            rows = connection.sql(USAGE, params={"day": day, "number": number, "accounts": accounts})
            frame = pl.DataFrame(rows.to_arrow_table()).select(ACCOUNT_USAGE.column_names)
            table = frame.to_arrow().cast(ACCOUNT_USAGE.arrow_schema())
            platform.lake.replace(ACCOUNT_USAGE, table, f"event_date = '{day}'", {})
    return platform


def _hour(platform: Platform) -> float:
    end = datetime.combine(LAST_DAY + timedelta(days=1), datetime.min.time(), UTC)
    with engine() as connection:
        window = platform.clock.window(end - timedelta(hours=1), end)
        return seconds_of(lambda: account_health(Work(platform, window, connection, logging.getLogger(__name__))))
