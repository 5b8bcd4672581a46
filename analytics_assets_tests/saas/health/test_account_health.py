"""Scores, bands, trends and reasons: by hand, against plain loops on random usage, and the same however they are made."""

import json
import math
import random
from collections import defaultdict
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest

from analytics_assets.saas.health.assets import ACCOUNT_HEALTH
from analytics_assets.saas.health.scoring import at_the_same_time, hours_between
from analytics_assets.settings import Health, SettingsError, parse_settings
from analytics_assets.warehouse.engine import engine

NOON = datetime(2026, 3, 31, 12, tzinfo=UTC)


def of(rows: pl.DataFrame, account: str) -> dict[str, Any]:
    (row,) = rows.filter(pl.col("account_id") == account).to_dicts()
    return row | {"components": json.loads(row["components"])}


# ------------------------------------------------------------------------------------------------------------ by hand


def test_a_lone_account_that_is_as_busy_as_before_has_all_its_points(vendor) -> None:
    """Without peers each component is its own past alone, 1 but for the seats: 3 of 4, 15 x 3 / 4 = 11.25 of 15."""
    vendor.used_daily("a", "2026-01-15", "2026-03-31", events=9, users=3, features=2, seats=4)
    vendor.open()
    row = of(vendor.health(NOON), "a")
    # Running totals of 30, 50, 70, 85 and 96.25, rounded to tenths.
    assert row["components"] == {"active_users": 30.0, "events": 20.0, "features": 20.0, "recency": 15.0, "seats": 11.3}
    assert (row["score"], row["band"], row["coverage"]) == (Decimal("96.3"), "healthy", Decimal("0.333"))
    assert row["trend"] == 0 and row["reasons"] is None


def test_a_fall_by_a_quarter_costs_half_of_it_beyond_chance(vendor) -> None:
    """40 user-hours a day became 30: 420 / 560 + 2 / sqrt(560) = 0.8345, twice that less 1 is 0.6690: 23.61 of 35.29, 88.32 in all."""
    vendor.used_daily("a", "2026-01-01", "2026-03-17", users=40, events=100)
    vendor.used_daily("a", "2026-03-18", "2026-03-31", users=30, events=100)
    vendor.open()
    row = of(vendor.health(NOON), "a")
    # Without seats the other weights are scaled from 85 to 100.
    assert row["components"]["active_users"] == 23.6
    assert row["score"] == Decimal("88.3")
    assert row["reasons"] == "hours of use down 25 % in 14 days against the 28 before"
    assert row["coverage"] == Decimal("0.283")


def test_an_account_of_which_nothing_is_heard_for_nine_days(vendor) -> None:
    """It came every day up to 22 March, noon: 216 hours before the hour of 31 March that begins at noon; 144 of 336 too many."""
    vendor.used_daily("a", "2026-01-01", "2026-03-22", users=40, events=100)
    vendor.open()
    row = of(vendor.health(NOON), "a")
    assert row["components"]["recency"] == pytest.approx(15 / 0.85 * (1 - 144 / 336), abs=0.1)
    # 200 of 560 user-hours and 500 of 1,400 events are less than half, also beyond chance: 30 and 20 points of 85. The pause
    # costs 15 x 144 / 336 = 6.4. 5 of 14 features are few: 5 / 14 + 2 / sqrt(14) = 0.8917, and 20 x 2 x 0.1083 = 4.3 come fourth.
    assert row["components"]["features"] == pytest.approx(20 * 0.7833 / 0.85, abs=0.1)
    assert (
        row["reasons"]
        == "hours of use down 64 % in 14 days against the 28 before; events down 64 % in 14 days against the 28 before; no activity for 9 days"
    )
    vendor.settings = "[health.weights]\nactive_users = 0\nevents = 0\nfeatures = 0\nrecency = 100\nseats = 0\n"
    assert of(vendor.health(NOON), "a")["reasons"] == "no activity for 9 days"


