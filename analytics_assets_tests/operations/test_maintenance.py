"""Old days become month-ends; maintenance frees what nobody needs, and nothing that somebody may read."""

import json
import os
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest

from analytics_assets.activation.sends import EMAIL_SENDS
from analytics_assets.definitions import build_definitions
from analytics_assets.events.tables import EVENTS
from analytics_assets.home import Home
from analytics_assets.operations.maintenance import Freed, days_beyond, kept_since, maintain
from analytics_assets.settings import parse_settings
from analytics_assets.warehouse.assets import table_asset
from analytics_assets.warehouse.engine import attach, engine
from analytics_assets.warehouse.inputs import partitions_there
from analytics_assets.warehouse.lake import Lake
from analytics_assets.warehouse.tables import Column, Table
from analytics_assets.warehouse.work import Platform, Work


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


def maintained(company, now: datetime) -> list[Freed]:
    """What maintenance says that it did."""
    platform = company.platform()
    build_definitions(platform)
    with company.instance() as instance:
        return maintain(platform, instance, now)


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
    [freed] = [one for one in maintained(restated, now) if one.table == "events"]
    gone = before.keys() - files(restated).keys()
    assert gone and not {str(path) for path in gone} & live
    assert (freed.files_removed, freed.bytes_removed) == (len(gone), sum(before[path] for path in gone))
    assert restated.digests() == digests
    assert restated.query("SELECT count(*) > 0 FROM events") == [(True,)]


def test_what_was_replaced_within_the_month_stays(restated) -> None:
    before = files(restated)
    let_days_pass(restated, 29)
    assert sum(one.files_removed for one in maintained(restated, datetime.now(UTC))) == 0
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
    [freed] = [one for one in maintained(restated, now) if one.table == "events"]
    assert [path.name for path in left if path.exists()] == ["new-a.parquet", "new-b.parquet#1", "new.json#2"]
    assert (freed.files_removed, freed.bytes_removed) == (3, 15)
    assert restated.digests() == digests


def test_what_a_published_version_reads_stays_however_old_it_is(restated) -> None:
    now, before = datetime.now(UTC), files(restated)
    oldest = min(restated.home.published.glob("analytics-*.duckdb"))
    os.utime(oldest, ((now - timedelta(days=60)).timestamp(),) * 2)
    assert kept_since(restated.platform(), now) < now - timedelta(days=60)
    let_days_pass(restated, 50)
    maintained(restated, now)
    assert before.keys() <= files(restated).keys()


def test_what_a_killed_process_put_down_is_removed_when_it_cannot_be_at_work_any_more(restated) -> None:
    spill, now = restated.home.spill, datetime.now(UTC)
    for name, days in (("of a killed process", 3), ("at work", 1)):
        (spill / name).mkdir(parents=True)
        (spill / name / "duckdb_temp_storage_DEFAULT-0.tmp").write_bytes(b"rows")
        os.utime(spill / name, times=((now - timedelta(days=days)).timestamp(),) * 2)
    maintained(restated, now)
    assert [path.name for path in spill.glob("*")] == ["at work"]


def test_the_job_shows_what_it_freed_and_publishes(restated) -> None:
    let_days_pass(restated, 31)
    definitions = build_definitions(restated.platform())
    with restated.instance() as instance:
        result = definitions.resolve_job_def("lake_maintenance").execute_in_process(instance=instance)
    [output] = [event for event in result.all_events if event.event_type_value == "STEP_OUTPUT"]
    metadata = output.event_specific_data.metadata
    assert "| events | " in metadata["freed"].value and metadata["bytes removed"].value > 0
    assert not restated.platform().publish(), "it is published already"


# ------------------------------------------------------------------------------------------ old days become month-ends

SATURDAY, SUNDAY, MONDAY, TUESDAY = (date(2011, 10, 29), date(2011, 10, 30), date(2011, 10, 31), date(2011, 11, 1))


def test_the_last_days_and_the_last_of_each_month_stay() -> None:
    days = [date(2024, 1, 1) + timedelta(days=number) for number in range(150)]
    gone = days_beyond(days, date(2024, 5, 30), 90)
    stay = [day for day in days if day not in gone]
    assert stay == [date(2024, 1, 31), date(2024, 2, 29), *(day for day in days if day >= date(2024, 3, 1))]
    assert days_beyond(stay, date(2024, 5, 30), 90) == []


@pytest.fixture
def thinned(branch):
    """The shop with one day kept of what is as of a day, the ledger with a list of a day that is long gone, and what was freed."""
    operations = branch.settings.operations.model_copy(update={"as_of_days_kept": 1})
    branch.settings = branch.settings.model_copy(update={"operations": operations})
    sent = {"as_of_date": SUNDAY, "campaign": "weekly", "customer_id": "ann@x.test", "arm": "sent", "address_hash": "h"}
    rows = [sent | {"row_digest": "d", "sent_at": datetime(2011, 10, 31, tzinfo=UTC), "run_id": "r"}]
    branch.platform().lake.replace(EMAIL_SENDS, pa.Table.from_pylist(rows, schema=EMAIL_SENDS.arrow_schema()), None, {})
    branch.platform().publish()
    return branch


