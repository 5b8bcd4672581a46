"""The list of falling accounts: against account_health day by day, by hand, and through Dagster."""

from datetime import UTC, date, datetime, timedelta

import dagster as dg
import polars as pl

from analytics_assets.saas.health.falling import SINCE_DAYS, falling_accounts, falling_accounts_asset
from analytics_assets_tests.saas.health.test_outcomes import checks, materialize

FIRST, LAST = date(2026, 3, 24), date(2026, 4, 2)


def company(vendor) -> None:
    """In London, over the change of the clocks: steady accounts, and others that fall to a third at different days or for good."""
    vendor.zone = "Europe/London"
    for number in range(12):
        vendor.used_daily(f"steady{number:02}", "2025-12-20", "2026-04-02", events=50 + number, users=20 + number, features=4)
    falls = {"early": "2026-02-20", "middle": "2026-03-10", "late": "2026-03-24", "gone": "2026-03-25", "ended": "2026-03-10"}
    for name, day in falls.items():
        vendor.used_daily(name, "2025-12-20", day, events=60, users=25, features=4)
        if name != "gone":
            after = (date.fromisoformat(day) + timedelta(days=1)).isoformat()
            vendor.used_daily(name, after, "2026-04-02", events=12, users=5, features=2)
    vendor.used_daily("back", "2025-12-20", "2026-03-12", events=60, users=25, features=4)
    vendor.used_daily("back", "2026-03-25", "2026-04-02", events=90, users=40, features=4)
    for name in {*(row["account_id"] for row in vendor.usage)}:
        ended = "2026-03-28" if name == "ended" else None
        vendor.account(name, ("2026-03-01", "2026-04-02"), "2025-12-20", ended_on=ended)
    for row in vendor.accounts:
        row["mrr"] = 100 if row["account_id"] == "late" else 20
    vendor.open()


def falling(vendor, first: date, last: date) -> pl.DataFrame:
    clock = vendor.platform.clock
    rows = vendor.compute(falling_accounts, clock.begins(first), clock.begins(last + timedelta(days=1)))
    return pl.DataFrame(rows["falling_accounts"]).sort("as_of_date", "account_id")


def by_health(vendor, day: date) -> dict[str, tuple[float, date]]:
    """The score of each falling account and since when, from `account_health` of the last hour of each day up to it."""
    trends: dict[str, list[float]] = {}
    for back in range(SINCE_DAYS + 1):
        hour = vendor.platform.clock.begins(day + timedelta(days=1 - back)) - timedelta(hours=1)
        rows = vendor.health(hour.astimezone(UTC))
        for name, score, trend in rows.select("account_id", "score", pl.col("trend").cast(pl.Float64)).rows():
            trends.setdefault(name, []).append((score, trend if trend is not None else 0.0))
    ended = {row["account_id"] for row in vendor.accounts if row["as_of_date"] == day and row["ended_on"]}
    found = {}
    for name, past in trends.items():
        if past[0][1] <= -15 and name not in ended:
            first = max(back for back, (_, trend) in enumerate(past) if trend <= -15)
            found[name] = (past[0][0], day - timedelta(days=first))
    return found


def test_the_list_is_account_health_at_the_end_of_each_day(vendor) -> None:
    company(vendor)
    rows = falling(vendor, FIRST, LAST)
    for day in (date(2026, 3, 29), LAST):
        told = {row["account_id"]: (row["score"], row["falling_since"]) for row in rows.filter(as_of_date=day).to_dicts()}
        assert told == by_health(vendor, day), day
    began = rows.filter(pl.col("falling_since") == pl.col("as_of_date"))
    assert {"late", "gone"} <= set(began["account_id"])
    # Falling before the days that are looked at, recovered, ended: none of these is new, or on the list at all.
    assert "early" not in set(rows["account_id"]) or rows.filter(account_id="early")["falling_since"].max() < FIRST
    assert "back" in set(rows.filter(as_of_date=FIRST)["account_id"]) and "back" not in set(
        rows.filter(as_of_date=LAST)["account_id"]
    )
    assert rows.filter(account_id="ended")["as_of_date"].max() == date(2026, 3, 27)
    assert not rows["account_id"].str.starts_with("steady").any()


def test_a_day_alone_is_the_day_of_a_range_over_the_change_of_the_clocks(vendor) -> None:
    company(vendor)
    ranged = falling(vendor, FIRST, LAST)
    for day in (date(2026, 3, 28), date(2026, 3, 29), date(2026, 3, 30)):
        assert falling(vendor, day, day).equals(ranged.filter(as_of_date=day))


def test_the_threshold_is_a_setting(vendor) -> None:
    company(vendor)
    usual = falling(vendor, LAST, LAST)
    vendor.settings = "[health]\nfalling = 60\n"
    assert falling(vendor, LAST, LAST).height < usual.height