def test_a_fall_is_against_four_weeks_of_the_calendar_whenever_it_was_used_in_them(vendor) -> None:
    """Every Monday, by 40 and since 17 March by 20. The past are four Mondays of 28 days: 160 x 14 / 28 = 80, and now there are 40.

    The first of them is in the 23rd day before the last two weeks; who began then is told by those: 160 x 14 / 23 = 97.4.
    """
    for week in range(13):
        monday = datetime(2026, 1, 5, 9, tzinfo=UTC) + timedelta(weeks=week)
        for name in ("old", "new") if monday >= datetime(2026, 2, 23, tzinfo=UTC) else ("old",):
            vendor.used(name, monday, events=300, users=40 if monday < datetime(2026, 3, 17, tzinfo=UTC) else 20, features=9)
    for name, since in (("old", "2026-01-05"), ("new", "2026-02-23")):
        vendor.account(name, ("2026-03-30", "2026-03-30"), first_seen=since)
    vendor.open()
    rows = vendor.health(NOON)
    assert of(rows, "old")["reasons"] == "hours of use down 50 % in 14 days against the 28 before"
    assert of(rows, "new")["reasons"].split("; ")[0] == "hours of use down 59 % in 14 days against the 23 before"
    # Which person used it before a merger is not known, so that people are there since they were first used.
    vendor.settings = '[accounts]\nare = "people"\n'
    rows = vendor.health(NOON)
    assert of(rows, "old")["reasons"] == of(rows, "new")["reasons"]


def test_a_pause_within_twice_the_usual_gap_costs_nothing(vendor) -> None:
    """Every Monday up to 23 March: four active days in 28, a gap of a week, and two weeks of grace."""
    for week in range(12):
        vendor.used("a", datetime(2026, 1, 5, 9, tzinfo=UTC) + timedelta(weeks=week), events=50, users=20)
    vendor.open()
    after_13_days = of(vendor.health(datetime(2026, 4, 5, 9, tzinfo=UTC)), "a")
    assert after_13_days["components"]["recency"] == pytest.approx(15 / 0.85, abs=0.1)
    # Two days later six weeks begin before Monday 2 March: 4 active days in 23, 276 hours of grace; 360 - 276 of 336 too many.
    after_15_days = of(vendor.health(datetime(2026, 4, 7, 9, tzinfo=UTC)), "a")
    assert after_15_days["components"]["recency"] == pytest.approx(15 / 0.85 * 0.75, abs=0.1)


def test_who_was_silent_for_a_fortnight_is_told_to_be_silent_first(vendor) -> None:
    """Every two weeks up to 15 March, noon: a pause of 16 days is within the usual, and costs little."""
    for week in range(0, 11, 2):
        vendor.used("a", datetime(2026, 1, 4, 12, tzinfo=UTC) + timedelta(weeks=week), events=50, users=20, seats=40)
    vendor.open()
    row = of(vendor.health(datetime(2026, 3, 31, 12, tzinfo=UTC)), "a")
    assert row["components"]["recency"] == 15
    assert row["reasons"] == (
        "no activity for 16 days; hours of use down 100 % in 14 days against the 17 before; "
        "events down 100 % in 14 days against the 17 before"
    )


def test_a_score_below_the_healthy_edge_and_a_fall_have_a_reason(vendor) -> None:
    """Thirteen accounts as busy as ever, each a user ahead of the next: nothing fell, nobody but the last three is in the lowest quarter."""
    for number in range(13):
        vendor.used_daily(f"a{number:02}", "2026-01-01", "2026-03-31", users=20 + number, events=200, features=8)
    vendor.open()
    # 4 of 12 are behind: a third, and (1 + 2 / 3) / 3 of 35.29; events and features like everybody's, 2 / 3; recency all.
    below = of(vendor.health(NOON), "a04")
    assert below["score"] == Decimal("68.6") and below["trend"] == 0
    assert below["reasons"] == "hours of use ahead of only 33 % of other accounts"
    vendor.settings = "[health]\nhealthy = 68\n"
    assert of(vendor.health(NOON), "a04")["reasons"] is None
    # 27 users beside an average of 28.5 are within chance, but it fell from the eleventh place of the thirteen to the eighth.
    vendor.used_daily("b", "2026-01-01", "2026-03-03", users=30, events=200, features=8)
    vendor.used_daily("b", "2026-03-04", "2026-03-31", users=27, events=200, features=8)
    vendor.open()
    row = of(vendor.health(NOON), "b")
    assert (row["trend"], row["reasons"]) == (Decimal("-5.4"), None)
    vendor.settings = "[health]\nfalling = 5\n"
    assert of(vendor.health(NOON), "b")["reasons"] == "hours of use down 5 % in 14 days against the 28 before"


def test_silence_never_makes_an_account_healthier(vendor) -> None:
    """Tried for five days, then left: when its past becomes long enough to compare with, so few events might be chance."""
    vendor.used_daily("a", "2026-02-24", "2026-02-28", users=1, events=2)
    vendor.open()
    scores = [of(vendor.health(datetime(2026, 3, day, 9, tzinfo=UTC)), "a")["score"] for day in range(1, 32)]
    assert scores[0] > 0 == scores[-1] and scores == sorted(scores, reverse=True)


