"""Landing, as the daemon's hourly run does it: which hours it tells automation of, whatever kills it."""

import os
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from analytics_assets.definitions import build_definitions
from analytics_assets.events import loading
from analytics_assets.warehouse.engine import attach, engine

LATE_HOUR = "2011-10-30-20:00"


@pytest.fixture
def hourly_load(branch):
    """Run the load as its schedule does; whether it succeeded."""

    def run() -> bool:
        job = build_definitions(branch.platform()).resolve_implicit_global_asset_job_def()
        with branch.instance() as instance:
            return job.execute_in_process(
                instance=instance,
                asset_selection=[dg.AssetKey("export_files")],
                raise_on_error=False,
                run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            ).success

    assert run(), "the shop's own hours are computed, and no news"
    return run


def marks(branch, hour: str) -> int:
    with branch.instance() as instance:
        wanted = dg.AssetRecordsFilter(dg.AssetKey("raw_event_hours"), asset_partitions=[hour])
        return len(instance.fetch_materializations(wanted, limit=10).records)


def late_order(branch, lines, order_id: str = "12") -> None:
    received = lines.at("2011-11-02 09:00")
    order = lines.event("purchased", "gus@x.test", lines.at("2011-10-30 20:00"), order_id=order_id, order_total="2.00")
    branch.add(int(order_id), received, [order])


def test_late_records_mark_their_hour_once_and_the_hours_beside_it_not_at_all(branch, lines, hourly_load) -> None:
    late_order(branch, lines)
    for _ in range(2):
        assert hourly_load()
        assert (marks(branch, LATE_HOUR), marks(branch, "2011-10-30-19:00")) == (1, 0)


@pytest.mark.parametrize("dies_in", ["_mark_hours", "_marked_before"])
def test_a_load_that_dies_between_its_files_and_its_marks_is_made_up_for_by_the_next(
    branch, lines, hourly_load, monkeypatch, dies_in: str
) -> None:
    late_order(branch, lines)

    def dies(*arguments) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as broken:
        broken.setattr(loading, dies_in, dies)
        assert not hourly_load()
    assert branch.lake_query("SELECT count(*) FROM export_files", loading.EXPORT_FILES) == [(5,)], "the files are in"
    assert marks(branch, LATE_HOUR) == 0
    assert hourly_load() and marks(branch, LATE_HOUR) == 1


def test_hours_of_files_that_another_command_loaded_are_marked_too(branch, lines, hourly_load) -> None:
    late_order(branch, lines)
    branch.load()
    assert marks(branch, LATE_HOUR) == 0, "`make run` computes by itself"
    assert hourly_load() and marks(branch, LATE_HOUR) == 1


@pytest.mark.parametrize("computed", [True, False])
def test_an_hour_before_the_lookback_is_marked_unless_it_was_computed_from_what_came_in(
    branch, lines, hourly_load, monkeypatch, computed: bool
) -> None:
    monkeypatch.setattr(loading, "LOOKBACK", timedelta(days=1))
    line = lines.item("gus@x.test", lines.at("2011-10-30 20:02"), "a1", "2.00", "1")
    branch.add(12, lines.at("2011-11-02 09:00"), [line])
    branch.load()
    if computed:
        branch.catch_up()
    hours = (LATE_HOUR, "2011-10-30-19:00", "2011-10-30-18:00")
    before = [marks(branch, hour) for hour in hours]
    assert hourly_load()
    # The line may be of an order of the hour before.
    expected = [0, 0, 0] if computed else [1, 1, 0]
    assert [marks(branch, hour) - count for hour, count in zip(hours, before, strict=True)] == expected


def test_a_clock_that_is_set_back_hides_no_late_file(branch, lines, hourly_load, monkeypatch) -> None:
    class Yesterday(datetime):
        @classmethod
        def now(cls, zone=None):
            return datetime(2020, 1, 1, tzinfo=UTC)

    late_order(branch, lines)
    with monkeypatch.context() as earlier:
        earlier.setattr(loading, "datetime", Yesterday)
        assert hourly_load()
    assert marks(branch, LATE_HOUR) == 1


def test_a_changed_file_that_somebody_accepted_marks_its_hours(branch, lines, hourly_load) -> None:
    late_order(branch, lines)
    assert hourly_load()
    order = lines.event("purchased", "gus@x.test", lines.at("2011-10-30 20:00"), order_id="12", order_total="3.00")
    path = branch.export / "revisions" / "12.json"
    path.write_bytes(order + b"\n")
    os.utime(path, (1, 1))
    loading.load(branch.settings, branch.home, accept=["revisions/12.json"])
    assert hourly_load() and marks(branch, LATE_HOUR) == 2


def test_a_file_that_an_earlier_version_read_otherwise_is_read_again_as_a_whole(branch) -> None:
    """`Order: Paid` once landed as `order  paid`, under another id: a repetition would count twice until the file is read again."""
    files = ["revisions/1.json", "revisions/2.json"]
    query = "SELECT file, line_number, record_id, name, properties FROM records ORDER BY file, line_number"
    landed = branch.lake_query(query, loading.RECORDS)
    lake = branch.platform().lake
    with engine() as connection:
        attach(connection, lake.pin(loading.RECORDS))
        as_before = connection.sql(
            """SELECT * REPLACE (name || '  paid' AS name, md5(record_id) AS record_id) FROM records
            WHERE file IN ('revisions/1.json', 'revisions/2.json')"""
        ).to_arrow_table()
    schema = loading.RECORDS.arrow_schema()
    lake.replace(loading.RECORDS, as_before.cast(schema), "file IN ('revisions/1.json', 'revisions/2.json')", {})
    assert branch.lake_query(query, loading.RECORDS) != landed
    assert loading.load(branch.settings, branch.home, accept=files).files == files
    assert branch.lake_query(query, loading.RECORDS) == landed


def test_the_first_load_marks_the_hours_of_the_lookback_alone(new_company, lines) -> None:
    settings = lines.settings.replace("first_day = 2011-10-29", "first_day = 2011-10-20")
    company = new_company(lines.autumn(), settings)
    loading.pin_export(company.home, company.export, "kissmetrics")
    with company.instance() as instance:
        job = build_definitions(company.platform()).resolve_job_def("load_exports")
        assert job.execute_in_process(instance=instance).success
        found = sorted(instance.get_materialized_partitions(dg.AssetKey("raw_event_hours")))
    assert (found[0], found[-1]) == ("2011-10-26-01:00", "2011-11-01-23:00")


def test_a_file_that_the_index_names_and_that_is_not_there_is_told_and_one_that_was_loaded_is_not_missed(
    new_company, lines
) -> None:
    company = new_company(lines.autumn())

    def load() -> dg.AssetCheckEvaluation:
        with company.instance() as instance:
            job = build_definitions(company.platform()).resolve_job_def("load_exports")
            result = job.execute_in_process(instance=instance)
        return next(one for one in result.get_asset_check_evaluations() if one.check_name == "every_file_is_there")

    revisions = company.export / "revisions"
    (revisions / "3.json").rename(company.export / "3.elsewhere")
    company.load()
    found = load()
    assert not found.passed and found.severity == dg.AssetCheckSeverity.WARN and found.metadata["missing"].value == "3"
    (company.export / "3.elsewhere").rename(revisions / "3.json")
    assert load().passed
    (revisions / "1.json").unlink()
    found = load()
    assert found.passed and found.metadata["loaded, and no longer there"].value == "revisions/1.json"
