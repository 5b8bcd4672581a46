"""An hour of account usage of many accounts, beside a bare count over the same files that knows no moves and no sessions."""

import logging
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import duckdb
import pyarrow as pa

from analytics_assets.events.tables import ACCOUNT_RECORDS, EVENTS
from analytics_assets.home import Home
from analytics_assets.saas.accounts.assets import ACCOUNT_MEMBERS, ACCOUNTS
from analytics_assets.saas.usage.assets import ACCOUNT_USAGE, account_usage
from analytics_assets.settings import parse_settings
from analytics_assets.warehouse.engine import attach, engine
from analytics_assets.warehouse.lake import Window
from analytics_assets.warehouse.tables import Table
from analytics_assets.warehouse.work import Platform, Work
from analytics_assets_tests.benchmarks.comparison import Comparison, gigabytes_held, seconds_of, taking_turns

ACCOUNT_COUNT, PEOPLE_OF_EACH, EVENT_COUNT = 20_000, 10, 5_000_000
SETTINGS = '[business]\ntime_zone = "UTC"\ncurrency = "EUR"\nfirst_day = 2026-03-01\nlast_day = 2026-03-31\n'

# Everybody of the evening, half of the events name their account, a twentieth of the people have moved to another.
ROWS = {
    ACCOUNTS: """SELECT DATE '2026-03-01' AS as_of_date, 'account-' || i AS account_id, DATE '2026-03-01' AS first_seen_date,
        'unbilled' AS status, CAST(5 + i % 20 AS BIGINT) AS seats, 0 AS renewals FROM range($accounts) AS t(i)""",
    ACCOUNT_MEMBERS: """SELECT DATE '2026-03-01' AS as_of_date, as_of_date AS received_date, 'person-' || i AS identity, identity AS user_id,
        'account-' || i // $people AS account_id FROM range($accounts * $people) AS t(i)""",
    EVENTS: """SELECT DATE '2026-03-02' AS event_date, TIMESTAMPTZ '2026-03-02 12:00:00+00' AS hour, md5(i::VARCHAR) AS event_id,
        'person-' || person AS identity, 'did ' || hash(i) % 40 AS name, 1772452800 + (i * 3600) // $events AS occurred_second,
        to_timestamp(1772452800 + (i * 3600) // $events) AS occurred_at,
        CASE WHEN i % 2 = 0 THEN 'account-' || (person // $people + person % 20 // 19) % $accounts END AS account_id, '{}' AS properties
        FROM (SELECT i, CAST(hash(i) % ($accounts * $people) AS BIGINT) AS person FROM range($events) AS t(i))""",
}
RECORDS_OF_ACCOUNTS = """SELECT * EXCLUDE (event_id), event_id AS record_id FROM events WHERE account_id IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY identity ORDER BY occurred_second, event_id) = 1"""
BARE = """SELECT hour, coalesce(e.account_id, m.account_id) AS account_id, count(*), count(DISTINCT user_id), count(DISTINCT name)
    FROM events AS e JOIN account_members AS m USING (identity) GROUP BY ALL"""


def measure(repetitions: int, folder: Path) -> Iterator[Comparison]:
    """Compute and commit the hour, beside the bare count."""
    platform = _platform(folder)
    write(platform)

    def ours(_: int) -> float:
        return seconds_of(lambda: _hour(platform))

    def bare(_: int) -> float:
        return seconds_of(lambda: _bare(platform))

    what = f"usage of {ACCOUNT_COUNT:,} accounts, {EVENT_COUNT:,} events in an hour"
    yield Comparison(what, "account_usage, committed", "bare count", *taking_turns(ours, bare, repetitions))


def alone(folder: Path) -> tuple[float, float]:
    """Seconds of the hour that `measure` wrote, and the peak memory in GB of a process that does nothing else."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(_measured, folder).result()


def _measured(folder: Path) -> tuple[float, float]:
    seconds = seconds_of(lambda: _hour(_platform(folder)))
    return seconds, gigabytes_held()


def write(platform: Platform) -> None:
    """Put what the hour reads into the lake."""
    with engine() as connection:
        for table, sql in ROWS.items():
            sizes = {"accounts": ACCOUNT_COUNT, "people": PEOPLE_OF_EACH, "events": EVENT_COUNT}
            found = connection.sql(sql, params={name: size for name, size in sizes.items() if f"${name}" in sql})
            platform.lake.replace(table, _full(connection, table, found), None, {})
        attach(connection, platform.lake.pin(EVENTS))
        found = connection.sql(RECORDS_OF_ACCOUNTS)
        platform.lake.replace(ACCOUNT_RECORDS, _full(connection, ACCOUNT_RECORDS, found), None, {})


def _full(connection: duckdb.DuckDBPyConnection, table: Table, found: duckdb.DuckDBPyRelation) -> pa.Table:
    """The rows with every declared column, NULL where nothing was drawn."""
    given = set(found.columns)
    columns = (f"CAST({c.name if c.name in given else 'NULL'} AS {c.type}) AS {c.name}" for c in table.columns)
    return found.select(", ".join(columns)).to_arrow_table().cast(table.arrow_schema())


def _platform(folder: Path) -> Platform:
    return Platform(parse_settings(SETTINGS, "the benchmark's settings"), Home(folder / "usage"))


def _noon(platform: Platform) -> Window:
    start = platform.clock.begins(platform.clock.first_day) + timedelta(hours=36)
    return platform.clock.window(start, start + timedelta(hours=1))


def _hour(platform: Platform) -> None:
    window = _noon(platform)
    with engine() as connection, closing(Work(platform, window, connection, logging.getLogger(__name__))) as work:
        platform.lake.adopt(account_usage(work)[ACCOUNT_USAGE.name], window, {})


def _bare(platform: Platform) -> None:
    with engine() as connection:
        for table in (EVENTS, ACCOUNT_MEMBERS):
            attach(connection, platform.lake.pin(table))
        connection.sql(BARE).to_arrow_table()