def test_who_was_never_used_is_at_risk_and_who_has_ended_is_not_there(vendor) -> None:
    span = ("2026-03-30", "2026-03-31")
    vendor.account("old", span, first_seen="2026-01-01", seats=5)
    vendor.account("new", span, first_seen="2026-03-20")
    vendor.account("gone", span, first_seen="2026-01-01", ended_on="2026-03-30")
    vendor.used_daily("gone", "2026-01-01", "2026-03-31")
    vendor.account("leaves today", span, first_seen="2026-01-01", ended_on="2026-03-31")
    vendor.open()
    rows = vendor.health(NOON)
    assert rows["account_id"].to_list() == ["leaves today", "new", "old"]
    assert rows["score"].to_list() == [0, 0, 0] and set(rows["band"]) == {"at risk"}
    assert of(rows, "old") | {"event_date": None} == {
        "event_date": None, "hour": NOON, "account_id": "old", "score": Decimal(0), "band": "at risk", "trend": Decimal(0),
        "components": {"active_users": 0, "events": 0, "features": 0, "recency": 0, "seats": 0}, "coverage": Decimal(1),
        "reasons": "no activity for more than 41 days",
    }  # fmt: skip
    new = of(rows, "new")
    assert new["trend"] is None and new["reasons"] == "no activity since it was first seen on 2026-03-20"
    assert new["coverage"] == Decimal("0.85")


def test_without_any_account_of_the_evening_before_usage_names_the_accounts(vendor) -> None:
    vendor.used_daily("active", "2026-03-20", "2026-03-31")
    vendor.used_daily("six weeks ago", "2026-01-01", "2026-02-16")
    vendor.open()
    rows = vendor.health(NOON)
    assert rows["account_id"].to_list() == ["active"]
    young = of(rows, "active")
    # Too young for a past, no peers, no seats: a third of recency is all that is known, and that makes no band.
    assert young["components"] == {"recency": 100.0} and young["coverage"] == Decimal("0.05") and young["trend"] is None
    assert (young["score"], young["band"]) == (100, None)


def test_a_score_of_which_too_little_is_known_moves_no_band(vendor) -> None:
    """Alone, it has 100 points until its past is long enough; the evenings before count in no band, which begins with what is known."""
    vendor.used_daily("a", "2026-03-01", "2026-03-14", users=40, events=100)
    vendor.used_daily("a", "2026-03-15", "2026-04-10", users=22, events=55)
    vendor.open()
    evenings = [datetime(2026, 3, 27, 23, tzinfo=UTC), datetime(2026, 3, 28, 23, tzinfo=UTC)]
    before, first = (of(vendor.health(hour), "a") for hour in evenings)
    assert (before["score"], before["coverage"], before["band"]) == (100, Decimal("0.050"), None)
    # 308 of 560 user-hours and 770 of 1,400 events: 50 points of 85 count by a fifth to a third, which is below 67 and above 43.
    assert 43 < first["score"] < 67 and first["coverage"] == Decimal("0.283") and first["band"] == "neutral"


def test_a_name_that_was_merged_is_no_account_and_one_first_used_today_is(vendor) -> None:
    """`accounts` of the evening before knows the person; the device was used up to 22:00 and was then found to be hers."""
    vendor.used_daily("device", "2026-03-20", "2026-03-30", at=22)
    vendor.account("ann", ("2026-03-30", "2026-03-31"), first_seen="2026-03-20")
    vendor.used("ann", datetime(2026, 3, 31, 9, tzinfo=UTC))
    vendor.used("new", datetime(2026, 3, 31, 0, tzinfo=UTC))
    vendor.open()
    assert vendor.health(NOON)["account_id"].to_list() == ["ann", "new"]


def test_nothing_at_all_gives_no_rows(vendor) -> None:
    assert vendor.health(NOON).is_empty()


def test_an_account_whose_events_have_no_users_is_scored(vendor) -> None:
    vendor.used_daily("a", "2026-01-01", "2026-03-31", users=0, events=5, features=0)
    vendor.open()
    assert of(vendor.health(NOON), "a")["score"] == 100


def test_without_any_known_component_there_is_no_score(vendor) -> None:
    vendor.settings = "[health.weights]\nactive_users = 0\nevents = 0\nfeatures = 0\nrecency = 0\nseats = 100\n"
    vendor.used_daily("a", "2026-01-01", "2026-03-31")
    vendor.account("b", ("2026-03-30", "2026-03-30"), first_seen="2026-01-01")
    vendor.open()
    for row in vendor.health(NOON).to_dicts():
        assert (row["score"], row["band"], row["components"], row["coverage"]) == (None, None, "{}", 0)


