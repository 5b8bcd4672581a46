"""Freshness looks at the newest business time in a table, never at when somebody last ran something."""

from datetime import UTC, date, datetime, timedelta

import dagster as dg
import pytest

from analytics_assets import partitions
from analytics_assets.definitions import build_definitions, build_platform
from analytics_assets.events.tables import EVENTS
from analytics_assets.home import Home
from analytics_assets.operations import freshness
from analytics_assets.operations.catch_up import Stage, run_stage
from analytics_assets.operations.freshness import expected_business_time, freshness_checks, newest_business_time, state_of
from analytics_assets.retail.orders.assets import ORDERS
from analytics_assets.saas.accounts.assets import ACCOUNTS
from analytics_assets.settings import parse_settings

LIVE = '[business]\ntime_zone = "Europe/London"\ncurrency = "GBP"\nfirst_day = 2011-10-29\n'


@pytest.fixture
def at_the_time(monkeypatch):
    """Let the clock on the wall show an instant."""

    def show(instant: datetime) -> None:
        class Frozen(datetime):
            @classmethod
            def now(cls, tz=None):
                return instant.astimezone(tz)

        monkeypatch.setattr(partitions, "datetime", Frozen)
        monkeypatch.setattr(freshness, "datetime", Frozen)

    return show


def check(company, table, settings=None) -> dg.AssetCheckResult:
    platform = build_platform(settings or company.settings, company.home)
    with company.instance() as instance:
        return freshness_checks(platform, [table])[0](dg.build_asset_check_context(instance=instance))


def test_a_historical_export_that_is_caught_up_is_fresh_for_ever(company) -> None:
    platform = company.platform()
    end = datetime(2011, 11, 2, tzinfo=UTC)
    for table in (ORDERS, EVENTS):
        with company.instance() as instance:
            assert newest_business_time(platform, table, instance) == expected_business_time(platform, table) == end
        assert check(company, table).passed


def test_an_old_backfill_does_not_make_a_stale_table_look_fresh(new_company, lines) -> None:
    made = new_company(lines.autumn())
    made.load()
    definitions = build_definitions(made.platform())
    with made.instance() as instance:
        run_stage(definitions, instance, Stage(("events",), "2011-10-29-00:00", "2011-10-30-23:00", 49))
        run_stage(definitions, instance, Stage(("order_items", "orders"), "2011-10-29", "2011-10-29", 1))
    result = check(made, ORDERS)
    assert not result.passed
    assert result.metadata["newest business time"].value == "2011-10-29 23:00:00+00:00"
    assert result.metadata["due by now"].value == "2011-11-02 00:00:00+00:00"
    assert result.metadata["behind"].value == "3 days, 1:00:00"


def test_an_empty_table_is_not_fresh(tmp_path) -> None:
    platform = build_platform(parse_settings(LIVE, "x"), Home(tmp_path))
    result = freshness_checks(platform, [ORDERS])[0](dg.build_asset_check_context())
    assert not result.passed and result.metadata["behind"].value == "the table is empty"


@pytest.mark.parametrize(
    ("now", "fresh"),
    [("2011-11-02T00:30", True), ("2011-11-03T05:59", True), ("2011-11-03T06:01", False)],
)
def test_a_live_day_is_due_six_hours_after_its_midnight(company, at_the_time, now: str, fresh: bool) -> None:
    at_the_time(datetime.fromisoformat(now).replace(tzinfo=UTC))
    assert check(company, ORDERS, parse_settings(LIVE, "x")).passed is fresh


def test_a_live_hour_is_due_three_hours_after_its_end_and_quiet_hours_are_tolerated_for_a_day(company, at_the_time) -> None:
    platform = build_platform(parse_settings(LIVE, "x"), company.home)
    at_the_time(datetime(2011, 11, 2, 5, 40, tzinfo=UTC))
    assert expected_business_time(platform, EVENTS) == datetime(2011, 11, 2, 2, tzinfo=UTC)
    assert check(company, EVENTS, platform.settings).passed
    at_the_time(datetime(2011, 11, 3, 4, 40, tzinfo=UTC))
    assert not check(company, EVENTS, platform.settings).passed


@pytest.mark.parametrize(
    ("newest", "tolerated", "failed_before", "state"),
    [
        (None, 0, True, "unknown"),
        (10, 0, False, "fresh"),
        (11, 0, False, "fresh"),
        (10, 0, True, "recovered"),
        (9, 1, False, "late"),
        (9, 1, True, "late"),
        (9, 0, False, "stale"),
        (8, 1, True, "stale"),
    ],
)
def test_states(newest: int | None, tolerated: int, failed_before: bool, state: str) -> None:
    at = lambda day: datetime(2011, 11, day, tzinfo=UTC)  # noqa: E731
    assert state_of(newest and at(newest), at(10), timedelta(days=tolerated), failed_before) == state


@pytest.mark.parametrize(("newest", "state"), [(10, "incomplete"), (9, "late"), (7, "stale")])
def test_a_day_without_its_last_hours_is_neither_fresh_nor_as_bad_as_none(newest: int, state: str) -> None:
    at = lambda day: datetime(2011, 11, day, tzinfo=UTC)  # noqa: E731
    assert state_of(at(newest), at(10), timedelta(days=2), True, lacking=True) == state


def test_a_table_that_was_computed_and_never_held_a_row_is_not_stale(company) -> None:
    assert not company.query("FROM accounts")
    assert check(company, ACCOUNTS).metadata["state"].value == "fresh"


def test_a_last_day_without_a_sale_is_there_and_one_without_an_event_is_not(new_company, lines) -> None:
    last = {3: (lines.at("2011-11-01 23:59:59"), [lines.event("visited site", "bob@x.test", lines.at("2011-10-31 23:00"))])}
    made = new_company(lines.autumn() | last)
    made.load()
    made.catch_up()
    assert made.query("SELECT max(order_date) FROM orders") == [(date(2011, 10, 31),)]
    assert check(made, ORDERS).passed
    found = check(made, EVENTS, parse_settings(lines.settings.replace("11-01", "11-02"), "x"))
    assert not found.passed and found.metadata["newest business time"].value == "2011-11-01 00:00:00+00:00"


def test_the_check_that_passes_after_it_failed_says_recovered_once(branch, at_the_time) -> None:
    platform = build_platform(parse_settings(LIVE, "x"), branch.home)
    check = freshness_checks(platform, [ORDERS])[0]
    definitions = dg.Definitions(
        assets=[dg.AssetSpec("orders")],
        asset_checks=[check],
        jobs=[dg.define_asset_job("all_checks", selection=dg.AssetSelection.all_asset_checks())],
    )
    states = []
    with dg.DagsterInstance.ephemeral() as instance:
        for now in ("2011-11-03T07:00", "2011-11-03T05:00", "2011-11-03T05:10"):
            at_the_time(datetime.fromisoformat(now).replace(tzinfo=UTC))
            result = definitions.resolve_job_def("all_checks").execute_in_process(instance=instance)
            states += [str(one.metadata["state"].value) for one in result.get_asset_check_evaluations()]
    assert states == ["stale", "recovered", "fresh"]
