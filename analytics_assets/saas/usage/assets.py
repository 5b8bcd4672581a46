"""Hourly `account_usage` and daily `account_days`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from analytics_assets.events.identities import FIRST_SEEN, all_aliases, people_around
from analytics_assets.events.tables import ACCOUNT_RECORDS, EVENTS, RECORDS
from analytics_assets.partitions import BusinessClock
from analytics_assets.saas.accounts.assets import ACCOUNT_MEMBERS, ACCOUNTS
from analytics_assets.settings import Settings
from analytics_assets.warehouse.assets import table_asset
from analytics_assets.warehouse.inputs import Needs
from analytics_assets.warehouse.lake import Window
from analytics_assets.warehouse.staged import Staged
from analytics_assets.warehouse.tables import Column, Publication, Table
from analytics_assets.warehouse.work import Platform, Work

_HERE = Path(__file__).parent
_ONE_DAY = timedelta(days=1)
USAGE_DAYS, NEWCOMERS = "usage_days", "newcomers"
_NOBODY = pl.DataFrame(schema={"as_of_date": pl.Date, "identity": pl.String, "user_id": pl.String})
DAYS_AT_ONCE = 7
"""A month of 20,000 accounts has 14 M rows, which are computed and put down a week at a time."""
# An hour reads the day so far; a day on which the clock goes back has 25 of them.
MOST_HOURS_OF_A_DAY = 25

_EVENT_DATE = Column("event_date", "DATE", "Business day of the events.")
_ACCOUNT = Column("account_id", "VARCHAR", "The account of the people, as it was at that time.")
_EVENTS = Column("events", "BIGINT", "What its people did; turns of its contract and bills are not among it.", "events")
_FEATURES = Column("features_used", "BIGINT", "Different features that they used.", "features")
_SESSIONS = Column(
    "sessions", "BIGINT", "Sessions begun: a person's first event after a pause (`[accounts] session_minutes`).", "sessions"
)

ACCOUNT_USAGE = Table(
    name="account_usage",
    rows_are="account and hour in which it was used",
    columns=(
        _EVENT_DATE,
        Column("hour", "TIMESTAMPTZ", "Instant at which the business hour begins."),
        _ACCOUNT,
        _EVENTS,
        Column("active_users", "BIGINT", "Different people who did something.", "people"),
        _FEATURES,
        _SESSIONS,
        Column(
            "seats",
            "BIGINT",
            "Seats named last for the account by the end of the hour; whose word a record is that names no account says the map of the evening "
            "before, as of all in the hour. NULL where none were named.",
            "seats",
            nullable=True,
        ),
    ),
    key=("hour", "account_id"),
    grain="hour",
    partition_column="event_date",
    publication=Publication(as_view=True),
)

ACCOUNT_DAYS = Table(
    name="account_days",
    rows_are="account, business day, and day of receipt on which its figures changed",
    columns=(
        _EVENT_DATE,
        _ACCOUNT,
        Column(
            "received_date",
            "DATE",
            "Business day by whose end this was known: all of the day's events, and namings of accounts, that had been received by then. Where "
            "the export does not say, an event was received when it happened.",
        ),
        _EVENTS,
        Column("active_users", "BIGINT", "Different people who did something.", "people"),
        Column("user_hours", "BIGINT", "Pairs of person and hour with an event.", "hours"),
        _FEATURES,
        _SESSIONS,
    ),
    key=("event_date", "account_id", "received_date"),
    grain="day",
    partition_column="event_date",
    publication=Publication(as_view=True),
)


def account_usage(work: Work) -> Mapping[str, Staged]:
    """What the people of every account did, hour by hour: events, active users, features used, sessions begun, and its seats.

    An event belongs to the account that it names, else to the one that its person had named last at that second, so that usage
    stays where it was when somebody moves to another account. Who is one person with whom is what was known the evening before. Where
    people are accounts, they are called as in `identities` of that evening: somebody of several names, joined before any of them was
    seen, is called by the smallest on the first day, and by the first seen from the next day on. What an account and a feature is say the
    settings under `[accounts]`. A session begins with a person's first event after a pause, whatever the account of the events before. Events of
    people who never named an account are in no row, and neither is what nobody does: the turns of a contract (`[subscriptions]`) and
    events named in `[accounts] not_usage`, such as a failed payment. This page counts them.

    Read it as the pulse of a customer: an hour without a row is an hour in which nobody did anything.
    """
    work.bound_memory()
    staged = work.stage(ACCOUNT_USAGE)
    counts = []
    work.connection.register(NEWCOMERS, _newcomers(work))
    for window in _weeks(work):
        parameters = _read(work, window, by_receipt=False)
        work.read(ACCOUNTS, _evenings_before(window))
        work.connection.register("account_seats", work.sql(_HERE / "account_seats.sql", **parameters).to_arrow_table())
        rows = work.rows_of(ACCOUNT_USAGE, work.sql(_HERE / "account_usage.sql").order("hour, account_id"))
        _append(staged, rows)
        counts.append(_count_events(work, rows, parameters["not_usage"]))
    work.metadata["events"] = _events_page(counts)
    return {ACCOUNT_USAGE.name: staged}


def account_days(work: Work) -> Mapping[str, Staged]:
    """What the people of every account did on a business day, as it was known by the end of that day and of each later one.

    A row is a function of what had been received by the end of its `received_date`, so that whoever learns from it knows no more than
    was known. It holds the whole day, with people, sessions and accounts as they were seen then, and stands until the next row of the
    same day and account: the newest row with `received_date <= day` is what was known by the end of `day`, and rows never add up. An
    account that turns out to have had no part in the day, since a naming that came late gives its people to another, has a last row of
    zeros. Accounts are those of `account_usage`.

    Read it as the diary of a customer, with every correction and the day on which it was made.
    """
    work.bound_memory()
    staged = work.stage(ACCOUNT_DAYS)
    counts = []
    work.connection.register(NEWCOMERS, _newcomers(work))
    for window in _weeks(work):
        parameters = _read(work, window, by_receipt=True)
        work.sql(_HERE / "account_uses.sql").create("account_uses")
        rows = work.rows_of(ACCOUNT_DAYS, work.sql(_HERE / "account_days.sql").order("event_date, account_id, received_date"))
        newest = rows.group_by(["event_date", "account_id"], use_threads=False).aggregate([("events", "last")])
        counts.append(_count_events(work, newest.rename_columns({"events_last": "events"}), parameters["not_usage"]))
        _append(staged, rows)
        for name in ("account_uses", "account_events"):
            work.connection.execute(f"DROP TABLE {name}")
    work.metadata["events"] = _events_page(counts)
    return {ACCOUNT_DAYS.name: staged}


def _weeks(work: Work) -> list[Window]:
    """The window in parts of so many business days."""
    clock, window = work.platform.clock, work.window
    begins = [max(window.start, clock.begins(day)) for day in work.days[::DAYS_AT_ONCE]]
    return [clock.window(*bounds) for bounds in pairwise([*begins, window.end])]


def _append(staged: Staged, rows: pa.Table) -> None:
    for day in sorted(rows["event_date"].unique().to_pylist()):
        staged.append(rows.filter(pc.field("event_date") == pa.scalar(day)))


def _read(work: Work, window: Window, by_receipt: bool) -> dict[str, Any]:
    """Make the events of a window readable with their accounts, as `account_events`; return what the statements are bound to."""
    parameters = usage_parameters(work.settings, by_receipt)
    since = window.start - timedelta(seconds=parameters["session_seconds"])
    first_day = work.platform.clock.day_of(since)
    days = f"event_date >= '{first_day}' AND event_date <= '{window.last_day}'"
    # Files hold whole hours: those before the hour that the look back begins in need not be opened.
    hours = f"hour >= '{(since - timedelta(hours=1)).isoformat()}' AND hour < '{window.end.isoformat()}'"
    work.read(EVENTS, f"{days} AND {hours}")
    _read_namings(work, window)
    work.connection.register(USAGE_DAYS, usage_days(work.platform.clock, window))
    work.sql(_HERE / "known_names.sql", **parameters).create_view("known_names")
    seen = work.sql(_HERE / "account_events.sql", **parameters)
    # A step each: with what follows in one statement, a day of 2 M events that were received on two days did not fit into memory.
    if by_receipt:
        seen.create("account_events")
    else:
        seen.create_view("account_events")
    return parameters


def _read_namings(work: Work, window: Window) -> None:
    work.read(ACCOUNT_RECORDS, f"event_date >= '{window.first_day}' AND event_date <= '{window.last_day}'")
    work.read(ACCOUNT_MEMBERS, _evenings_before(window))


def _newcomers(work: Work) -> pa.Table:
    """Who is new in the window: identity and person as of the evening before they are, in the map of that evening, with all whom it joins.

    `account_members` of the evening has none of them, and of the next all. New is who first names an account; where people are accounts,
    who is first seen. On that day they are called as in the map of the evening, when nobody of them had been seen: by the smallest of
    their named identities, else the smallest. Who of them comes first is not known to every hour of the day, nor at every receipt.
    """
    found = [_NOBODY]
    first = _first_seen(work) if work.settings.accounts.are == "people" else _first_namings(work)
    if len(first):
        zone = work.settings.business.time_zone
        people = people_around(first["identity"], first, all_aliases(work), work.settings.identity)
        for (day,), of_day in first.group_by(pl.col("first_seen_at").dt.convert_time_zone(zone).dt.date()):
            who = people.as_of(work.platform.clock.begins(day))[0].with_columns(user_id="customer_id")
            theirs = who.filter(pl.col("identity").is_in(of_day["identity"].implode()))["user_id"]
            joined = who.filter(pl.col("user_id").is_in(theirs.implode()))
            found.append(joined.select(pl.lit(day - _ONE_DAY).alias("as_of_date"), "identity", "user_id"))
    return pl.concat(found).to_arrow()


def _first_namings(work: Work) -> pl.DataFrame:
    _read_namings(work, work.window)
    return work.sql(_HERE / "first_namings.sql", evening=work.window.first_day - _ONE_DAY).pl()


def _first_seen(work: Work) -> pl.DataFrame:
    """One row per identity that is seen in the days of the window, up to its end, and was of nobody who had been before."""
    evening, start, end = work.window.first_day - _ONE_DAY, work.platform.clock.begins(work.window.first_day), work.window.end
    work.read(ACCOUNT_MEMBERS, f"as_of_date = '{evening}'")
    work.read(RECORDS, f"occurred_at >= '{start.isoformat()}' AND occurred_at < '{end.isoformat()}'")
    known = work.connection.sql(
        "SELECT identity FROM account_members WHERE as_of_date = $evening", params={"evening": evening}
    ).pl()
    return work.sql(FIRST_SEEN, start_at=start, end_at=end).pl().join(known, on="identity", how="anti")


def usage_parameters(settings: Settings, by_receipt: bool) -> dict[str, Any]:
    """What the settings say of accounts, features and sessions, as parameters of the statements."""
    accounts, turns = settings.accounts, settings.subscriptions
    of_contracts = turns.trial + turns.billed + turns.upgraded + turns.downgraded + turns.canceled
    return {
        "people_are_accounts": accounts.are == "people",
        "feature_events": list(accounts.feature_events),
        "every_event_is_a_feature": not accounts.feature_events,
        "not_features": list(accounts.not_features),
        "not_usage": list(of_contracts + accounts.not_usage),
        "session_seconds": accounts.session_minutes * 60,
        "blocked": list(settings.identity.blocked),
        "fold_email_case": settings.identity.fold_email_case,
        "time_zone": settings.business.time_zone,
        "by_receipt": by_receipt,
    }


def usage_days(clock: BusinessClock, window: Window) -> pa.Table:
    """One row per business day of the window: the day before it, and the seconds since 1970 from and before which events count."""
    count = (window.last_day - window.first_day).days + 1
    days = [window.first_day + timedelta(days=number) for number in range(count)]
    return pa.table(
        {
            "event_date": pa.array(days, pa.date32()),
            "evening_before": pa.array([day - _ONE_DAY for day in days], pa.date32()),
            "start_second": pa.array([int(max(clock.begins(day), window.start).timestamp()) for day in days], pa.int64()),
            "end_second": pa.array([int(min(clock.begins(day + _ONE_DAY), window.end).timestamp()) for day in days], pa.int64()),
        }
    )


def _evenings_before(window: Window) -> str:
    return f"as_of_date >= '{window.first_day - _ONE_DAY}' AND as_of_date <= '{window.last_day - _ONE_DAY}'"


def _count_events(work: Work, rows: pa.Table, not_usage: list[str]) -> tuple[int, int, int]:
    """How many events there are in the days that were read, how many of them are no usage, and how many `rows` count."""
    work.connection.register("counted", rows)
    ((events, unused, counted),) = work.connection.sql(
        """SELECT count(*), count(*) FILTER (list_contains($not_usage, name)), (SELECT coalesce(sum(events), 0) FROM counted)
        FROM events JOIN usage_days USING (event_date) WHERE occurred_second >= start_second AND occurred_second < end_second""",
        params={"not_usage": not_usage},
    ).fetchall()
    return events, unused, int(counted)


def _events_page(counts: list[tuple[int, int, int]]) -> str:
    events, unused, counted = (sum(column) for column in zip(*counts, strict=True))
    return f"{counted:,} of accounts + {events - unused - counted:,} of nobody's + {unused:,} that are no usage = {events:,}"


def usage_assets(platform: Platform, hourly: dg.AutomationCondition, daily: dg.AutomationCondition) -> list[dg.AssetsDefinition]:
    """The hourly asset `account_usage` and the daily asset `account_days`, each with its condition."""
    settings = ("accounts", "subscriptions", "identity")
    return [
        table_asset(
            platform,
            (ACCOUNT_USAGE,),
            account_usage,
            needs=[Needs("events", hourly=True, back=MOST_HOURS_OF_A_DAY), Needs("accounts", evening_before=True)],
            settings=settings,
            group="saas",
            condition=hourly,
        ),
        table_asset(
            platform,
            (ACCOUNT_DAYS,),
            account_days,
            needs=[Needs("events", hourly=True, back=1), Needs("accounts", evening_before=True)],
            settings=settings,
            group="saas",
            condition=daily,
        ),
    ]