def test_no_account_is_blamed_for_what_befalls_all(vendor) -> None:
    """Everybody does half in the last two weeks; one does nothing less."""
    for number in range(12):
        vendor.used_daily(f"a{number:02}", "2026-01-01", "2026-03-17", users=40, events=200, features=8)
        vendor.used_daily(f"a{number:02}", "2026-03-18", "2026-03-31", users=20, events=100, features=4)
    vendor.used_daily("steady", "2026-01-01", "2026-03-31", users=40, events=200, features=8)
    vendor.used_daily("far less", "2026-01-01", "2026-03-17", users=40, events=200, features=8)
    vendor.used_daily("far less", "2026-03-18", "2026-03-31", users=5, events=25, features=1)
    vendor.open()
    rows = vendor.health(NOON)
    usual, worse, better = of(rows, "a00"), of(rows, "far less"), of(rows, "steady")
    # The median ratio, a half, is theirs: nothing fell. One of 13 others is behind and 11 are equal, 6.5 / 13: peers 0.5.
    assert usual["components"]["active_users"] == pytest.approx((1 + 2 * 0.5) / 3 * 30 / 0.85, abs=0.1)
    # ((30 + 20 + 20) x 2 / 3 + 15) / 0.85 = 72.55, on each of the 28 evenings: not 3 points beyond an edge, and above 70 on the first.
    assert usual["score"] == Decimal("72.5")
    assert usual["reasons"] is None and usual["band"] == "healthy"
    assert worse["components"]["active_users"] == 0 and worse["reasons"].startswith(
        "hours of use down 88 % in 14 days against the 28 before"
    )
    assert better["components"]["active_users"] == pytest.approx(30 / 0.85, abs=0.1)


def test_weights_that_do_not_sum_to_100_are_refused_by_name() -> None:
    text = '[business]\ntime_zone = "UTC"\ncurrency = "GBP"\n[health.weights]\nseats = 14\n'
    with pytest.raises(SettingsError, match=r"analytics.toml:4: health.weights: the weights must sum to 100, but .* = 99"):
        parse_settings(text, "analytics.toml")


def test_hours_of_one_time_of_day_share_their_blocks_and_the_first_of_an_hour_that_comes_twice_stands_alone(vendor) -> None:
    def grouped(work):
        return at_the_same_time(work, hours_between(work.window.start, work.window.end))

    vendor.zone = "Europe/London"
    for first, alone in ((date(2026, 3, 28), 0), (date(2026, 10, 24), 1)):
        start, end = (vendor.platform.clock.begins(first + timedelta(days=n)) for n in (0, 3))
        groups = vendor.compute(grouped, start, end)
        assert sorted(hour for group in groups for hour in group) == hours_between(start, end)
        assert len(groups) == 24 + alone and groups[-1][-1] == end - timedelta(hours=1)
        for group in groups:
            times = [hour.astimezone(ZoneInfo("Europe/London")).time() for hour in group]
            assert len(set(times)) == 1 and group == sorted(group)
    assert [group for group in groups if len(group) == 1] == [[datetime(2026, 10, 25, 0, tzinfo=UTC)]]


# ---------------------------------------------------------------------------------------------- beside plain loops


