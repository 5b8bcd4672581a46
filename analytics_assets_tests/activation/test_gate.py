"""Each reason for which nothing goes out, one at a time, on Dagster's own record."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from analytics_assets.activation.gate import models_not_accepted, recommenders_tested, silent

DAY = date(2026, 3, 3)


def held(shop, why_of, name: str = "email_campaign") -> str:
    result = shop.run(name)
    assert not result.success
    assert not shop.folder("email").exists() and not shop.folder("onsite").exists()
    (evaluation,) = [e for e in result.get_asset_check_evaluations() if e.check_name == "may_go_out"]
    assert not evaluation.passed and evaluation.blocking
    return why_of(result)


def test_nothing_is_held_when_all_is_well(evening) -> None:
    assert evening.run("email_campaign", "onsite_recommendations").success
    assert evening.folder("email").exists() and evening.folder("onsite").exists()


@pytest.mark.parametrize("name", ["traits", "identities", "order_items", "customer_ltv", "customer_segments"])
def test_a_missing_input_is_named(shop, why_of, name: str) -> None:
    names = {"traits", "identities", "order_items", "customer_ltv", "customer_segments", "recommendations"}
    # The recommendations need the orders of earlier days; the list needs those of its own.
    first = date(2026, 3, 1)
    shop.run(*names, day=first, last=date(2026, 3, 2))
    shop.run(*(names - {name, "recommendations"}), day=DAY)
    if name != "order_items":
        shop.run("recommendations", day=DAY)
    assert f"{name}: 2026-03-03 has not been computed; the newest day is 2026-03-02" in held(shop, why_of)


def test_an_input_older_than_what_it_is_made_of_is_stale(evening, why_of) -> None:
    evening.run("order_items", day=date(2026, 3, 1), last=date(2026, 3, 2))
    message = held(evening, why_of)
    assert "recommendations: 2026-03-03 was computed before order_items 2026-03-01 and 1 more came in anew" in message
    evening.run("recommendations", day=DAY)
    assert evening.run("email_campaign").success


def test_an_input_made_with_other_settings_holds_what_is_made_of_it_until_it_is_made_anew(evening, why_of) -> None:
    before = evening.settings_text
    evening.settings_text = before + "[ltv]\nhorizon_days = 90\n"
    said = "{}: 2026-03-03 was computed with other settings or by another version; materialise it again, or `make run`"
    assert held(evening, why_of).startswith(f"email_campaign 2026-03-03 is held back: {said.format('customer_ltv')}. Nothing")
    assert evening.run("onsite_recommendations").success, "the site shows no lifetime value"
    evening.run("customer_ltv", day=DAY)
    assert evening.run("email_campaign").success
    evening.settings_text = before + '[recommendations]\nexcluded_products = ["p1"]\n'
    for outlet in ("email_campaign", "onsite_recommendations"):
        assert said.format("recommendations") in why_of(evening.run(outlet))


def test_a_later_day_of_an_input_makes_nothing_stale(evening) -> None:
    evening.run("order_items", day=date(2026, 3, 4))
    assert evening.run("email_campaign").success


def test_a_newer_map_of_identities_waits_for_the_night(evening) -> None:
    evening.run("identities", day=DAY)
    assert evening.run("email_campaign").success


def test_a_failed_check_of_a_recomputation_is_a_reason_until_it_passes(evening, why_of) -> None:
    evening.rows["recommendations"].append({"as_of_date": DAY, "customer_id": "broken", "list": "discover", "rank": 1})
    assert not evening.run("recommendations").success
    assert "recommendations: the check sound failed for 2026-03-03" in held(evening, why_of)
    evening.rows["recommendations"].pop()
    evening.run("recommendations")
    assert evening.run("email_campaign").success


def test_a_failed_check_of_another_day_is_none(evening) -> None:
    evening.rows["recommendations"].append(
        {"as_of_date": date(2026, 3, 1), "customer_id": "broken", "list": "discover", "rank": 1}
    )
    assert not evening.run("recommendations", day=date(2026, 3, 1)).success
    assert evening.run("email_campaign").success


def test_a_failed_check_of_a_range_holds_every_day_of_it(evening, why_of) -> None:
    evening.rows["customer_segments"].append({"as_of_date": date(2026, 3, 2), "customer_id": "broken", "currency": "GBP"})
    assert not evening.run("customer_segments", day=date(2026, 3, 2), last=date(2026, 3, 4)).success
    assert "customer_segments: the check sound failed for 2026-03-02 to 2026-03-04" in held(evening, why_of)


@pytest.mark.parametrize("name", ["buy_again", "discover"])
@pytest.mark.parametrize("outlet", ["email_campaign", "onsite_recommendations"])
def test_recommendations_that_are_worse_than_popular_stay_in(shop, why_of, name: str, outlet: str) -> None:
    for row in shop.rows["recommendation_quality"]:
        if row["list"] == name:
            row["recall_at_20"] = 0.2 if row["model"] == "popular" else 0.194
    shop.inputs()
    message = held(shop, why_of, outlet)
    assert (
        f"the model of {name} is not accepted for 2026-03-03: ease found 0.97 times what popular products did after 2026-03-01"
        in message
    )


def week(day: date, customers: int, recall: float, of_popular: float = 0.1, model: str = "ease") -> tuple:
    return ("discover", model, day, customers, recall, of_popular)


JANUARY, EARLY, LATE = date(2026, 1, 1), date(2026, 2, 1), date(2026, 2, 24)


@pytest.mark.parametrize(
    ("rows", "passed", "says"),
    [
        ([week(EARLY, 500, 0.05), week(LATE, 100, 0.15)], True, "ease found 1.50 times what popular products did after 2026-02-24 (100 customers)"),
        ([week(EARLY, 500, 0.90), week(LATE, 100, 0.099)], False, "ease found 0.99 times what popular products did after 2026-02-24 (100 customers)"),
        ([week(LATE, 20, 0.0), week(EARLY, 80, 0.15), week(JANUARY, 500, 0.0)], True, "ease found 1.20 times what popular products did after 2026-02-01 (100 customers)"),
        ([week(LATE, 60, 0.15)], False, "only 60 customers bought in the weeks held out, 100 are needed"),
        ([week(LATE, 100, 0.1, model="popular")], True, "popular found 1.00 times what popular products did after 2026-02-24 (100 customers)"),
        ([week(LATE, 100, 0.1, 0.0)], True, "ease found anything against nothing what popular products did after 2026-02-24 (100 customers)"),
    ],
)  # fmt: skip
def test_the_newest_weeks_that_can_tell_decide(rows, passed: bool, says: str) -> None:
    assert recommenders_tested(rows) == [("discover", passed, says)]


def test_what_was_not_tested_is_not_accepted_and_one_that_passed_is_enough() -> None:
    tested = [("a", False, "bad"), ("a", True, "good"), ("b", False, "worse"), ("b", False, "bad")]
    assert models_not_accepted(tested, ["a", "b", "c"], DAY) == [
        "the model of b is not accepted for 2026-03-03: bad, worse",
        "the model of c is not accepted for 2026-03-03: it has not been tested on that day",
    ]


def test_a_lifetime_value_whose_backtest_failed_keeps_the_campaign_in_and_not_the_site(shop, why_of) -> None:
    for row in shop.rows["ltv_backtests"]:
        row |= {"accepted": False, "reason": "bias 31 %"}
    shop.inputs()
    assert "the model of lifetime value in GBP is not accepted for 2026-03-03: bias 31 %" in held(shop, why_of)
    assert shop.run("onsite_recommendations").success


def test_an_untested_model_is_not_accepted(shop, why_of) -> None:
    shop.rows["ltv_backtests"] = []
    shop.inputs()
    assert "lifetime value in GBP is not accepted for 2026-03-03: it has not been tested on that day" in held(shop, why_of)


def test_every_reason_is_said_at_once(shop, why_of) -> None:
    shop.inputs(last=date(2026, 3, 2))
    message = held(shop, why_of)
    assert all(name in message for name in ("traits:", "identities:", "customer_ltv:", "recommendations:"))


@pytest.mark.parametrize(
    ("quiet", "reasons"),
    [
        (timedelta(0), []),
        (timedelta(hours=24), []),
        (
            timedelta(hours=25),
            ["events are stale: the newest is of before 2026-07-01 23:00; the export may be incomplete"],
        ),
    ],
)
def test_a_silent_export_holds_what_is_made_of_it(quiet: timedelta, reasons: list[str]) -> None:
    ends = datetime(2026, 7, 2, 22, tzinfo=UTC)
    assert silent(ends - quiet, ends, ZoneInfo("Europe/Berlin")) == reasons
    assert silent(None, ends, ZoneInfo("Europe/Berlin")) == []


def test_nothing_goes_out_when_events_end_days_before(evening, why_of, monkeypatch) -> None:
    early = datetime(2026, 3, 1, 12, tzinfo=UTC)
    monkeypatch.setattr("analytics_assets.activation.assets.newest_business_time", lambda *_: early)
    assert "events are stale: the newest is of before 2026-03-01" in held(evening, why_of)
