"""When the last hours of a day are not in by `[operations] night_starts_by`, the night runs without them and everybody is told."""

from datetime import UTC, date, datetime, timedelta

import dagster as dg
import pytest

from analytics_assets import partitions
from analytics_assets.activation.gate import lacks_hours
from analytics_assets.definitions import build_definitions, build_platform
from analytics_assets.events.loading import hours_due, hours_to_restate
from analytics_assets.home import Home
from analytics_assets.operations.alerts import INCOMPLETE, look_at_ended_runs
from analytics_assets.operations.catch_up import Stage, events_to_run, metrics_to_run, run_stage
from analytics_assets.operations.delivery import outbox_of
from analytics_assets.operations.freshness import freshness_checks
from analytics_assets.retail.orders.assets import ORDERS
from analytics_assets.settings import SettingsError, parse_settings
from analytics_assets.warehouse.incomplete import lacks

LIVE = '[business]\ntime_zone = "Europe/London"\ncurrency = "GBP"\nfirst_day = 2011-10-29\n'
SUNDAY = date(2011, 10, 30)


@pytest.fixture
def at_the_time(monkeypatch):
    """Let the clock on the wall show an instant, given as UTC."""

    def show(instant: str) -> None:
        class Frozen(datetime):
            @classmethod
            def now(cls, tz=None):
                return datetime.fromisoformat(instant).replace(tzinfo=UTC).astimezone(tz)

        monkeypatch.setattr(partitions, "datetime", Frozen)

    return show


@pytest.mark.parametrize(
    ("zone", "starts_by", "now", "through", "due"),
    [
        # The day has 25 hours, and midnight in London is midnight UTC after it.
        ("Europe/London", "04:00", "2011-10-31T03:59", "2011-10-30T20:30", "2011-10-30T20:00"),
        ("Europe/London", "04:00", "2011-10-31T04:00", "2011-10-30T20:30", "2011-10-31T00:00"),
        ("Europe/London", "", "2011-10-31T23:00", "2011-10-30T20:30", "2011-10-30T20:00"),
        # The last hour waits for item lines that come after midnight, and no longer than the rest.
        ("Europe/London", "04:00", "2011-10-31T03:59", "2011-10-31T00:20", "2011-10-30T23:00"),
        ("Europe/London", "04:00", "2011-10-31T04:00", "2011-10-31T00:20", "2011-10-31T00:00"),
        # What is in needs no deadline; of a day that is not over nothing is taken early.
        ("Europe/London", "04:00", "2011-10-31T05:10", "2011-10-31T05:02", "2011-10-31T05:00"),
        # Nothing of Monday has been received on Tuesday morning: Sunday is taken as it is, and Monday is not made of nothing.
        ("Europe/London", "04:00", "2011-11-01T04:30", "2011-10-30T20:30", "2011-10-31T00:00"),
        # 02:30 does not exist on the night on which the clock goes forward; 01:30 comes twice, and its first time counts.
        ("Europe/London", "02:30", "2012-03-26T01:29", "2012-03-25T20:00", "2012-03-25T20:00"),
        ("Europe/London", "01:30", "2012-03-25T01:29", "2012-03-24T20:00", "2012-03-24T20:00"),
        ("Europe/London", "01:30", "2012-03-25T01:31", "2012-03-24T20:00", "2012-03-25T00:00"),
        ("Europe/London", "01:30", "2011-10-30T00:30", "2011-10-29T20:00", "2011-10-29T23:00"),
        ("Europe/London", "01:30", "2011-10-30T01:10", "2011-10-29T20:00", "2011-10-29T23:00"),
        ("Asia/Kathmandu", "04:00", "2011-10-30T22:14", "2011-10-30T12:20", "2011-10-30T12:15"),
        ("Asia/Kathmandu", "04:00", "2011-10-30T22:15", "2011-10-30T12:20", "2011-10-30T18:15"),
    ],
)
def test_hours_are_due_when_they_are_in_or_when_the_night_waits_no_longer(
    tmp_path, at_the_time, zone: str, starts_by: str, now: str, through: str, due: str
) -> None:
    at_the_time(now)
    text = LIVE.replace("Europe/London", zone) + f'[operations]\nnight_starts_by = "{starts_by}"\n'
    platform = build_platform(parse_settings(text, "x"), Home(tmp_path))
    assert hours_due(platform, datetime.fromisoformat(through).replace(tzinfo=UTC)).isoformat()[:16] == due


