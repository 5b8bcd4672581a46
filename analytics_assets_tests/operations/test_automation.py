"""What the automation sensor requests, by Dagster's own evaluator."""

import logging
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from dagster._core.asset_graph_view.asset_graph_view import AssetGraphView, TemporalContext
from dagster._core.definitions.assets.graph.asset_graph_subset import AssetGraphSubset
from dagster._core.execution.asset_backfill import execute_asset_backfill_iteration_inner
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.test_utils import mock_workspace_from_repos

from analytics_assets.definitions import build_definitions, build_platform
from analytics_assets.home import Home
from analytics_assets.operations.automation import is_restated_at_any_age, when_inputs_changed
from analytics_assets.operations.launcher import CATCH_UP
from analytics_assets.operations.record import record_environment
from analytics_assets.partitions import all_earlier_days
from analytics_assets.settings import parse_settings

NOW = datetime(2011, 11, 3, 0, 30, tzinfo=UTC)
HOURS = dg.HourlyPartitionsDefinition(start_date="2011-11-01-00:00", timezone="Europe/London")
DAYS = dg.DailyPartitionsDefinition(start_date="2011-11-01", timezone="Europe/London")


def definitions(*ignored: str) -> dg.Definitions:
    @dg.asset(partitions_def=HOURS)
    def events() -> None: ...

    @dg.asset(partitions_def=DAYS)
    def identities() -> None: ...

    @dg.asset(
        partitions_def=DAYS, deps=[dg.AssetDep("events", partition_mapping=dg.TimeWindowPartitionMapping()), "identities"],
        automation_condition=when_inputs_changed(*ignored),
    )  # fmt: skip
    def orders() -> None: ...

    return dg.Definitions([events, identities, orders])


class Clock:
    """Evaluates tick by tick; what is requested runs at once."""

    def __init__(self, instance: dg.DagsterInstance, *ignored: str) -> None:
        self.definitions, self.instance, self.cursor, self.now = definitions(*ignored), instance, None, NOW
        self.tick()
        for day in ("2011-11-01", "2011-11-02"):
            self.made("identities", day)

    def tick(self, run: bool = True) -> set[str]:
        self.now += timedelta(minutes=1)
        result = dg.evaluate_automation_conditions(
            defs=self.definitions, instance=self.instance, evaluation_time=self.now, cursor=self.cursor
        )
        self.cursor = result.cursor
        requested = set(result.get_requested_partitions(dg.AssetKey("orders")))
        for key in requested if run else ():
            self.made("orders", key)
        return requested

    def made(self, asset: str, *keys: str) -> None:
        for key in keys:
            self.instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=key))


def hours(day: str, first: int = 0, last: int = 23) -> list[str]:
    return [f"{day}-{hour:02}:00" for hour in range(first, last + 1)]


@pytest.fixture
def clock():
    with dg.DagsterInstance.ephemeral() as instance:
        yield Clock(instance)


def test_a_day_is_requested_with_its_last_hour_and_not_before(clock) -> None:
    clock.made("events", *hours("2011-11-01", 0, 22))
    assert clock.tick() == set()
    clock.made("events", "2011-11-01-23:00")
    assert clock.tick() == {"2011-11-01"}


def test_a_request_is_made_once(clock) -> None:
    clock.made("events", *hours("2011-11-01"))
    requested: dict[str, int] = defaultdict(int)
    for _ in range(4):
        for key in clock.tick():
            requested[key] += 1
    assert set(requested) == {"2011-11-01"} and requested["2011-11-01"] <= 2


def test_a_late_hour_requests_its_own_day_again(clock) -> None:
    clock.made("events", *hours("2011-11-01"), *hours("2011-11-02"))
    assert clock.tick() == {"2011-11-01", "2011-11-02"}
    while clock.tick():
        pass
    clock.made("events", "2011-11-01-07:00")
    assert clock.tick() == {"2011-11-01"}


def test_an_update_in_the_tick_of_the_days_own_completion_is_not_lost(clock) -> None:
    clock.made("events", *hours("2011-11-01"))
    assert clock.tick(run=False) == {"2011-11-01"}
    clock.made("events", "2011-11-01-07:00")
    clock.made("orders", "2011-11-01")
    assert "2011-11-01" in clock.tick()


