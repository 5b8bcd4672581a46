"""Days beyond the lookback that are older than their inputs are named, with what follows from them, and no others."""

from datetime import UTC, date, datetime

import dagster as dg
import pytest

from analytics_assets import partitions
from analytics_assets.definitions import build_definitions, build_platform, code_versions
from analytics_assets.home import Home
from analytics_assets.operations import catch_up
from analytics_assets.operations.alerts import look_at_ended_runs
from analytics_assets.operations.freshness import look
from analytics_assets.operations.outbox import Outbox
from analytics_assets.operations.outdated import how_to_restate, outdated_days, up_to_date_check
from analytics_assets.settings import parse_settings

# Midnight in London is 23:00 UTC; on Thursday the 20th the lookback begins with the 13th.
SETTINGS = '[business]\ntime_zone = "Europe/London"\ncurrency = "GBP"\nfirst_day = 2011-10-10\n'
IN_ORDER = (
    *("raw_event_hours", "events", "order_items", "orders", "identities", "customers", "customer_segments", "email_campaign"),
    *("accounts", "account_usage"),
)
HOURLY = {"raw_event_hours", "events", "account_usage"}


class Record:
    """A platform whose record is written by hand: what is said to be made has been made."""

    def __init__(self, folder, instance) -> None:
        self.platform = build_platform(parse_settings(SETTINGS, "x"), Home(folder))
        self.instance, self.definitions = instance, build_definitions(self.platform)

    def made(self, asset: str, *keys: str) -> None:
        for key in keys:
            self.instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=key))

    def all_made(self, first: int, last: int) -> None:
        for asset in IN_ORDER:
            for day in range(first, last + 1):
                hours = [f"2011-10-{day}-{hour:02}:00" for hour in range(24)]
                self.made(asset, *(hours if asset in HOURLY else [f"2011-10-{day}"]))

    def outdated(self, at_work: bool = True) -> dict[str, list[int]]:
        found = outdated_days(self.platform, self.instance, self.definitions, at_work)
        assert all((day.year, day.month) == (2011, 10) for days in found.values() for day in days)
        return {asset: [day.day for day in days] for asset, days in found.items()}


