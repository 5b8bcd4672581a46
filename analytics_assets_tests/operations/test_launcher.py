"""Runs whose processes die: real workers under a real code server, judged and begun anew by Dagster's own daemons."""

import asyncio
import logging
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster import DagsterRunStatus
from dagster._core.execution.submit_asset_runs import submit_asset_run
from dagster._core.launcher import WorkerStatus
from dagster._core.test_utils import create_test_daemon_workspace_context
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import PythonFileTarget
from dagster._daemon.auto_run_reexecution.event_log_consumer import EventLogConsumerDaemon
from dagster._daemon.monitoring import execute_run_monitoring_iteration
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon

from analytics_assets.definitions import build_platform
from analytics_assets.home import Home
from analytics_assets.operations.alerts import look_at_ended_runs
from analytics_assets.operations.delivery import outbox_of
from analytics_assets.operations.launcher import CATCH_UP, HOST
from analytics_assets.operations.record import POSTGRES_URL, open_record
from analytics_assets.operations.run_history import BATCH_RUNS, record_runs
from analytics_assets.settings import parse_settings
from analytics_assets.warehouse.engine import attach, engine

LOG = logging.getLogger(__name__)
DEFINITIONS = """
import time
from pathlib import Path
import dagster as dg
from analytics_assets.warehouse.assets import RETRIES, only_passing_faults_retried

@dg.asset(partitions_def=dg.DailyPartitionsDefinition("2011-10-29"))
def waits(context):
    (Path(__file__).parent / context.run.run_id).touch()
    while True:
        time.sleep(0.05)

@dg.asset
def refuses():
    raise dg.Failure("no such column", allow_retries=False)

@dg.asset(retry_policy=RETRIES)
def is_tried_again(context):
    with only_passing_faults_retried("is_tried_again"):
        (Path(__file__).parent / context.run.run_id).touch()
        while True:
            time.sleep(0.05)

defs = dg.Definitions([waits, refuses, is_tried_again], executor=dg.in_process_executor)
"""


def until(what: Callable[[], Any]) -> Any:
    """What it gives once it gives something; a minute is more than a worker needs to begin on a busy machine."""
    for _ in range(600):
        if found := what():
            return found
        time.sleep(0.1)
    raise AssertionError("it never happened")


class Daemon:
    """Dagster's daemons, each doing one round when it is asked, over a code server in a process of its own."""

    def __init__(self, instance: dg.DagsterInstance, context: WorkspaceProcessContext, folder: Path) -> None:
        self.instance, self.context, self.folder = instance, context, folder
        self.consumer, self.queue = EventLogConsumerDaemon(), QueuedRunCoordinatorDaemon(interval_seconds=1)

    def submit(self, asset: str, partition: str | None = None) -> str:
        tags = {"dagster/partition": partition} if partition else {}
        request = dg.RunRequest(asset_selection=[dg.AssetKey(asset)], tags=tags)
        workspace = self.context.create_request_context()
        run = submit_asset_run(None, request, 0, self.instance, self.context, workspace, {}, {}, LOG)
        return asyncio.run(run).run_id

    def round(self) -> None:
        """Monitoring, then retries, then the queue."""
        for daemon in (
            execute_run_monitoring_iteration(self.context, LOG),
            self.consumer.run_iteration(self.context),
            self.queue.run_iteration(self.context),
        ):
            assert not any(daemon)

    def worker(self, run_id: str) -> int:
        """The process that computes the run, once it does."""
        until(lambda: (self.folder / run_id).exists())
        said = " ".join(entry.message for entry in self.instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT))
        return int(re.findall(r"Started process for run \(pid: (\d+)\)", said)[0])

    def status(self, run_id: str) -> DagsterRunStatus:
        return self.instance.get_run_by_id(run_id).status

    def retry_of(self, run_id: str) -> str | None:
        return self.instance.get_run_by_id(run_id).tags.get("dagster/auto_retry_run_id")