def test_what_is_older_than_a_week_is_left_to_a_backfill(clock) -> None:
    clock.made("events", *hours("2011-11-01"))
    clock.tick()
    while clock.tick():
        pass
    clock.now += timedelta(days=9)
    clock.tick()
    clock.made("events", "2011-11-01-07:00")
    assert "2011-11-01" not in clock.tick()


@pytest.mark.parametrize("ignored", [True, False])
def test_an_ignored_input_does_not_request_its_day(ignored: bool) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        clock = Clock(instance, *["identities"] * ignored)
        clock.made("events", *hours("2011-11-01"))
        while clock.tick():
            pass
        clock.made("identities", "2011-11-01")
        assert clock.tick() == (set() if ignored else {"2011-11-01"})


@pytest.mark.parametrize("late", ["2011-11-05-00:00", "2011-11-05-13:00"])
def test_by_the_hour_the_first_day_of_the_last_week_is_restated_from_its_first_hour(late: str) -> None:
    @dg.asset(partitions_def=HOURS)
    def events() -> None: ...

    @dg.asset(partitions_def=HOURS, deps=[events], automation_condition=when_inputs_changed(by_the_hour=True))
    def account_health() -> None: ...

    made, now = dg.Definitions([events, account_health]), datetime(2011, 11, 12, 14, 30, tzinfo=UTC)
    with dg.DagsterInstance.ephemeral() as instance:
        before = dg.evaluate_automation_conditions(made, instance, evaluation_time=now)
        instance.report_runless_asset_event(dg.AssetMaterialization("events", partition=late))
        later = now + timedelta(minutes=1)
        after = dg.evaluate_automation_conditions(made, instance, evaluation_time=later, cursor=before.cursor)
    assert set(after.get_requested_partitions(dg.AssetKey("account_health"))) == {late}


# ------------------------------------------------------------------------------------ what is requested together


class Chain:
    """Hours, orders of a day, customers as of a day; runs are Dagster's own and carry the tag of what conditions request."""

    def __init__(self, instance: dg.DagsterInstance, days: int = 2, without_orders: str = "") -> None:
        @dg.asset(partitions_def=HOURS)
        def events() -> None: ...

        @dg.asset(
            partitions_def=DAYS, automation_condition=when_inputs_changed(at_any_age=True),
            deps=[dg.AssetDep("events", partition_mapping=dg.TimeWindowPartitionMapping())],
        )  # fmt: skip
        def orders() -> None: ...

        @dg.asset(
            partitions_def=DAYS, automation_condition=when_inputs_changed(),
            deps=[dg.AssetDep("orders", partition_mapping=all_earlier_days())],
        )  # fmt: skip
        def customers() -> None: ...

        self.assets = {"events": events, "orders": orders, "customers": customers}
        self.definitions, self.instance, self.cursor, self.now = dg.Definitions(list(self.assets.values())), instance, None, NOW
        self.now += timedelta(days=days - 2)
        self.days = [f"2011-11-{day:02}" for day in range(1, days + 1)]
        for day in self.days[:-2]:
            self.arrive(*hours(day))
            self.arrive(*({day} - {without_orders}), asset="orders")
            self.arrive(day, asset="customers")
        self.tick()
        self.arrive(*(hour for day in self.days[-2:] for hour in hours(day)))
        while requested := self.tick():
            for asset, keys in requested.items():
                self.run(asset, *keys)

    def tick(self) -> dict[str, list[str]]:
        """What the next tick requests, inputs first."""
        self.now += timedelta(minutes=1)
        result = dg.evaluate_automation_conditions(self.definitions, self.instance, evaluation_time=self.now, cursor=self.cursor)
        self.cursor = result.cursor
        found = {name: sorted(result.get_requested_partitions(dg.AssetKey(name))) for name in ("orders", "customers")}
        return {name: keys for name, keys in found.items() if keys}

    def arrive(self, *keys: str, asset: str = "events") -> None:
        """An update that no condition requested."""
        for key in keys:
            self.instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=key))

    def run(self, asset: str, *keys: str, **of: str) -> None:
        """A run that a condition requested; `backfill` names the backfill that it did so by."""
        for key in keys:
            tags = {"dagster/from_automation_condition": "true"} | {f"dagster/{name}": value for name, value in of.items()}
            dg.materialize([self.assets[asset]], instance=self.instance, partition_key=key, tags=tags)

    def begin(self, hour: str) -> dg.DagsterRun:
        """A run of `events` that is at work."""
        job = self.definitions.resolve_implicit_global_asset_job_def().get_subset(asset_selection={dg.AssetKey("events")})
        run = self.instance.create_run_for_job(job, asset_selection={dg.AssetKey("events")}, tags={"dagster/partition": hour})
        self.instance.report_run_canceling(run)
        return run