def test_a_deadline_that_is_no_time_is_refused() -> None:
    with pytest.raises(SettingsError, match="night_starts_by"):
        parse_settings(LIVE + '[operations]\nnight_starts_by = "late"\n', "x")


@pytest.fixture
def late_export(new_company, lines):
    """Sunday's export ends at 20:10; by hand, at 20:30, came two more orders, and their file comes in late."""
    at = lines.at
    order = lambda who, when, number: lines.event("purchased", who, at(when), order_id=number, order_total="5.00")  # noqa: E731
    files = {
        1: (at("2011-10-29 23:59:59"), [order("ann@x.test", "2011-10-29 10:00", "1")]),
        2: (at("2011-10-30 20:10"), [order("ann@x.test", "2011-10-30 19:00", "2")]),
    }
    rest = {
        3: (at("2011-10-31 09:10"), [order("bob@x.test", "2011-10-30 20:30", "3"), order("bob@x.test", "2011-10-30 22:30", "4")])
    }
    return new_company(files, LIVE), files, rest


def materialise(company, *assets: str, day: str = "2011-10-30") -> None:
    with company.instance() as instance:
        run_stage(build_definitions(company.platform()), instance, Stage(assets, day, day, 1))


def events_of(company) -> list[tuple[str, str]]:
    """Compute what hours need it, and say which."""
    with company.instance() as instance:
        stages = events_to_run(company.platform(), instance)
        for stage in stages:
            run_stage(build_definitions(company.platform()), instance, stage)
    return [(stage.first, stage.last) for stage in stages]


def newest(company, asset: str, partition: str) -> dict[str, object]:
    with company.instance() as instance:
        records = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), asset_partitions=[partition]), limit=1
        ).records
    return {name: value.value for name, value in records[0].asset_materialization.metadata.items()}


