"""Landing, as the daemon's hourly run does it: which hours it tells automation of, whatever kills it."""

import os
from datetime import UTC, datetime

import dagster as dg
import pytest

from analytics_assets.definitions import build_definitions
from analytics_assets.events import loading

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

    assert run(), "the shop's own hours are marked"
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
        assert (marks(branch, LATE_HOUR), marks(branch, "2011-10-30-19:00")) == (2, 1)


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
    assert marks(branch, LATE_HOUR) == 1
    assert hourly_load() and marks(branch, LATE_HOUR) == 2


def test_hours_of_files_that_another_command_loaded_are_marked_too(branch, lines, hourly_load) -> None:
    late_order(branch, lines)
    branch.load()
    assert marks(branch, LATE_HOUR) == 1, "`make run` computes by itself"
    assert hourly_load() and marks(branch, LATE_HOUR) == 2


def test_a_clock_that_is_set_back_hides_no_late_file(branch, lines, hourly_load, monkeypatch) -> None:
    class Yesterday(datetime):
        @classmethod
        def now(cls, zone=None):
            return datetime(2020, 1, 1, tzinfo=UTC)

    late_order(branch, lines)
    with monkeypatch.context() as earlier:
        earlier.setattr(loading, "datetime", Yesterday)
        assert hourly_load()
    assert marks(branch, LATE_HOUR) == 2


def test_a_changed_file_that_somebody_accepted_marks_its_hours(branch, lines, hourly_load) -> None:
    late_order(branch, lines)
    assert hourly_load()
    order = lines.event("purchased", "gus@x.test", lines.at("2011-10-30 20:00"), order_id="12", order_total="3.00")
    path = branch.export / "revisions" / "12.json"
    path.write_bytes(order + b"\n")
    os.utime(path, (1, 1))
    loading.load(branch.settings, branch.home, accept=["revisions/12.json"])
    assert hourly_load() and marks(branch, LATE_HOUR) == 3