@pytest.fixture
def record(tmp_path, monkeypatch) -> Record:
    class Frozen(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(2011, 10, 20, 5, tzinfo=UTC).astimezone(tz)

    monkeypatch.setattr(partitions, "datetime", Frozen)
    with dg.DagsterInstance.ephemeral() as instance:
        made = Record(tmp_path / "home", instance)
        made.all_made(10, 14)
        yield made


def test_what_is_as_of_days_before_the_lookback_is_named_and_what_comes_by_itself_is_not(record) -> None:
    assert record.outdated() == {}
    record.made("raw_event_hours", "2011-10-11-05:00")
    as_of = {"identities", "customers", "customer_segments", "accounts"}
    # The lookback begins with the 13th.
    assert record.outdated() == {name: [11, 12] for name in as_of}
    record.made("events", "2011-10-11-05:00")
    record.made("order_items", "2011-10-11")
    assert record.outdated() == {name: [11, 12] for name in as_of}
    record.all_made(11, 14)
    assert record.outdated() == {}


def test_late_data_that_nothing_restates_is_named_with_all_that_follows_from_it(record) -> None:
    assert record.outdated(at_work=False) == {}
    record.made("raw_event_hours", "2011-10-11-05:00")
    as_of = [11, 12, 13, 14]
    expected = {
        "events": [11], "order_items": [11], "orders": [11],
        "identities": as_of, "customers": as_of, "customer_segments": as_of, "accounts": as_of,
        # An hour of usage reads the 25 hours before it.
        "account_usage": [11, 12],
    }  # fmt: skip
    assert record.outdated(at_work=False) == expected
    # Its own hour, and only then what is made of it: the day that was restated halfway is outdated still.
    record.made("events", "2011-10-11-05:00")
    assert record.outdated(at_work=False) == {name: days for name, days in expected.items() if name != "events"}
    record.made("orders", "2011-10-11")
    assert record.outdated(at_work=False)["orders"] == [11], "its order items are older than the events"
    record.all_made(11, 14)
    assert record.outdated(at_work=False) == {}


def test_within_the_lookback_a_day_is_named_once_nothing_is_at_work_that_could_restate_it(record) -> None:
    record.made("raw_event_hours", "2011-10-13-05:00")
    assert record.outdated() == {} and record.outdated(at_work=False)["customers"] == [13, 14]
    context = dg.build_asset_check_context(instance=record.instance)
    assert up_to_date_check(record.platform)(context).metadata["orders"].value == "2011-10-13"
    run = record.instance.create_run_for_job(record.definitions.resolve_job_def("load_exports"))
    assert up_to_date_check(record.platform)(context).passed
    record.instance.delete_run(run.run_id)
    record.instance.create_run_for_job(record.definitions.resolve_job_def("freshness"))
    assert not up_to_date_check(record.platform)(context).passed


def test_a_day_that_maintenance_took_out_is_not_outdated(record) -> None:
    record.made("raw_event_hours", "2011-10-11-05:00")
    record.instance.report_runless_asset_event(dg.AssetObservation("customers", partition="2011-10-11"))
    found = record.outdated(at_work=False)
    assert (found["customers"], found["customer_segments"]) == ([12, 13, 14], [11, 12, 13, 14])


def test_what_the_night_picks_up_makes_nothing_outdated(record) -> None:
    record.made("identities", "2011-10-11")
    record.made("accounts", "2011-10-11")
    assert record.outdated() == {}


def test_a_day_that_was_never_made_is_not_outdated(record) -> None:
    record.made("raw_event_hours", "2011-10-11-05:00")
    assert "traits" not in record.outdated() and "customer_ltv" not in record.outdated()


def test_tables_whose_settings_have_changed_since_they_were_made_are_named_unless_something_is_at_work(record) -> None:
    context = dg.build_asset_check_context(instance=record.instance)
    versions = code_versions(record.platform)
    record.platform.home.remember(built_with=versions | {"customer_ltv": "other", "email_campaign": "other"})
    result = up_to_date_check(record.platform)(context)
    assert not result.passed
    said = {name: value.value for name, value in result.metadata.items()}
    assert said == {"customer_ltv": "settings or version have changed since `make run`", "to restate them": "make run"}
    record.instance.create_run_for_job(record.definitions.resolve_job_def("load_exports"))
    assert up_to_date_check(record.platform)(context).passed
    record.platform.home.remember(built_with=versions)
    assert up_to_date_check(record.platform)(context).passed


def test_the_check_names_the_days_and_warns(record) -> None:
    context = dg.build_asset_check_context(instance=record.instance)
    assert up_to_date_check(record.platform)(context).passed
    record.made("raw_event_hours", "2011-10-10-23:00", "2011-10-12-00:00")
    result = up_to_date_check(record.platform)(context)
    assert not result.passed and result.severity == dg.AssetCheckSeverity.WARN
    assert result.metadata["orders"].value == "2011-10-10, 2011-10-12"
    assert result.metadata["customers"].value == "2011-10-10 to 2011-10-14"
    assert result.metadata["to restate them"].value == "make run"


def test_the_alert_ends_when_the_days_are_restated(record) -> None:
    outbox = Outbox(record.platform.home.alerts)

    def check() -> list[str]:
        look(record.instance, record.definitions)
        look_at_ended_runs(record.instance, outbox, (), datetime.now(UTC))
        return [one.alert.kind for one in outbox.alerts(standing_only=True) if one.alert.kind == "outdated days"]

    record.made("raw_event_hours", "2011-10-11-05:00")
    assert check() == ["outdated days"]
    record.all_made(11, 14)
    assert check() == []


def test_days_that_make_run_leaves_alone_have_a_command_of_their_own(record, monkeypatch) -> None:
    monkeypatch.setattr(catch_up, "AS_OF_DAYS", 6)
    days = [date(2011, 10, day) for day in (10, 12, 13, 14)]
    outdated = {"events": days, "identities": days, "account_health": days, "customers": days[2:]}
    begin = "DAGSTER_HOME=$ANALYTICS_HOME/dagster .venv/bin/dagster asset materialize -m analytics_assets.definitions --select "
    assert how_to_restate(record.platform, record.definitions, outdated).split(" && ") == [
        "make run",
        f"{begin}identities --partition-range 2011-10-10...2011-10-10",
        f"{begin}account_health --partition-range 2011-10-10-00:00...2011-10-10-23:00",
        # The 14th is one of the last six days, and for hours the sixth is the day that is not over.
        f"{begin}identities --partition-range 2011-10-12...2011-10-14",
        f"{begin}account_health --partition-range 2011-10-12-00:00...2011-10-14-23:00",
        f"{begin}customers --partition-range 2011-10-12...2011-10-14",
    ]