def test_a_day_that_could_not_be_waited_for_says_so_until_it_is_restated(late_export, at_the_time, new_company) -> None:
    company, files, rest = late_export
    at_the_time("2011-10-31T03:00")
    company.load()
    assert events_of(company) == [("2011-10-29-00:00", "2011-10-30-19:00")]
    with company.instance() as instance:
        stages = metrics_to_run(company.platform(), instance, build_definitions(company.platform()))
        assert {stage.last[:10] for stage in stages if "orders" in stage.assets} == {"2011-10-29"}

    at_the_time("2011-10-31T04:10")
    assert events_of(company) == [("2011-10-30-20:00", "2011-10-30-23:00")]
    for day in ("2011-10-29", "2011-10-30"):
        materialise(company, "order_items", "orders", "identities", "customers", day=day)
    says = "2011-10-30 was computed without its last 4 hours: the export had been received until 2011-10-30 20:10"
    assert company.query("SELECT hour, received_until FROM incomplete_hours") == [
        (datetime(2011, 10, 30, hour, tzinfo=UTC), datetime(2011, 10, 30, 20, 10, tzinfo=UTC)) for hour in range(20, 24)
    ]
    assert newest(company, "orders", "2011-10-30")["incomplete"] == says
    assert newest(company, "customers", "2011-10-30")["incomplete"] == says
    assert newest(company, "events", "2011-10-30-21:00")["incomplete"] == says
    assert not any("incomplete" in newest(company, *made) for made in (("orders", "2011-10-29"), ("events", "2011-10-30-19:00")))
    platform = company.platform()
    [lack] = lacks(platform.lake)
    assert lacks_hours([lack], SUNDAY, platform.settings.business.zone) == [says]
    assert lacks_hours([lack], SUNDAY + timedelta(days=1), platform.settings.business.zone) == [says]
    assert lacks_hours([lack], SUNDAY - timedelta(days=1), platform.settings.business.zone) == []
    with company.instance() as instance:
        context = dg.build_asset_check_context(instance=instance)
        found = freshness_checks(platform, [ORDERS])[0](context)
        assert found.passed and (found.metadata["state"].value, found.metadata["incomplete"].value) == ("incomplete", says)
        specs = list(build_definitions(platform).resolve_all_asset_specs())
        look_at_ended_runs(instance, outbox_of(platform), specs, datetime.now(UTC))
    [alert] = outbox_of(platform).alerts(standing_only=True)
    assert (alert.alert.kind, alert.alert.severity, alert.alert.subject) == (INCOMPLETE, "warning", "events")
    assert "4 hours were computed before they were in" in alert.alert.text

    at_the_time("2011-11-03T09:20")
    assert hours_to_restate(company.platform(), datetime(2011, 10, 30, 20, 10, tzinfo=UTC)) == set(), "silence is no answer"

    for number, (received, lines_of_file) in rest.items():
        company.add(number, received, lines_of_file)
    at_the_time("2011-10-31T09:20")
    company.load()
    assert hours_to_restate(company.platform(), datetime(2011, 10, 31, 9, 10, tzinfo=UTC)) == {
        datetime(2011, 10, 30, hour, tzinfo=UTC) for hour in range(20, 24)
    }
    # The hours that follow are new; those that were not waited for run again, with records or without.
    assert events_of(company) == [("2011-10-30-20:00", "2011-10-31-08:00")]
    materialise(company, "order_items", "orders", "identities", "customers")
    assert company.query("FROM incomplete_hours") == []
    assert "incomplete" not in newest(company, "customers", "2011-10-30") | newest(company, "events", "2011-10-30-23:00")
    with company.instance() as instance:
        look_at_ended_runs(instance, outbox_of(platform), specs, datetime.now(UTC))
    assert outbox_of(platform).alerts(standing_only=True) == []

    patient = new_company(files | rest, LIVE, name="patient")
    patient.load()
    events_of(patient)
    for day in ("2011-10-29", "2011-10-30"):
        materialise(patient, "order_items", "orders", "identities", "customers", day=day)
    of = lambda made: {key: value for key, value in made.digests().items() if key[0] != "export_files"}  # noqa: E731
    assert of(patient) == of(company)


def test_the_loader_marks_hours_that_the_night_does_not_wait_for_and_marks_them_again_when_they_are_in(
    late_export, at_the_time
) -> None:
    company, _, rest = late_export

    def load() -> list[str]:
        """Load as the schedule does, and say which hours were marked."""
        definitions = build_definitions(company.platform())
        with company.instance() as instance:
            result = definitions.resolve_job_def("load_exports").execute_in_process(instance=instance)
        made = result.asset_materializations_for_node("export_files")
        return [one.partition for one in made if one.asset_key == dg.AssetKey("raw_event_hours")]

    company.load()
    at_the_time("2011-10-31T03:05")
    assert load()[-1] == "2011-10-30-19:00"
    at_the_time("2011-10-31T04:05")
    assert load() == [f"2011-10-30-{hour}:00" for hour in range(20, 24)]
    assert newest(company, "raw_event_hours", "2011-10-30-23:00")["incomplete"].endswith("until 2011-10-30 20:10:00+00:00")
    assert load() == []
    events_of(company)
    for number, (received, lines_of_file) in rest.items():
        company.add(number, received, lines_of_file)
    at_the_time("2011-10-31T09:15")
    marked = load()
    assert marked[:4] == [f"2011-10-30-{hour}:00" for hour in range(20, 24)] and marked[-1] == "2011-10-31-08:00"
    assert newest(company, "raw_event_hours", "2011-10-30-23:00") == {}