LATE = {"orders": ["2011-11-01"], "customers": ["2011-11-01", "2011-11-02"]}


@pytest.fixture
def chain(monkeypatch):
    # Whoever caught up in this process has set it; where the daemon and its runs are it is not.
    monkeypatch.delenv("DAGSTER_EMIT_PARTITION_SUBSET_IN_PLANNED_EVENTS", raising=False)
    with dg.DagsterInstance.ephemeral() as instance:
        made = Chain(instance)
        made.arrive("2011-11-01-07:00")
        assert made.tick() == LATE
        yield made


def test_what_was_requested_with_its_input_does_not_run_again_when_the_input_arrives(chain) -> None:
    chain.run("orders", *LATE["orders"])
    chain.run("customers", *LATE["customers"])
    assert chain.tick() == chain.tick() == {}


def test_what_an_input_brings_while_a_tick_is_at_work_is_news_of_the_next_tick_alone(chain, monkeypatch, tmp_path) -> None:
    for name, value in record_environment(Home(tmp_path)).items():
        monkeypatch.setenv(name, value)
    newest = chain.instance.event_log_storage.get_maximum_record_id()
    chain.run("orders", *LATE["orders"])
    with monkeypatch.context() as tick:
        tick.setattr(chain.instance.event_log_storage, "get_maximum_record_id", lambda: newest)
        assert chain.tick() == {}
    chain.run("customers", *LATE["customers"])
    assert chain.tick() == chain.tick() == {}


def test_what_has_to_wait_is_remembered_from_tick_to_tick(chain) -> None:
    chain.run("orders", *LATE["orders"])
    chain.run("customers", *LATE["customers"])
    assert chain.tick() == {}
    # An hour of the day comes in while another is at work, which then fails.
    at_work = chain.begin("2011-11-01-09:00")
    chain.arrive("2011-11-01-08:00")
    assert chain.tick() == chain.tick() == chain.tick() == {}
    chain.instance.report_run_canceled(chain.instance.get_run_by_id(at_work.run_id))
    assert chain.tick() == LATE


def remembering(part: dg.AutomationCondition) -> Iterator[dg.AutomationCondition]:
    """The parts of a condition that remember something from tick to tick."""
    if part.name in ("SINCE", "NEWLY_TRUE"):
        yield part
    for child in part.children:
        yield from remembering(child)


@pytest.fixture
def graph(tmp_path):
    settings = parse_settings('[business]\ntime_zone = "Europe/London"\ncurrency = "GBP"\nfirst_day = 2011-11-01\n', "x")
    return build_definitions(build_platform(settings, Home(tmp_path))).resolve_asset_graph()


def test_no_two_parts_of_a_condition_share_their_memory(graph) -> None:
    """Dagster keeps it under a name made of a part's kind and those of its children: two of one shape forgot by turns what was to run."""
    for node in graph.asset_nodes:
        if node.automation_condition:
            parts = set(remembering(node.automation_condition))
            names = {part.get_node_unique_id(parent_unique_id=None, index=0, target_key=node.key) for part in parts}
            assert len(names) == len(parts) > 1, node.key


def test_what_is_restated_at_any_age_reads_a_day_of_the_past_at_most(graph) -> None:
    """One late hour of what reads more would restate all days after it."""
    found = [node for node in graph.asset_nodes if is_restated_at_any_age(node)]
    assert {node.key.to_user_string() for node in found} >= {"events", "orders", "account_usage"}
    for node in found:
        a_day = 25 if isinstance(node.partitions_def, dg.HourlyPartitionsDefinition) else 1
        mappings = [one for one in node.partition_mappings.values() if isinstance(one, dg.TimeWindowPartitionMapping)]
        assert all(-mapping.start_offset <= a_day for mapping in mappings), node.key