def test_who_began_to_fall_is_named_by_what_it_pays_and_nobody_else(vendor) -> None:
    vendor.first_day = date(2026, 3, 1)
    company(vendor)
    began = falling(vendor, FIRST, LAST).filter(account_id="late")["falling_since"][0]
    assert began >= FIRST

    asset = falling_accounts_asset(vendor.platform, dg.AutomationCondition.eager())
    result = materialize(vendor, asset, began.isoformat())
    assert result.success and checks(result) == {
        "inputs_ready": True, "as_declared": True, "falls_are_falls": True, "nobody_began_to_fall": False,
    }  # fmt: skip
    (warned,) = [one for one in result.get_asset_check_evaluations() if one.check_name == "nobody_began_to_fall"]
    assert warned.severity == dg.AssetCheckSeverity.WARN and "account_id late" in warned.metadata["found"].value[0]
    assert not any("early" in row or "steady" in row for row in warned.metadata["found"].value)
    (event,) = result.asset_materializations_for_node("falling_accounts")
    assert "data:image/png" in event.metadata["plot"].value

    quiet = materialize(vendor, asset, "2026-03-31")
    assert quiet.success and checks(quiet)["nobody_began_to_fall"]


def test_a_home_too_young_to_tell_has_an_empty_list_and_a_plot(vendor) -> None:
    vendor.first_day = date(2026, 3, 20)
    vendor.used_daily("new", "2026-03-20", "2026-03-31", events=50, users=20, features=4)
    vendor.account("new", ("2026-03-20", "2026-03-31"), "2026-03-20")
    vendor.open()
    result = materialize(vendor, falling_accounts_asset(vendor.platform, dg.AutomationCondition.eager()), "2026-03-31")
    assert result.success and all(checks(result).values())
    hour = datetime(2026, 3, 31, 23, tzinfo=UTC)
    assert vendor.health(hour)["trend"].to_list() == [None]


def test_who_was_there_for_less_than_a_fortnight_four_weeks_ago_falls_nowhere(vendor) -> None:
    """Two accounts of which 14 and 13 days were known on 3 March, the fourteenth being that of its first event, do a tenth since the 17th."""
    vendor.zone = "UTC"
    for number in range(12):
        vendor.used_daily(f"steady{number:02}", "2025-12-20", "2026-04-30", events=50 + number, users=20 + number, features=4)
    begins = {"there": "2026-02-18", "young": "2026-02-19"}
    for name, day in begins.items():
        vendor.used_daily(name, day, "2026-03-16", events=60, users=25, features=4)
        vendor.used_daily(name, "2026-03-17", "2026-04-30", events=6, users=2, features=1)
    for name in {row["account_id"] for row in vendor.usage}:
        vendor.account(name, ("2026-02-17", "2026-04-30"), begins.get(name, "2025-12-20"))
    vendor.open()
    day = date(2026, 3, 31)
    health = {row["account_id"]: row for row in vendor.health(datetime(2026, 3, 31, 23, tzinfo=UTC)).to_dicts()}
    assert health["there"]["trend"] <= -15 and health["young"]["trend"] is None
    assert falling(vendor, day, day)["account_id"].to_list() == ["there"]
    of_falling = vendor.outcomes(day + timedelta(days=30)).filter(band="falling")
    assert of_falling["accounts"].to_list() == [1]
    # A day later the young one has its fortnight.
    assert falling(vendor, day + timedelta(days=1), day + timedelta(days=1))["account_id"].to_list() == ["there", "young"]


def test_the_reasons_say_what_fell_and_since_when(vendor) -> None:
    """A team of ten uses half of what it did in February, and has bought as many seats again; its low place of before is no news."""
    for number in range(12):
        vendor.used_daily(f"steady{number:02}", "2025-12-20", "2026-03-31", events=200, users=20, features=4, seats=10)
    vendor.used_daily("low", "2025-12-20", "2026-03-31", events=1, users=1, features=1, seats=10)
    vendor.used_daily("less", "2025-12-20", "2026-03-10", events=200, users=10, features=4, seats=10)
    vendor.used_daily("less", "2026-03-11", "2026-03-31", events=100, users=4, features=4, seats=20)
    vendor.used_daily("silent", "2025-12-20", "2026-03-10", events=200, users=20, features=4, seats=10)
    for name in {row["account_id"] for row in vendor.usage}:
        vendor.account(name, ("2026-03-01", "2026-03-31"), "2025-12-20")
    vendor.open()
    rows = {row["account_id"]: row["reasons"] for row in falling(vendor, date(2026, 3, 31), date(2026, 3, 31)).to_dicts()}
    assert rows.keys() == {"less", "silent"}
    since, reasons = rows["less"].split(": ")
    told, points = zip(*(reason.removesuffix(" points)").split(" (-") for reason in reasons.split("; ")), strict=True)
    assert since == "against the 14 days to 2026-03-03"
    assert told == ("events down 50 %", "hours of use down 60 %", "features in use behind those of other accounts")
    assert sorted(map(float, points), reverse=True) == list(map(float, points)) and min(map(float, points)) >= 2
    assert "; no activity for 21 days (-15.0 points); " in rows["silent"]
    vendor.settings = "[health.weights]\nactive_users = 0\nevents = 0\nfeatures = 0\nrecency = 0\nseats = 100\n"
    rows = falling(vendor, date(2026, 3, 31), date(2026, 3, 31)).filter(account_id="less")
    assert rows["reasons"][0].startswith(
        "against the 14 days to 2026-03-03: at most 4 of 20 seats in use in an hour, before 10 of 10 (-"
    )
