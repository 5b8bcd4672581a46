"""Account health of many accounts (an hour, the same after three years, a month of hours in one run), and how well it ranks them."""

import logging
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from analytics_assets.home import Home
from analytics_assets.saas.health.assets import ACCOUNT_HEALTH, account_health
from analytics_assets.saas.usage.assets import ACCOUNT_USAGE
from analytics_assets.settings import parse_settings
from analytics_assets.warehouse.engine import engine
from analytics_assets.warehouse.work import Platform, Work
from analytics_assets_tests.benchmarks.comparison import Comparison, gigabytes_held, seconds_of, taking_turns
from analytics_assets_tests.saas.health.test_planted_health import ALARM, ENOUGH_DAYS, RANKED_DAYS, alarms, correlations, scored

LAST_DAY = date(2026, 3, 31)
FEW_DAYS, THREE_YEARS = 100, 1_096
FRESH_SEED = 9401
"""The first of the seeds that nothing was chosen on."""

# Every account in every hour of a week: more rows than any company has, and the same on every machine.
A_WEEK = """
SELECT
    CAST(TIMESTAMP '2020-01-01' + to_hours(CAST(h AS INTEGER)) AS DATE) AS event_date,
    TIMESTAMPTZ '2020-01-01 00:00:00+00' + to_hours(CAST(h AS INTEGER)) AS hour, 'account ' || a AS account_id,
    CAST(1 + r % 200 AS BIGINT) AS events, CAST(1 + r // 200 % 20 AS BIGINT) AS active_users,
    CAST(1 + r // 4000 % 12 AS BIGINT) AS features_used, CAST(1 + r // 200 % 20 AS BIGINT) AS sessions,
    CASE WHEN a % 5 > 0 THEN CAST(20 + a % 30 AS BIGINT) END AS seats
FROM (SELECT a, h, hash(a * 1000003 + h) AS r FROM range($accounts) AS t(a), range(24 * 7) AS u(h))
ORDER BY hour, account_id
"""


def measure(repetitions: int, folder: Path, accounts: int) -> Iterator[Comparison]:
    """Seconds of the last hour, computed, committed and published, after three years and after a hundred days of usage."""
    long, short = (_home(folder, accounts, days) for days in (THREE_YEARS, FEW_DAYS))
    seconds = taking_turns(lambda _: seconds_of(lambda: _hour(long)), lambda _: seconds_of(lambda: _hour(short)), repetitions)
    what = f"account_health, one hour, {accounts:,} accounts"
    yield Comparison(what, f"{THREE_YEARS} days of usage", f"{FEW_DAYS} days of usage", *seconds, 1.1)


def ranking(folder: Path, companies: int = 20) -> Iterator[str]:
    """How well scores rank accounts by their true health, beside the best raw figure of each company and day, and how early and how
    often falsely `falling_accounts` tells of decay, over companies of unseen seeds."""
    found, told = [], []
    for seed in range(FRESH_SEED, FRESH_SEED + companies):
        company = scored(seed, folder / f"ranked {seed}")
        found.append([correlations(company, day) for day in RANKED_DAYS])
        told.append(alarms(company))
    scores = np.array([[ranks["score"] for ranks in days] for days in found])
    best = np.array([[max(value for name, value in ranks.items() if name != "score") for ranks in days] for days in found])
    ahead = scores - best
    of_company = ahead.mean(axis=1)
    yield (
        f"Health, Spearman with the true health, {companies} companies x {len(RANKED_DAYS)} days: mean {scores.mean():.3f} "
        f"({scores.min():.3f} to {scores.max():.3f}); less the best raw figure of the day: mean {ahead.mean():+.3f} "
        f"({ahead.min():+.3f} to {ahead.max():+.3f}), ahead on {(ahead > 0).sum()} of {ahead.size} days and, over its days, in "
        f"{(of_company > 0).sum()} of {companies} companies"
    )
    leaving, steady = sum(of.leaving for of in told), sum(of.steady for of in told)
    seen = sum(of.seen * of.leaving for of in told) / leaving
    false_days, new_a_day = (sum(getattr(of, name) * of.steady for of in told) / steady for name in ("false_days", "new_a_day"))
    yield (
        f"Falling accounts ({-ALARM:g} points in 28 days), of {leaving} that decay and leave: {seen:.0%} were told {ENOUGH_DAYS} days before "
        f"the end or earlier ({min(of.seen for of in told):.0%} to {max(of.seen for of in told):.0%} in a company); of {steady:,} that never "
        f"decay, on a day: {false_days:.1%} ({min(of.false_days for of in told):.1%} to {max(of.false_days for of in told):.1%}), and one "
        f"comes onto the list anew every {1 / new_a_day:.0f} days"
    )


def alone(folder: Path, accounts: int, hours: int) -> tuple[float, float]:
    """Seconds of the last hours in one run, and the peak memory in GB of a process that does nothing else."""
    _home(folder, accounts, FEW_DAYS)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(_measured, folder, accounts, hours).result()


def _measured(folder: Path, accounts: int, hours: int) -> tuple[float, float]:
    seconds = seconds_of(lambda: _hour(_platform(folder, accounts, FEW_DAYS), hours))
    return seconds, gigabytes_held()


def _platform(folder: Path, accounts: int, days: int) -> Platform:
    first = LAST_DAY - timedelta(days=days - 1)
    text = f'[business]\ntime_zone = "UTC"\ncurrency = "GBP"\nfirst_day = {first}\nlast_day = {LAST_DAY}\n'
    home = Home(folder / f"{accounts} accounts, {days} days")
    return Platform(parse_settings(text, "the benchmark's settings"), home, [ACCOUNT_USAGE, ACCOUNT_HEALTH])


def _home(folder: Path, accounts: int, days: int) -> Platform:
    """A home with that many days of usage, the same week again and again."""
    platform = _platform(folder, accounts, days)
    if platform.home.lake.exists():
        return platform
    with engine() as connection:
        rows = connection.sql(A_WEEK, params={"accounts": accounts})
        week = rows.select(", ".join(ACCOUNT_USAGE.column_names)).to_arrow_table().cast(ACCOUNT_USAGE.arrow_schema())
    of_day = [week.slice(24 * accounts * number, 24 * accounts) for number in range(7)]
    clock = platform.clock
    with closing(platform.lake.stage(ACCOUNT_USAGE)) as staged:
        for number in range(days):
            day, rows_then = clock.first_day + timedelta(days=number), of_day[number % 7]
            later = pa.scalar(clock.begins(day) - rows_then["hour"][0].as_py(), pa.duration("us"))
            hours = pc.add(rows_then["hour"], later)
            dated = rows_then.set_column(1, "hour", hours).set_column(
                0, "event_date", pa.repeat(pa.scalar(day, pa.date32()), len(hours))
            )
            staged.append(dated)
            staged.files()
        end = clock.begins(LAST_DAY + timedelta(days=1))
        platform.lake.adopt(staged, clock.window(clock.begins(clock.first_day), end), {})
    return platform


def _hour(platform: Platform, hours: int = 1) -> None:
    end = datetime.combine(LAST_DAY + timedelta(days=1), datetime.min.time(), UTC)
    window = platform.clock.window(end - timedelta(hours=hours), end)
    with engine() as connection, closing(Work(platform, window, connection, logging.getLogger(__name__))) as work:
        platform.lake.adopt(account_health(work)[ACCOUNT_HEALTH.name], window, {})
    platform.publish()