def test_old_days_become_month_ends_and_nobody_wants_them_back(thinned) -> None:
    before, versions = thinned.digests(), thinned.versions()
    freed = {one.table: one for one in maintained(thinned, datetime.now(UTC))}
    thinned.platform().publish()
    gone = before.keys() - thinned.digests().keys()
    of_old_days = {key for key in before if key[1] in (SATURDAY, SUNDAY)}
    assert {table for table, _ in gone} >= {"identities", "customers", "customer_ltv", "customer_segments", "cohort_retention"}
    assert {table for table, _ in of_old_days - gone} == {
        *("orders", "order_items", "traits", "account_days", "accounts", "account_members", "email_sends")
    } & {table for table, _ in before}
    assert gone <= of_old_days, "month-ends and the newest days stay"
    for table in ("identities", "customers"):
        assert freed[table].rows_taken_out == sum(before[key][0] for key in gone if key[0] == table)
        assert thinned.versions()[table] == versions[table] + 1, "one commit"
    assert thinned.versions()["email_sends"] == versions["email_sends"]
    assert thinned.query("SELECT DISTINCT as_of_date FROM customers ORDER BY 1") == [(MONDAY,), (TUESDAY,)]
    assert [done for done in thinned.catch_up() if not done.held_back] == []
    again = maintained(thinned, datetime.now(UTC))
    assert sum(one.rows_taken_out for one in again) == 0


def test_a_day_that_was_taken_out_can_be_computed_again_after_its_inputs(thinned) -> None:
    before = thinned.digests()
    maintained(thinned, datetime.now(UTC))

    def compute(*assets: str) -> dg.ExecuteInProcessResult:
        job = build_definitions(thinned.platform()).resolve_implicit_global_asset_job_def()
        tags = dict.fromkeys(("dagster/asset_partition_range_start", "dagster/asset_partition_range_end"), SUNDAY.isoformat())
        with thinned.instance() as instance:
            keys = [dg.AssetKey(asset) for asset in assets]
            return job.execute_in_process(instance=instance, asset_selection=keys, tags=tags, raise_on_error=False)

    refused = compute("customers")
    [failed] = [event for event in refused.all_events if event.event_type_value == "STEP_FAILURE"]
    assert "identities: 1 of 1 partitions, first 2011-10-30" in failed.step_failure_data.user_failure_data.description
    assert compute("identities", "customers").success
    for table in ("identities", "customers"):
        assert thinned.digests()[table, SUNDAY] == before[table, SUNDAY]
    assert compute("customers").success, "identities of that day count as there again"


TICKS = Table(
    name="ticks",
    rows_are="hour",
    columns=(Column("day", "DATE", "Business day."), Column("hour", "TIMESTAMPTZ", "The hour.")),
    key=("hour",),
    grain="hour",
    partition_column="day",
)


@pytest.fixture
def ticking(lines, tmp_path) -> tuple[Platform, dg.AssetsDefinition]:
    """A clock whose table keeps recent hours filled, half a year after it stopped; the day with 25 hours is in it."""
    settings = lines.settings.replace("last_day = 2011-11-01", "last_day = 2012-06-01")
    platform = Platform(parse_settings(settings, "x"), Home(tmp_path / "home"), [TICKS])

    def ticks(work: Work) -> dict[str, pa.Table]:
        """The hours themselves."""
        hours = work.platform.clock.hour_keys(work.window.start, work.window.end)
        rows = [{"day": work.platform.clock.day_of(hour), "hour": hour} for hour in hours]
        return {"ticks": pa.Table.from_pylist(rows, schema=TICKS.arrow_schema())}

    return platform, table_asset(platform, (TICKS,), ticks, group="clock", fill="recent")


def hours_there(platform: Platform) -> Counter[str]:
    """How many hours of each day the table has."""
    with engine() as connection:
        attach(connection, platform.lake.pin(TICKS))
        return Counter(str(day) for (day,) in connection.sql("SELECT day FROM ticks").fetchall())


def test_hours_of_an_old_day_go_and_those_of_a_month_end_stay(ticking, monkeypatch) -> None:
    platform, asset = ticking
    with dg.DagsterInstance.ephemeral() as instance:

        def counted() -> Counter[str]:
            return Counter(key[:10] for key in partitions_there(instance, "ticks"))

        tags = {
            "dagster/asset_partition_range_start": "2011-10-29-00:00",
            "dagster/asset_partition_range_end": "2011-11-01-23:00",
        }
        assert dg.materialize([asset], instance=instance, tags=tags).success
        every = {"2011-10-29": 24, "2011-10-30": 25, "2011-10-31": 24, "2011-11-01": 24}
        assert counted() == hours_there(platform) == every

        def killed(*_) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as dying:
            dying.setattr(Lake, "remove_days", killed)
            with pytest.raises(KeyboardInterrupt):
                maintain(platform, instance, datetime.now(UTC))
        assert counted() == {"2011-10-31": 24}, "what is about to be taken out counts as gone"
        assert hours_there(platform) == every
        [freed] = maintain(platform, instance, datetime.now(UTC))
        assert (freed.table, freed.rows_taken_out) == ("ticks", 24 + 25 + 24)
        assert counted() == hours_there(platform) == {"2011-10-31": 24}
        again = [key for key in instance.get_materialized_partitions(asset.key) if key.startswith("2011-10-30-01")]
        tags = dict.fromkeys(tags, max(again))
        assert dg.materialize([asset], instance=instance, tags=tags).success
        assert hours_there(platform) == {"2011-10-30": 1, "2011-10-31": 24}
        assert counted() == {"2011-10-30": 1, "2011-10-31": 24}


def test_files_that_their_owner_takes_away_meanwhile_stop_nothing(restated, monkeypatch) -> None:
    """A publication removes an old database, and a writer renames its file, between the listing and the look."""
    gone = restated.home.published / "analytics-000000.duckdb"
    listed = Path.glob
    monkeypatch.setattr(Path, "glob", lambda self, pattern: [*listed(self, pattern), gone])
    now = datetime.now(UTC)
    assert kept_since(restated.platform(), now) <= now - timedelta(days=30)
