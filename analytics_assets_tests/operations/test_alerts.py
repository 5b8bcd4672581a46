"""What runs do and what is wrong right now become alerts, and end them; through Dagster's own machinery."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import pyarrow as pa
import pytest
from dagster._daemon.types import DaemonHeartbeat

from analytics_assets.definitions import build_platform
from analytics_assets.home import Home
from analytics_assets.operations import alerts as watching
from analytics_assets.operations import delivery
from analytics_assets.operations.alerts import allowed_seconds, late_runs, look_at_ended_runs, silent_daemons
from analytics_assets.operations.delivery import alerts_sensor, outbox_of
from analytics_assets.operations.outbox import Alert
from analytics_assets.operations.run_history import BATCH_RUNS
from analytics_assets.settings import parse_settings
from analytics_assets.warehouse.assets import FILL, masked

SETTINGS = '[business]\ntime_zone = "Europe/London"\ncurrency = "GBP"\nfirst_day = 2011-10-29\n'
DAYS = dg.DailyPartitionsDefinition("2011-10-29", timezone="Europe/London")
NOW = datetime(2026, 3, 31, 4, 0, tzinfo=UTC)


class Shop:
    """Assets whose behaviour a test sets: `says[asset]` is what happens when it runs."""

    def __init__(self, platform, instance) -> None:
        self.platform, self.instance, self.says = platform, instance, {}
        self.outbox = outbox_of(platform)
        self.assets = [self.make("orders", "all"), self.make("list", "newest")]
        self.definitions = dg.Definitions(self.assets)
        self.specs = [spec for asset in self.assets for spec in asset.specs]

    def make(self, name: str, fill: str) -> dg.AssetsDefinition:
        gate = dg.AssetCheckSpec("may_go_out" if name == "list" else "as_declared", asset=name, blocking=True)
        warning = dg.AssetCheckSpec("amounts_are_usual", asset=name)

        @dg.asset(
            name=name, partitions_def=DAYS, check_specs=[gate, warning], tags={FILL: fill}, owners=["team:shop"],
            backfill_policy=dg.BackfillPolicy.single_run(), retry_policy=dg.RetryPolicy(max_retries=1),
        )  # fmt: skip
        def asset(context):
            said = self.says.get(name, "works")
            keys = list(context.partition_keys)
            span = {"partitions": keys[0] if len(keys) == 1 else f"{keys[0]} to {keys[-1]}"}
            if said == "breaks":
                raise OSError("cannot reach ann@x.test at redis://user:secret@host")
            if said.startswith("blocked"):
                yield dg.AssetCheckResult(check_name=gate.name, passed=False, metadata=span)
                raise dg.Failure(said, allow_retries=False)
            yield dg.AssetCheckResult(check_name=gate.name, passed=True, metadata=span)
            usual = said != "warns"
            yield dg.AssetCheckResult(
                check_name=warning.name,
                passed=usual,
                severity=dg.AssetCheckSeverity.WARN,
                metadata=span | {"amounts": 7, "found": ["amount 7", "amount 8"], "means": "Amounts are usual."},
            )
            yield dg.MaterializeResult()

        return asset

    def run(self, name: str, first: str, last: str | None = None, says: str = "works", **tags: str) -> None:
        self.says = {name: says}
        tags |= {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last or first}
        job = self.definitions.resolve_implicit_global_asset_job_def()
        job.execute_in_process(instance=self.instance, asset_selection=[dg.AssetKey(name)], tags=tags, raise_on_error=False)

    def die_after(self, *kept: str) -> None:
        """Leave only these kinds of events of the run that was made, as if its worker had died then, and let Dagster notice."""
        [run] = self.instance.get_runs()
        records = self.instance.event_log_storage.get_records_for_run(run.run_id).records
        entries = [record.event_log_entry for record in records]
        self.instance.delete_run(run.run_id)
        self.instance.add_run(run.with_status(dg.DagsterRunStatus.STARTED))
        for entry in entries:
            if entry.dagster_event and entry.dagster_event.event_type_value in kept:
                self.instance.store_event(entry)
        self.instance.report_run_failed(run, "worker gone")

    def look(self, minutes: float = 0) -> int:
        return look_at_ended_runs(self.instance, self.outbox, self.specs, datetime.now(UTC) + timedelta(minutes=minutes))

    def standing(self) -> list[tuple[str, str, str, str | None]]:
        found = self.outbox.alerts(standing_only=True)
        return [(one.alert.kind, one.alert.severity, one.alert.subject, one.alert.partition) for one in reversed(found)]


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def platform(tmp_path):
    return build_platform(parse_settings(SETTINGS, "x"), Home(tmp_path / "home"))


@pytest.fixture
def shop(platform, instance) -> Shop:
    return Shop(platform, instance)


def test_a_step_that_fails_after_its_retries_is_an_alert_until_its_partition_is_there(shop) -> None:
    shop.run("orders", "2011-10-30", says="breaks")
    assert shop.look() == 1
    assert shop.standing() == [("failed", "error", "orders", "2011-10-30")]
    [one] = shop.outbox.alerts()
    assert one.alert.text.endswith(" (2 attempts)")
    assert one.alert.owners == ("team:shop",) and "ann@x.test" not in one.alert.text and "secret" not in one.alert.text
    shop.run("orders", "2011-10-31")
    shop.look()
    assert len(shop.standing()) == 1, "another day does not make this one right"
    shop.run("orders", "2011-10-29", "2011-10-31")
    shop.look()
    assert shop.standing() == []


def test_a_retry_that_helps_is_no_alert(shop) -> None:
    class Passing(dict):
        def get(self, name, default):
            return self.pop(name, default)

    shop.says = Passing(orders="breaks")
    job = shop.definitions.resolve_implicit_global_asset_job_def()
    job.execute_in_process(instance=shop.instance, asset_selection=[dg.AssetKey("orders")], partition_key="2011-10-30")
    assert shop.look() == 1 and shop.outbox.alerts() == []


def test_a_run_that_dagster_begins_anew_is_no_alert(shop) -> None:
    shop.run("orders", "2011-10-30", says="breaks", **{"dagster/will_retry": "true"})
    assert shop.look(minutes=9) == 0 and shop.standing() == []
    [run] = shop.instance.get_runs()
    shop.instance.add_run_tags(run.run_id, {"dagster/auto_retry_run_id": "another"})
    assert shop.look(minutes=11) == 1 and shop.standing() == []


def test_a_run_that_dagster_never_begins_anew_is_an_alert_unless_another_made_what_it_did_not(shop) -> None:
    shop.run("orders", "2011-10-30", says="breaks", **{"dagster/will_retry": "true"})
    shop.run("orders", "2011-10-31", says="breaks", **{"dagster/will_retry": "true"})
    shop.run("orders", "2011-10-31")
    assert shop.look() == 1
    assert shop.look(minutes=11) == 2
    assert shop.standing() == [("failed", "error", "orders", "2011-10-30")]
    assert shop.look(minutes=12) == 0


def test_a_blocking_check_is_one_alert_and_names_its_kind(shop) -> None:
    shop.run("orders", "2011-10-29", "2011-10-30", says="blocked: NULL in order_id")
    shop.run("list", "2011-10-30", says="blocked: orders is stale")
    shop.look()
    assert shop.standing() == [
        ("blocking check failed", "error", "orders", "2011-10-29 to 2011-10-30"),
        ("activation blocked", "error", "list", "2011-10-30"),
    ]


def test_a_list_is_blocked_for_whatever_reason_and_what_goes_out_next_ends_it(shop) -> None:
    for reason in ("the model of discover is not accepted for 2011-10-30", "orders is stale"):
        shop.run("list", "2011-10-30", says=f"blocked: {reason}")
        shop.look()
        assert shop.standing() == [("activation blocked", "error", "list", "2011-10-30")]
    shop.run("list", "2011-10-31")
    shop.look()
    assert shop.standing() == []


def test_a_list_that_is_blocked_night_after_night_is_one_alert(shop) -> None:
    for day in ("2011-10-29", "2011-10-30", "2011-10-31"):
        shop.run("list", day, says="blocked: orders is stale")
        shop.look()
    assert shop.standing() == [("activation blocked", "error", "list", "2011-10-31")]
    shop.run("list", "2011-10-30")
    shop.look()
    assert len(shop.standing()) == 1, "the newest has not gone out"
    shop.run("list", "2011-10-31")
    shop.look()
    assert shop.standing() == []


def test_a_list_that_did_not_go_out_is_not_told_as_stale_too(shop, monkeypatch) -> None:
    monkeypatch.setitem(watching.KIND_OF_CHECK, "amounts_are_usual", watching.STALE)
    shop.run("list", "2011-10-30", says="blocked: orders is stale")
    shop.run("list", "2011-10-29", says="warns")
    shop.look()
    assert shop.standing() == [("activation blocked", "error", "list", "2011-10-30")]
    shop.run("list", "2011-10-31", says="warns")
    shop.look()
    assert shop.standing() == [("stale", "warning", "list", "2011-10-31")]


def test_an_alert_that_is_seen_again_is_of_the_kind_that_was_seen_last(shop) -> None:
    shop.run("orders", "2011-10-30", says="blocked: NULL in order_id")
    shop.run("orders", "2011-10-30", says="breaks")
    shop.look()
    assert shop.standing() == [("failed", "error", "orders", "2011-10-30")]


def test_a_check_that_only_warns_is_an_alert_and_an_older_day_does_not_end_it(shop) -> None:
    shop.run("orders", "2011-10-31", says="warns")
    shop.look()
    assert shop.standing() == [("check failed", "warning", "orders", "2011-10-31")]
    says = "amounts: 7, found: amount 7; amount 8. It checks: Amounts are usual."
    assert shop.outbox.alerts()[0].alert.text == f"orders 2011-10-31: amounts_are_usual failed. {says}"
    shop.run("orders", "2011-10-29")
    shop.look()
    assert len(shop.standing()) == 1
    shop.run("orders", "2011-11-01")
    shop.look()
    assert shop.standing() == []


def test_a_reason_that_holds_on_every_day_is_told_once() -> None:
    days = [f"as_of_date 2011-10-{day}, currency GBP, reason too few" for day in (31, 30, 29)]
    other = "as_of_date 2011-10-31, currency EUR, reason too few"
    assert watching._told_once([*days, other, "amount 7"]) == [f"{days[0]} (and on 2 more days)", other, "amount 7"]


def test_each_run_is_looked_at_once_also_by_two_watchers(shop) -> None:
    shop.run("orders", "2011-10-30", says="breaks")
    shop.run("orders", "2011-10-30")
    assert shop.look() == 2 and shop.look() == 0
    assert look_at_ended_runs(shop.instance, outbox_of(shop.platform), shop.specs, datetime.now(UTC)) == 0
    assert [(one.times_seen, one.recovered_at is None) for one in shop.outbox.alerts()] == [(1, False)]


def test_a_worker_that_dies_is_an_alert(shop) -> None:
    shop.run("orders", "2011-10-30")
    shop.die_after("ASSET_MATERIALIZATION_PLANNED")
    shop.look()
    assert shop.standing() == [("failed", "error", "orders", "2011-10-30")]
    assert "its worker was killed" in shop.outbox.alerts()[0].alert.text


def test_a_step_at_work_when_its_worker_dies_is_an_alert_beside_one_that_failed_before(shop) -> None:
    shop.says = {"orders": "breaks"}
    job = shop.definitions.resolve_implicit_global_asset_job_def()
    job.execute_in_process(instance=shop.instance, partition_key="2011-10-30", raise_on_error=False)
    shop.die_after("ASSET_MATERIALIZATION_PLANNED", "STEP_START", "STEP_FAILURE")
    shop.look()
    assert {(subject, partition) for _, _, subject, partition in shop.standing()} == {
        ("orders", "2011-10-30"),
        ("list", "2011-10-30"),
    }
    [of_list] = [one.alert for one in shop.outbox.alerts() if one.alert.subject == "list"]
    assert "its worker was killed" in of_list.text


def test_the_kinds_of_checks_are_those_of_checks_that_exist(platform) -> None:
    from analytics_assets.definitions import build_definitions

    names = {key.name for key in build_definitions(platform).resolve_asset_graph().asset_check_keys}
    assert set(watching.KIND_OF_CHECK) <= names


@pytest.mark.parametrize(
    ("past", "allowed"),
    [
        ([100.0] * 4, None),
        ([100.0] * 5, 220.0),
        ([1000.0] * 9, 1500.0),
        ([100.0, 200.0, 300.0, 400.0, 500.0], 300 + 6 * 1.4826 * 100),
    ],
)
def test_what_is_late_depends_on_the_assets_own_past(past, allowed) -> None:
    found = allowed_seconds(past)
    assert found is None if allowed is None else found[1] == pytest.approx(allowed)


def test_a_run_is_late_while_it_runs(shop) -> None:
    shop.run("orders", "2011-10-31")
    past = [
        {"asset": "orders", "partition": f"p{number}", "run_id": str(number), "run_date": NOW.date(), "job": "j", "started_at": NOW,
         "finished_at": NOW, "seconds": 60.0 + number, "rows": 1, "attempts": 1, "status": "success", "partitions": 1,
         "run_retry": 0, "backfill": None, "cost": None}
        for number in range(9)
    ]  # fmt: skip
    shop.platform.lake.replace(BATCH_RUNS, pa.Table.from_pylist(past, schema=BATCH_RUNS.arrow_schema()), None, {})
    run = shop.instance.get_runs()[0]
    began = datetime.now(UTC)
    entries = [record.event_log_entry for record in shop.instance.event_log_storage.get_records_for_run(run.run_id).records]
    shop.instance.delete_run(run.run_id)
    shop.instance.add_run(run.with_status(dg.DagsterRunStatus.STARTED))
    for entry in entries:
        if entry.dagster_event and entry.dagster_event.event_type_value in ("ASSET_MATERIALIZATION_PLANNED", "STEP_START"):
            shop.instance.store_event(entry)
    assert late_runs(shop.platform, shop.instance, began + timedelta(seconds=180)) == []
    # Usual 64 s; late beyond 64 + 120.
    [late] = late_runs(shop.platform, shop.instance, began + timedelta(seconds=190))
    assert (late.kind, late.subject, late.partition, late.run_id) == ("late", "orders", "2011-10-31", run.run_id)


def beat(instance, kind: str, at: datetime) -> None:
    instance.add_daemon_heartbeat(DaemonHeartbeat(at.timestamp(), kind, "x", []))


def test_a_daemon_that_was_heard_of_and_fell_silent_is_dead(tmp_path) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        kinds = instance.get_required_daemon_types()
        assert silent_daemons(instance, NOW) == []
        for kind in kinds:
            beat(instance, kind, NOW - timedelta(minutes=9))
        assert silent_daemons(instance, NOW) == []
        beat(instance, "SENSOR", NOW - timedelta(minutes=11))
        [dead] = silent_daemons(instance, NOW)
        assert dead.kind == "daemon dead" and "daemon (SENSOR) has been silent for 11 min" in dead.text
        for kind in kinds:
            beat(instance, kind, NOW - timedelta(minutes=12))
        [dead] = silent_daemons(instance, NOW)
        assert "Dagster's daemon has been silent for 12 min" in dead.text, "one process died, which is one piece of news"


def test_what_is_wrong_now_is_told_while_it_lasts(shop, monkeypatch) -> None:
    monkeypatch.setattr(watching, "is_behind", lambda home, tables: behind)
    behind = True
    for minutes, standing in ((0, 0), (4, 0), (6, 1), (7, 1)):
        watching.look_at_now(shop.platform, shop.instance, shop.outbox, NOW + timedelta(minutes=minutes))
        assert len(shop.standing()) == standing
    assert shop.standing() == [("publication behind", "error", "platform", None)]
    assert "since 2026-03-31 05:00." in shop.outbox.alerts()[0].alert.text, "London's clock, as in every message"
    behind = False
    watching.look_at_now(shop.platform, shop.instance, shop.outbox, NOW + timedelta(minutes=8))
    assert shop.standing() == [] and shop.outbox.note("behind_since") is None


def test_what_failed_for_a_day_after_a_last_day_that_was_put_back_is_over(shop) -> None:
    shop.run("list", "2011-10-31", says="blocked: orders is stale")
    shop.run("orders", "2011-10-30", "2011-10-31", says="breaks")
    shop.run("orders", "2011-10-30", says="breaks")
    shop.look()
    for last_day, standing in (("2011-11-01", 3), ("2011-10-31", 3), ("2011-10-30", 1)):
        settings = parse_settings(f"{SETTINGS}last_day = {last_day}\n", "x")
        watching.look_at_now(build_platform(settings, shop.platform.home), shop.instance, shop.outbox, NOW)
        assert len(shop.standing()) == standing
    assert shop.standing() == [("failed", "error", "orders", "2011-10-30")]


def test_the_sensor_says_what_stands_and_goes_on_when_a_part_of_the_watch_is_broken(shop, monkeypatch) -> None:
    shop.run("orders", "2011-10-30", says="breaks")
    sensor = alerts_sensor(shop.platform, shop.assets)
    assert sensor(dg.build_sensor_context(shop.instance)).skip_message == ("1 stand (orders: failed); 0 sent")

    def broken(*_):
        raise ValueError("no such table")

    monkeypatch.setattr(delivery, "look_at_ended_runs", broken)
    assert "platform: watching failed" in sensor(dg.build_sensor_context(shop.instance)).skip_message
    monkeypatch.undo()
    assert "watching" not in sensor(dg.build_sensor_context(shop.instance)).skip_message


def test_what_could_not_be_delivered_is_an_alert_of_the_same_watch(platform, instance, monkeypatch) -> None:
    monkeypatch.setenv("ANALYTICS_ALERT_URLS", "no://url")
    platform = build_platform(parse_settings(SETTINGS + "[alerts]\nattempts = 1\n", "x"), platform.home)
    outbox = outbox_of(platform)
    outbox.raise_alert(Alert("key", "stale", "error", "orders", "late"), datetime.now(UTC))
    delivery.watch(platform, instance, (), by_daemon=False)
    assert sorted(one.alert.kind for one in outbox.alerts(standing_only=True)) == ["stale", "undelivered"]


def test_the_first_watch_after_a_death_tells_of_it(shop) -> None:
    sensor = alerts_sensor(shop.platform, shop.assets)
    sensor(dg.build_sensor_context(shop.instance))
    assert shop.outbox.alerts() == []
    shop.outbox.take_note("watched_at", (datetime.now(UTC) - timedelta(hours=2)).isoformat())
    sensor(dg.build_sensor_context(shop.instance))
    [one] = shop.outbox.alerts()
    assert one.alert.kind == "daemon dead" and one.recovered_at and "nobody watched from" in one.alert.text


def test_people_and_credentials_are_masked() -> None:
    text = masked("Binder Error: key not unique: ann.lee+x@shop.example.com, see redis://user:secret@host:1/0")
    assert text == "Binder Error: key not unique: ‹address›, see ‹address›"
