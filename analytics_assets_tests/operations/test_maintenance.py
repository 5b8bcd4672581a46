"""Maintenance frees what nobody needs, and nothing that somebody may read."""

import json
import os
from datetime import UTC, datetime, timedelta

import pytest

from analytics_assets.definitions import build_definitions
from analytics_assets.events.tables import EVENTS
from analytics_assets.operations.maintenance import kept_since, maintain
from analytics_assets.warehouse.engine import attach, engine


@pytest.fixture
def restated(branch):
    """The shop, with all events written anew: the files of the first time are in old versions only."""
    lake = branch.platform().lake
    with engine() as connection:
        attach(connection, lake.pin(EVENTS))
        rows = connection.sql("FROM events").to_arrow_table().cast(EVENTS.arrow_schema())
    lake.replace(EVENTS, rows, None, {})
    branch.platform().publish()
    return branch


def files(company) -> dict:
    """Data files of the table of events, and their sizes."""
    return {path: path.stat().st_size for path in (company.home.lake / "events").rglob("*.parquet")}


def let_days_pass(company, days: int) -> None:
    """Make the removal of files from the newest version look older."""
    for log in (company.home.lake / "events" / "_delta_log").glob("*.json"):
        actions = [json.loads(line) for line in log.read_text().splitlines()]
        for action in actions:
            if "remove" in action:
                action["remove"]["deletionTimestamp"] -= days * 86_400_000
        log.write_text("\n".join(map(json.dumps, actions)) + "\n")


def test_what_a_month_has_passed_over_is_removed_counted_and_missed_by_nobody(restated) -> None:
    digests, before, now = restated.digests(), files(restated), datetime.now(UTC)
    live = {str(path) for path in restated.platform().lake.pin(EVENTS).files()}
    let_days_pass(restated, 31)
    [freed] = [one for one in maintain(restated.platform(), now) if one.table == "events"]
    gone = before.keys() - files(restated).keys()
    assert gone and not {str(path) for path in gone} & live
    assert (freed.files_removed, freed.bytes_removed) == (len(gone), sum(before[path] for path in gone))
    assert restated.digests() == digests
    assert restated.query("SELECT count(*) > 0 FROM events") == [(True,)]


def test_what_was_replaced_within_the_month_stays(restated) -> None:
    before = files(restated)
    let_days_pass(restated, 29)
    assert sum(one.files_removed for one in maintain(restated.platform(), datetime.now(UTC))) == 0
    assert before.keys() <= files(restated).keys()


def test_what_killed_writers_left_is_removed_after_a_month_and_what_is_being_written_stays(restated) -> None:
    """Such files stand in no version; only time tells those of the dead from those of the living."""
    now, digests = datetime.now(UTC), restated.digests()
    table = restated.home.lake / "events"
    left = [table / f"event_date=2011-10-29/{age}-{name}" for age in ("old", "new") for name in ("a.parquet", "b.parquet#1")] + [
        table / f"_delta_log/{age}.json#2" for age in ("old", "new")
    ]
    for path in left:
        path.write_bytes(b"12345")
        days = 31 if path.name.startswith("old") else 29
        os.utime(path, ((now - timedelta(days=days)).timestamp(),) * 2)
    [freed] = [one for one in maintain(restated.platform(), now) if one.table == "events"]
    assert [path.name for path in left if path.exists()] == ["new-a.parquet", "new-b.parquet#1", "new.json#2"]
    assert (freed.files_removed, freed.bytes_removed) == (3, 15)
    assert restated.digests() == digests


def test_what_a_published_version_reads_stays_however_old_it_is(restated) -> None:
    now, before = datetime.now(UTC), files(restated)
    oldest = min(restated.home.published.glob("analytics-*.duckdb"))
    os.utime(oldest, ((now - timedelta(days=60)).timestamp(),) * 2)
    assert kept_since(restated.platform(), now) < now - timedelta(days=60)
    let_days_pass(restated, 50)
    maintain(restated.platform(), now)
    assert before.keys() <= files(restated).keys()


def test_the_job_shows_what_it_freed_and_publishes(restated) -> None:
    let_days_pass(restated, 31)
    definitions = build_definitions(restated.platform())
    with restated.instance() as instance:
        result = definitions.resolve_job_def("lake_maintenance").execute_in_process(instance=instance)
    [output] = [event for event in result.all_events if event.event_type_value == "STEP_OUTPUT"]
    metadata = output.event_specific_data.metadata
    assert "| events | " in metadata["freed"].value and metadata["bytes removed"].value > 0
    assert not restated.platform().publish(), "it is published already"