def test_late_hours_of_two_days_that_come_in_by_two_runs_restate_what_is_as_of_both_once(chain) -> None:
    chain.run("orders", *LATE["orders"])
    chain.run("customers", *LATE["customers"])
    assert chain.tick() == {}
    at_work = chain.begin("2011-11-02-09:00")
    chain.arrive("2011-11-01-08:00")
    first = chain.tick()
    assert first == {"orders": ["2011-11-01"], "customers": ["2011-11-01"]}
    for asset, keys in first.items():
        chain.run(asset, *keys)
    assert chain.tick() == {}
    chain.instance.report_run_canceled(at_work)
    chain.arrive("2011-11-02-09:00")
    second = chain.tick()
    assert second == {"orders": ["2011-11-02"], "customers": ["2011-11-02"]}
    for asset, keys in second.items():
        chain.run(asset, *keys)
    assert chain.tick() == chain.tick() == {}


def test_what_was_requested_with_its_input_and_never_ran_is_requested_again(chain) -> None:
    assert chain.tick() == {}
    chain.run("orders", *LATE["orders"])
    assert chain.tick() == {"customers": LATE["customers"]}
    chain.run("customers", *LATE["customers"])
    assert chain.tick() == chain.tick() == {}


def test_an_update_from_outside_between_the_request_and_its_end_is_not_lost(chain) -> None:
    chain.run("orders", *LATE["orders"])
    chain.arrive("2011-11-01", asset="orders")
    chain.run("customers", *LATE["customers"])
    assert chain.tick() == {"customers": LATE["customers"]}


def test_an_hour_that_comes_in_while_its_day_runs_requests_the_day_again(chain) -> None:
    chain.run("events", "2011-11-01-08:00")
    chain.run("orders", *LATE["orders"])
    chain.run("customers", *LATE["customers"])
    assert chain.tick() == LATE


# ------------------------------------------------------------------------------------ what is older than a week


@pytest.fixture
def fortnight(monkeypatch):
    monkeypatch.delenv("DAGSTER_EMIT_PARTITION_SUBSET_IN_PLANNED_EVENTS", raising=False)
    with dg.DagsterInstance.ephemeral() as instance:
        yield Chain(instance, days=12)


def test_an_hour_more_than_a_week_late_restates_its_day_and_what_is_as_of_the_last_week(fortnight) -> None:
    fortnight.arrive("2011-11-03-07:00")
    requested = fortnight.tick()
    assert requested == {"orders": ["2011-11-03"], "customers": fortnight.days[-7:]}
    for asset, keys in requested.items():
        fortnight.run(asset, *keys)
    assert fortnight.tick() == fortnight.tick() == {}


def test_an_old_day_waits_for_what_is_at_work_and_is_not_forgotten(fortnight) -> None:
    at_work = fortnight.begin("2011-11-03-09:00")
    fortnight.arrive("2011-11-03-07:00")
    assert fortnight.tick() == fortnight.tick() == {}
    fortnight.instance.report_run_canceled(fortnight.instance.get_run_by_id(at_work.run_id))
    assert fortnight.tick() == {"orders": ["2011-11-03"], "customers": fortnight.days[-7:]}


def test_an_old_day_that_was_never_computed_is_not_requested_by_itself() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        fortnight = Chain(instance, days=12, without_orders="2011-11-03")
        fortnight.arrive("2011-11-03-07:00", "2011-11-04-07:00")
        # What is as of the last week waits for the day that is not there.
        assert fortnight.tick() == {"orders": ["2011-11-04"]}


# ------------------------------------------------------------------------------------ `make run` between two ticks