@pytest.fixture
def home(tmp_path, monkeypatch) -> Home:
    for name in (POSTGRES_URL, "DAGSTER_HOME", "DAGSTER_EVENT_BATCH_SIZE", "DAGSTER_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("ANALYTICS_HOME", str(tmp_path / "home"))
    return Home(tmp_path / "home")


@pytest.fixture
def instance(home) -> Iterator[dg.DagsterInstance]:
    with open_record(home) as opened:
        yield opened


@pytest.fixture
def start(instance, tmp_path) -> Callable[[], Any]:
    """Start the daemon, again after its death."""
    file = tmp_path / "shop.py"
    file.write_text(DEFINITIONS)

    @contextmanager
    def started() -> Iterator[Daemon]:
        target = PythonFileTarget(str(file), attribute=None, working_directory=str(tmp_path), location_name="shop")
        with create_test_daemon_workspace_context(target, instance) as context:
            yield Daemon(instance, context, tmp_path)

    return started


def parent_of(process: int) -> int:
    return int(re.findall(r"PPid:\s+(\d+)", Path(f"/proc/{process}/status").read_text())[0])


def noted(instance: dg.DagsterInstance, **tags: str) -> dg.DagsterRun:
    """A run that has started; which process computes it is for the test to say."""
    return instance.add_run(dg.DagsterRun("__ASSET_JOB", status=DagsterRunStatus.STARTED, tags=tags))


def kill(processes: Iterable[int]) -> None:
    for process in processes:
        os.kill(process, signal.SIGKILL)


def test_a_run_that_died_with_its_code_server_is_begun_anew_and_twice_at_most(home, instance, start) -> None:
    with start() as daemon:
        # Retries begin with what fails from now on.
        daemon.round()
        refused, first = daemon.submit("refuses"), daemon.submit("waits", "2011-10-30")
        daemon.round()
        worker = daemon.worker(first)
        daemon.round()
        assert daemon.status(first) == DagsterRunStatus.STARTED, "a live run is left alone"
        until(lambda: daemon.status(refused) == DagsterRunStatus.FAILURE)
        kill([parent_of(worker), worker])
    platform = build_platform(parse_settings('[business]\ntime_zone = "UTC"\ncurrency = "GBP"\n', "x"), home)
    look = lambda: look_at_ended_runs(instance, outbox_of(platform), [], datetime.now(UTC))  # noqa: E731
    with start() as daemon:
        assert daemon.status(first) == DagsterRunStatus.STARTED, "nobody has said that it is dead"
        daemon.round()
        assert daemon.status(first) == DagsterRunStatus.FAILURE
        second = daemon.retry_of(first)
        look()
        kill([daemon.worker(second)])
        until(lambda: daemon.status(second) == DagsterRunStatus.FAILURE)
        daemon.round()
        third = daemon.retry_of(second)
        look()
        assert [one.alert.subject for one in outbox_of(platform).alerts()] == ["refuses"], "it may still succeed"
        kill([daemon.worker(third)])
        until(lambda: daemon.status(third) == DagsterRunStatus.FAILURE)
        daemon.round()
        assert daemon.retry_of(third) is None and daemon.retry_of(refused) is None
    assert instance.get_runs_count() == 4
    look()
    told = [(one.alert.subject, one.alert.partition, one.alert.run_id) for one in outbox_of(platform).alerts()]
    assert ("waits", "2011-10-30", third) in told and len(told) == 2
    record_runs(platform, instance)
    with engine() as connection:
        attach(connection, platform.lake.pin(BATCH_RUNS))
        rows = connection.sql("SELECT partition, run_retry, status FROM batch_runs WHERE asset = 'waits' ORDER BY 2").fetchall()
    assert rows == [("2011-10-30", retry, "failure") for retry in (0, 1, 2)]


def test_a_run_that_is_to_begin_while_the_code_server_is_dead_begins_when_it_is_back(instance, start) -> None:
    with start() as daemon:
        at_work = daemon.submit("waits", "2011-10-30")
        daemon.round()
        worker, waiting = daemon.worker(at_work), daemon.submit("waits", "2011-10-31")
        kill([parent_of(worker), worker])
        daemon.round()
        assert daemon.status(waiting) == DagsterRunStatus.QUEUED
    with start() as daemon:
        daemon.round()
        kill([daemon.worker(waiting)])


def test_a_run_that_somebody_cancels_ends_though_its_step_would_be_tried_again(instance, start) -> None:
    with start() as daemon:
        run = daemon.submit("is_tried_again")
        daemon.round()
        daemon.worker(run)
        assert instance.run_launcher.terminate(run)
        until(lambda: daemon.status(run) == DagsterRunStatus.CANCELED)
        assert not instance.all_logs(run, of_type=dg.DagsterEventType.STEP_UP_FOR_RETRY)


def test_a_catch_up_is_alive_while_its_process_holds_the_homes_lock(home, instance) -> None:
    run = noted(instance, **{CATCH_UP: "true"})
    look = lambda: instance.run_launcher.check_run_worker_health(run).status  # noqa: E731
    with home.lock("run"):
        assert look() == WorkerStatus.RUNNING
    assert look() == WorkerStatus.FAILED


def test_a_process_with_the_number_of_a_dead_worker_is_not_taken_for_it(instance) -> None:
    def look(process: int, **tags: str) -> WorkerStatus:
        run = noted(instance, **tags)
        instance.report_engine_event(f"Started process for run (pid: {process}).", run)
        return instance.run_launcher.check_run_worker_health(run).status

    assert look(os.getpid()) == WorkerStatus.FAILED
    assert look(os.getpid(), **{HOST: socket.gethostname()}) == WorkerStatus.FAILED
    assert look(os.getpid(), **{HOST: "another"}) == WorkerStatus.RUNNING, "its processes are not seen from here"
    zombie = subprocess.Popen([sys.executable, "-c", "from multiprocessing.spawn import spawn_main"])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    assert look(zombie.pid) == WorkerStatus.FAILED, "dead, and nobody has asked for its exit code"
    zombie.wait()
    assert look(zombie.pid) == WorkerStatus.FAILED


def test_a_run_of_a_process_that_nobody_launched_is_left_alone(instance) -> None:
    assert instance.run_launcher.check_run_worker_health(noted(instance)).status == WorkerStatus.RUNNING


def test_a_run_that_a_person_began_is_over_when_its_process_is_gone(instance, monkeypatch) -> None:
    @dg.asset
    def orders():
        os.kill(os.getpid(), signal.SIGKILL)

    by_hand = multiprocessing.get_context("fork").Process(target=dg.materialize, args=([orders],), kwargs={"instance": instance})
    by_hand.start()
    by_hand.join()
    [killed] = instance.get_runs()
    look = lambda: instance.run_launcher.check_run_worker_health(killed).status  # noqa: E731
    assert killed.status == DagsterRunStatus.STARTED and look() == WorkerStatus.FAILED
    monkeypatch.setenv(POSTGRES_URL, "postgresql+psycopg2://another.machine/record")
    assert look() == WorkerStatus.RUNNING, "it may be at work on another machine"
    monkeypatch.setenv(POSTGRES_URL, "")
    at_work = noted(instance)
    instance.report_engine_event(f"Executing steps in process (pid: {os.getpid()})", at_work)
    assert instance.run_launcher.check_run_worker_health(at_work).status == WorkerStatus.RUNNING