def expected(vendor, hour: datetime) -> dict[str, dict[str, Any]]:
    """What the page of `account_health` says, computed account by account from the hours that were written down."""
    health = vendor.platform.settings.health
    weights = dict(health.weights)
    clock = vendor.platform.clock
    evening = clock.day_of(hour) - timedelta(days=1)
    known = {row["account_id"]: row for row in vendor.accounts if row["as_of_date"] == evening}
    usage = defaultdict(dict)
    for row in vendor.usage:
        usage[row["account_id"]][row["hour"]] = row

    zone = ZoneInfo(vendor.zone)

    def wall(when: datetime) -> datetime:
        return when.astimezone(zone).replace(tzinfo=None)

    def halves(end: datetime) -> dict[str, dict[str, Any]]:
        """By account what can be known at a time on the clock of the wall, and no later than the hour."""
        last = end - timedelta(hours=1)
        moment = min(last.replace(tzinfo=zone, fold=1).astimezone(UTC), hour)
        found: dict[str, dict[str, Any]] = {}
        for account, hours in usage.items():
            days: dict[int, list[dict[str, Any]]] = defaultdict(list)
            for when, row in hours.items():
                if when <= moment and (back := (last - wall(when)) // timedelta(days=1)) < 42:
                    days[back].append(row)
            if not days:
                continue
            totals = {
                "active_users": {back: sum(r["active_users"] for r in rows) for back, rows in days.items()},
                "events": {back: sum(r["events"] for r in rows) for back, rows in days.items()},
                "features": {back: max(r["features_used"] for r in rows) for back, rows in days.items()},
            }
            recent = [r for back, rows in days.items() if back < 14 for r in rows]
            newest = max((r for rows in days.values() for r in rows), key=lambda r: r["hour"])
            with_seats = [r for rows in days.values() for r in rows if r["seats"] is not None and r["seats"] > 0]
            # It is there since its first event of six weeks, or since the day after it was first named.
            age = (last.date() - known[account]["first_seen_date"]).days if account in known else 0
            there = min(max(max(days) + 1, age), 42)
            past = there - 14
            found[account] = {
                "now": {name: sum(v for back, v in by_day.items() if back < 14) for name, by_day in totals.items()},
                "expected": {
                    name: sum(v for back, v in by_day.items() if back >= 14) * 14 / past for name, by_day in totals.items()
                }
                if past >= 14
                else None,
                "days": min(there, 14),
                "past": past,
                "idle": (moment - newest["hour"]) // timedelta(hours=1),
                "gap": past / sum(1 for back in days if back >= 14) if past >= 14 else 0,
                "peak": max((r["active_users"] for r in recent), default=0),
                "seats": max(with_seats, key=lambda r: r["hour"])["seats"] if with_seats else None,
            }
        for name, clustered in (("active_users", 1), ("events", 6), ("features", 1)):
            with_past = [(f["now"][name], f["expected"][name]) for f in found.values() if f["expected"]]
            ratios = sorted(now / before if before else 1 for now, before in with_past)
            usual = ratios[(len(ratios) + 1) // 2 - 1] if len(ratios) > 10 else 1
            for f in found.values():
                own = None
                if f["expected"]:
                    fair = f["expected"][name] * usual
                    left = f["now"][name] / fair + 2 * math.sqrt(clustered / fair) if fair else 1
                    own = min(1, max(0, 2 * left - 1)) if f["now"]["events"] else 0
                f.setdefault("own", {})[name] = own
        for f in found.values():
            f["own"]["recency"] = min(1, max(0, 1 - (f["idle"] - max(72, 48 * f["gap"])) / 336))
            f["own"]["seats"] = min(1, f["peak"] / f["seats"]) if f["seats"] else None
        for account, f in found.items():
            alike = [o for name, o in found.items() if name != account and bool(o["seats"]) == bool(f["seats"])]
            others = [o for name, o in found.items() if name != account]

            def place(others: list[dict[str, Any]], level, f=f) -> float | None:
                if len(others) < 10:
                    return None
                return sum(1 if level(o) < level(f) else 0.5 if level(o) == level(f) else 0 for o in others) / len(others)

            def per_seat(name: str, crowd=(*alike, f)):
                average = sum(o["now"][name] for o in crowd) / sum(o["days"] * (o["seats"] or 1) for o in crowd)
                return lambda one: (one["now"][name] / one["days"] + 4 * average) / ((one["seats"] or 1) + 4)

            f["peers"] = {
                "active_users": place(alike, per_seat("active_users")),
                "events": place(alike, per_seat("events")),
                "features": place(alike, lambda o: o["now"]["features"] / (o["days"] * math.sqrt(o["seats"] or 1))),
                "seats": place(alike, per_seat("active_users")) if f["seats"] else None,
                "recency": None,
            }
            for name, count in {**f["now"], "seats": f["now"]["active_users"]}.items():
                if f["peers"][name] is not None and count == 0:
                    f["peers"][name] = 0
            if len(others) >= 10:
                pause = max(f["idle"] // 24 - 2, 0)
                f["peers"]["recency"] = sum(max(o["idle"] // 24 - 2, 0) >= pause for o in others) / len(others)
            thirds = (("own", 1), ("peers", 2))
            there = {n: [(share, f[part][n]) for part, share in thirds if f[part][n] is not None] for n in weights}
            f["weight"] = sum(weights[n] / 3 * share for n, values in there.items() for share, _ in values)
            total, shown, f["shares"] = 0.0, 0, {}
            for name, values in there.items():
                total += weights[name] / 3 * sum(share * value for share, value in values)
                tenths = math.floor(1000 * total / f["weight"] + 0.5)
                if values:
                    f["shares"][name] = tenths - shown
                shown = tenths
            f["score"] = shown
        return found

    judged_on = clock.day_of(hour + timedelta(hours=1)) - timedelta(days=1)
    midnight, end = datetime.combine(judged_on, time.min) + timedelta(days=1), wall(hour) + timedelta(hours=1)
    evenings = [halves(midnight - timedelta(days=back)) for back in range(27, -1, -1)]
    at_hour, month_before = halves(end), halves(end - timedelta(days=28))
    result = {}
    for account in set(at_hour) | set(known):
        if account in known and known[account]["ended_on"] is not None:
            continue
        now = at_hour.get(account)
        used_today = now and clock.day_of(hour - timedelta(hours=now["idle"])) == clock.day_of(hour)
        if known and account not in known and not used_today:
            continue
        score = now["score"] if now else 0
        judged = [e[account]["score"] for e in evenings if account in e and known_enough(e[account])]
        judged = judged if now and account in evenings[-1] else []
        scores = judged or [score]
        band = "healthy" if scores[0] >= 10 * health.healthy else "at risk" if scores[0] < 10 * health.at_risk else "neutral"
        for tenths in scores:
            up, down, slack = 10 * health.healthy, 10 * health.at_risk, 10 * health.hysteresis
            if (band == "healthy" and tenths < up - slack) or (band == "at risk" and tenths >= down + slack):
                band = "neutral"
            if band == "neutral":
                band = "healthy" if tenths >= up + slack else "at risk" if tenths < down - slack else "neutral"
        then = None
        if account in month_before:
            then = month_before[account]["score"] if month_before[account]["days"] == 14 else None
        elif account in known and known[account]["first_seen_date"] <= clock.day_of(hour) - timedelta(days=42):
            then = 0
        result[account] = {
            "score": score / 10,
            "band": band if judged or not now or known_enough(now) else None,
            "trend": None if then is None else (score - then) / 10,
            "now": now,
            "components": {name: tenths / 10 for name, tenths in now["shares"].items()} if now else None,
            "coverage": now["weight"] / 100 if now else None,
        }
    return result


def known_enough(figures: dict[str, Any]) -> bool:
    """Whether a fifth of the weight is known, to the thousandth."""
    return math.floor(10 * figures["weight"] + 0.5) >= 200


def fill(vendor, seed: int, accounts: int = 26, days: int = 80, known_until: str = "2026-03-22") -> None:
    """Accounts of all kinds: busy and idle, with and without seats, young, fading, back after a pause, ended, known or not."""
    chance = random.Random(seed)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    for number in range(accounts):
        name, level = f"a{number:02}", chance.choice([1, 2, 5, 15])
        born, stops = chance.choice([0, 0, 0, 30, 50, 70]), chance.choice([days, days, days, 78, 70, 60, 30])
        pause = chance.choice([(0, 0), (0, 0), (35, 60), (62, 72)])
        seats = chance.choice([None, 3, 10, 10])
        for hour in range(24 * days):
            day = hour // 24
            if not born <= day < stops or pause[0] <= day < pause[1]:
                continue
            share = 0.25 * (0.3 if day % 7 > 4 else 1) * (1.2 - 0.9 * (number % 3 == 0) * max(0, (day - 50) / 30))
            if chance.random() < share:
                users = chance.randint(0, level)
                if chance.random() < 0.01 and seats is not None:
                    seats += chance.choice([-1, 2])
                named = seats if chance.random() < 0.5 else None
                vendor.used(
                    name,
                    start + timedelta(hours=hour),
                    users + chance.randint(1, 3 * level),
                    users,
                    chance.randint(0, level),
                    named,
                )
        if number % 7:
            ended = chance.choice([None, None, "2026-03-15", "2026-03-19"])
            vendor.account(name, ("2026-03-01", known_until), str(date(2026, 1, 1) + timedelta(days=born)), seats, ended)
    vendor.account("never used", ("2026-03-01", known_until), "2026-01-20", 7)


@pytest.mark.parametrize("seed", range(5))
def test_random_accounts_have_the_health_that_plain_loops_find(vendor, seed: int) -> None:
    vendor.settings = "[health]\nhealthy = 65\nat_risk = 45\nhysteresis = 6\n" if seed % 2 else ""
    fill(vendor, seed, accounts=26 if seed < 4 else 8)
    vendor.open()
    seen, reasons_due, silent = compare(vendor, [datetime(2026, 3, 20, 7, tzinfo=UTC), datetime(2026, 3, 21, 23, tzinfo=UTC)])
    assert reasons_due and (silent or seed != 3)
    assert seen >= {"healthy", "neutral", "at risk"} or seed == 4


CLOCK_CHANGES = {
    # Forward at 1:00 UTC on 29 March: the hours before and after it, an evening, and a day on which all past days are shifted.
    "Europe/London": ["2026-03-29T00:00", "2026-03-29T01:00", "2026-03-29T22:00", "2026-04-02T11:00"],
    # Back at 16:30 UTC on 4 April: the hour that comes twice, the evening of the long day before, and the next.
    "Australia/Adelaide": ["2026-04-04T15:30", "2026-04-04T16:30", "2026-04-05T13:30", "2026-04-06T03:30"],
}


@pytest.mark.parametrize("zone", CLOCK_CHANGES)
def test_days_end_with_the_same_time_of_the_clock_before_and_after_it_changes(vendor, zone: str) -> None:
    vendor.zone = zone
    fill(vendor, 21, days=96, known_until="2026-04-06")
    for row in vendor.usage:
        row["hour"] += timedelta(minutes=30 if zone == "Australia/Adelaide" else 0)
        row["event_date"] = vendor.platform.clock.day_of(row["hour"])
    vendor.open()
    seen, *_ = compare(vendor, [datetime.fromisoformat(f"{hour}+00:00") for hour in CLOCK_CHANGES[zone]])
    assert seen >= {"healthy", "neutral", "at risk"}


def compare(vendor, hours: list[datetime]) -> tuple[set[str], int, int]:
    """Hold hours against plain loops; the bands that came, how many rows were due a reason, and how many had been silent."""
    seen, reasons_due, silent = set(), 0, 0
    for hour in hours:
        found, wanted = vendor.health(hour), expected(vendor, hour)
        assert set(found["account_id"]) == set(wanted)
        for row in found.to_dicts():
            want, components = wanted[row["account_id"]], json.loads(row["components"])
            seen.add(row["band"])
            assert (float(row["score"]), row["band"]) == (want["score"], want["band"]), row
            assert row["trend"] == want["trend"] or float(row["trend"]) == want["trend"]
            assert sum(map(Decimal, map(str, components.values()))) == row["score"]
            if want["now"]:
                assert components == want["components"]
                assert float(row["coverage"]) == pytest.approx(want["coverage"], abs=0.0005001)
                health = vendor.platform.settings.health
                due = want["score"] < health.healthy or (want["trend"] or 0) <= -health.falling
                assert_true(row["reasons"], want["now"], costs_of(want["now"], health) if due else {})
                reasons_due += due
                silent += want["now"]["idle"] >= 14 * 24
    return seen, reasons_due, silent


COMPONENT_OF = {
    "hours of use": "active_users", "events": "events", "features in": "features", "no activity": "recency", "at most": "seats",
}  # fmt: skip


def costs_of(figures: dict[str, Any], health: Health) -> dict[str, float]:
    """What each component takes, in parts of its weight and of the weights that are known."""
    return {
        name: weight
        * sum(share * (1 - figures[part][name]) for part, share in (("own", 1), ("peers", 2)) if figures[part][name] is not None)
        for name, weight in health.weights
    }


def assert_true(reasons: str | None, figures: dict[str, Any], costs: dict[str, float]) -> None:
    """Each figure in a reason is that of the account; silence comes first, then what costs most where a reason is due (`costs`)."""
    said = (reasons or "").split("; ")
    named = [next((n for words, n in COMPONENT_OF.items() if reason.startswith(words)), None) for reason in said]
    silent = figures["idle"] >= 14 * 24
    if silent:
        assert named[0] == "recency"
    if costs:
        most = {name for name, cost in costs.items() if cost > max(costs.values()) - 1e-9}
        assert named[0] in most or (silent and (most == {"recency"} or named[1] in most)), (reasons, costs)
    for reason in said:
        match reason.split():
            case [*what, "down", percent, "%", "in", "14", "days", "against", "the", days, "before"]:
                name = {"hours of use": "active_users", "events": "events", "features in use": "features"}[" ".join(what)]
                assert int(percent) == math.floor(100 * (1 - figures["now"][name] / figures["expected"][name]) + 0.5) > 0
                assert int(days) == figures["past"]
            case ["no", "activity", "for", days, "days"]:
                assert int(days) == figures["idle"] // 24 >= 3
            case [*what, "ahead", "of", "only", percent, "%", "of", "other", "accounts"]:
                name = {"hours": "active_users", "events": "events", "features": "features"}[what[0]]
                assert name in most
                assert int(percent) == math.floor(100 * figures["peers"][name] + 0.5) >= 25
            case ["at", "most", users, "of", seats, "seats", "in", "use", "in", "an", "hour"]:
                assert (int(users), int(seats)) == (figures["peak"], figures["seats"])
                low = figures["peers"]["seats"]
                assert (costs and costs["seats"] >= max(costs.values()) - 1e-9) or (
                    figures["own"]["seats"] < 0.5 if low is None else low < 0.25
                )
            case [*what, "among", "the", "lowest", part]:
                name = {"hours": "active_users", "events": "events", "features": "features"}[what[0]]
                assert figures["peers"][name] < {"tenth": 0.1, "quarter": 0.25}[part]
            case [*what, "grew", "less", "than", "at", "other", "accounts"]:
                name = {"hours": "active_users", "events": "events", "features": "features"}[what[0]]
                assert figures["own"][name] < 1
            case []:
                pass
            case other:
                raise AssertionError(other)


# ------------------------------------------------------------------------------------ the same hour, however it is made


def test_a_range_of_hours_is_what_the_hours_are_alone_in_any_order(vendor) -> None:
    """In a zone half an hour away from full hours, whose clock goes back within the range, at 16:30 UTC on 4 April."""
    vendor.zone = "Australia/Adelaide"
    fill(vendor, seed=11, accounts=12, days=100)
    for row in vendor.usage:
        row["hour"] += timedelta(minutes=30)
        row["event_date"] = vendor.platform.clock.day_of(row["hour"])
    vendor.account("a01", ("2026-04-01", "2026-04-08"), "2026-01-01", 5, "2026-04-04")
    vendor.account("a05", ("2026-04-01", "2026-04-08"), "2026-01-01", 5)
    vendor.open()
    start = datetime(2026, 4, 4, 3, 30, tzinfo=UTC)
    hours = [start + timedelta(hours=number) for number in range(26)]
    offsets = {hour.astimezone(ZoneInfo(vendor.zone)).utcoffset() for hour in hours}
    assert offsets == {timedelta(hours=10, minutes=30), timedelta(hours=9, minutes=30)}
    together = vendor.health(start, hours=len(hours))
    assert together["hour"].n_unique() == len(hours) and together["band"].n_unique() > 1
    random.Random(5).shuffle(hours)
    alone = pl.concat([vendor.health(hour) for hour in hours])
    assert digests(alone) == digests(together)


def test_a_band_moves_only_with_the_hour_that_ends_a_day_when_its_score_lies_beyond_the_edge(vendor) -> None:
    """Over nine days of hours; the clock of London goes forward on 29 March. Who had none, as too little was known, has one at once."""
    vendor.zone = "Europe/London"
    fill(vendor, seed=3, days=92)
    vendor.open()
    clock, health = vendor.platform.clock, vendor.platform.settings.health
    rows = vendor.health(clock.begins(date(2026, 3, 23)), hours=24 * 9).with_columns(pl.col("score").cast(pl.Float64))
    moved = 0
    for of_account in rows.sort("account_id", "hour").partition_by("account_id"):
        for before, row in pairwise(of_account.iter_rows(named=True)):
            if row["band"] == before["band"] or before["band"] is None:
                continue
            moved += 1
            score, bands = row["score"], {before["band"], row["band"]}
            assert clock.day_of(row["hour"] + timedelta(hours=1)) > row["event_date"], row
            if "healthy" in bands:
                assert not abs(score - health.healthy) < health.hysteresis, row
            if "at risk" in bands:
                assert not abs(score - health.at_risk) < health.hysteresis, row
    assert moved > 5


def digests(rows: pl.DataFrame) -> list[tuple[Any, ...]]:
    """Partition, number of rows and digest of each day, as they are recorded for a materialisation."""
    with engine() as connection:
        connection.register("rows", rows.to_arrow())
        connection.register("declared", connection.sql(ACCOUNT_HEALTH.typed_select("rows")).to_arrow_table())
        return sorted(connection.sql(ACCOUNT_HEALTH.digest_select("declared")).fetchall())


def test_what_happens_after_the_hour_changes_nothing(vendor) -> None:
    fill(vendor, seed=12)
    vendor.open()
    hour = datetime(2026, 3, 10, 15, tzinfo=UTC)
    before = vendor.health(hour)
    vendor.usage = [row for row in vendor.usage if row["hour"] <= hour]
    vendor.accounts = [row for row in vendor.accounts if row["as_of_date"] <= date(2026, 3, 9)]
    vendor.open()
    assert vendor.health(hour).equals(before) and not before.is_empty()


def test_components_are_json_and_csv_keeps_every_text(vendor, tmp_path) -> None:
    fill(vendor, seed=13)
    vendor.open()
    rows = vendor.health(datetime(2026, 3, 21, 9, tzinfo=UTC))
    rows.write_csv(tmp_path / "health.csv")
    again = pl.read_csv(tmp_path / "health.csv")
    assert (
        again["reasons"].to_list() == rows["reasons"].to_list() and again["components"].to_list() == rows["components"].to_list()
    )
    assert {name for text in again["components"] for name in json.loads(text)} == {name for name, _ in Health().weights}
    assert rows.columns == ACCOUNT_HEALTH.column_names