def caught_up(chain: Chain, asset: str) -> None:
    """All of an asset, as `make run` computes it."""
    keys = [hour for day in chain.days for hour in hours(day)] if asset == "events" else chain.days
    ends = {"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]}
    dg.materialize([chain.assets[asset]], instance=chain.instance, tags={CATCH_UP: "true"} | ends)


@pytest.mark.parametrize("stages", [["events"], ["events", "orders"], ["events", "orders", "customers"]])
def test_what_make_run_has_made_requests_nothing(fortnight, stages: list[str]) -> None:
    for stage in stages:
        caught_up(fortnight, stage)
        assert fortnight.tick() == {}
    assert fortnight.tick() == {}


def test_an_update_beside_make_run_is_not_lost(fortnight) -> None:
    caught_up(fortnight, "events")
    fortnight.arrive("2011-11-03-07:00")
    caught_up(fortnight, "orders")
    caught_up(fortnight, "customers")
    assert fortnight.tick() == {"orders": ["2011-11-03"], "customers": fortnight.days[-7:]}


# ------------------------------------------------------------------------------------ a backfill whose worker is killed


class Backfill:
    """What the tick of `chain` requested, as Dagster's backfill daemon goes through it; runs are what it asks for."""

    def __init__(self, chain: Chain, requested: dict[str, list[str]]) -> None:
        self.definitions, self.instance = chain.definitions, chain.instance
        self.graph = mock_workspace_from_repos([chain.definitions.get_repository_def()]).asset_graph
        wanted = {dg.AssetKey(name): DAYS.subset_with_partition_keys(keys) for name, keys in requested.items()}
        subset = AssetGraphSubset(partitions_subsets_by_asset_key=wanted)
        tags = {"dagster/from_automation_condition": "true"}
        self.instance.add_backfill(
            PartitionBackfill.from_asset_graph_subset("backfill", NOW.timestamp(), tags, self.instance, subset, None, None, None)
        )

    def iteration(self) -> set[tuple[str, str]]:
        """What the next round of the daemon requests."""
        backfill = self.instance.get_backfill("backfill")
        now = TemporalContext(effective_dt=NOW, last_event_id=self.instance.event_log_storage.get_maximum_record_id())
        view = AssetGraphView(temporal_context=now, instance=self.instance, asset_graph=self.graph)
        before = backfill.get_asset_backfill_data(self.graph)
        found = execute_asset_backfill_iteration_inner("backfill", before, view, 0.0, logging.getLogger(__name__), None)
        after = found.backfill_data.with_run_requests_submitted(found.run_requests, view)
        self.instance.update_backfill(backfill.with_asset_backfill_data(after, self.instance, self.graph))
        return {
            (key.to_user_string(), request.partition_key) for request in found.run_requests for key in request.asset_selection
        }

    def begin(self, asset: str, key: str) -> dg.DagsterRun:
        """Begin a run of it."""
        tags = {"dagster/backfill": "backfill", "dagster/from_automation_condition": "true", "dagster/partition": key}
        job = self.definitions.resolve_implicit_global_asset_job_def()
        return self.instance.create_run_for_job(
            job.get_subset(asset_selection={dg.AssetKey(asset)}), asset_selection={dg.AssetKey(asset)}, tags=tags
        )

    def end(self, status: BulkActionStatus) -> None:
        self.instance.update_backfill(self.instance.get_backfill("backfill").with_status(status))


@pytest.fixture
def killed(chain):
    """The worker of the first run is killed, and the daemon has seen it; the run is begun anew."""
    backfill = Backfill(chain, LATE)
    assert backfill.iteration() == {("orders", "2011-11-01")}
    worker = backfill.begin("orders", "2011-11-01")
    assert chain.tick() == {}
    chain.instance.report_run_failed(worker)
    assert backfill.iteration() == set()
    assert chain.tick() == {}
    chain.run("orders", "2011-11-01", backfill="backfill")
    return backfill


def test_what_a_backfill_will_still_run_after_the_death_of_a_worker_is_not_requested_beside_it(chain, killed) -> None:
    assert chain.tick() == {}
    assert killed.iteration() == {("customers", key) for key in LATE["customers"]}
    chain.run("customers", *LATE["customers"], backfill="backfill")
    assert chain.tick() == {} and killed.iteration() == set()
    killed.end(BulkActionStatus.COMPLETED_SUCCESS)
    assert chain.tick() == chain.tick() == {}


def test_what_a_backfill_gave_up_after_the_death_of_a_worker_is_requested_once_it_has_ended(chain, killed) -> None:
    killed.end(BulkActionStatus.COMPLETED_FAILED)
    assert chain.tick() == {"customers": LATE["customers"]}
