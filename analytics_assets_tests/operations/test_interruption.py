"""One Ctrl-C: in a step that would be tried again, in a callback that swallows it, in a query that is being executed, in `run`."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import dagster as dg
import duckdb
import pytest
from dagster import DagsterRunStatus

from analytics_assets.home import Home
from analytics_assets.operations.catch_up import StepFailed
from analytics_assets.operations.interruption import cancelling_runs, interruptible
from analytics_assets.operations.launcher import CATCH_UP
from analytics_assets.operations.outbox import Outbox
from analytics_assets.operations.record import POSTGRES_URL, open_record
from analytics_assets.warehouse.assets import RETRIES, only_passing_faults_retried
from analytics_assets.warehouse.engine import engine

RUN = "import sys; sys.argv = ['analytics-assets', 'run']\nfrom analytics_assets.cli import main\nmain()"


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_a_step_that_is_interrupted_is_not_begun_again_and_the_next_one_not_at_all() -> None:
    attempts = []

    @dg.asset(retry_policy=RETRIES)
    def first() -> None:
        with only_passing_faults_retried("first"):
            attempts.append("first")
            press()
            time.sleep(5)

    @dg.asset
    def second() -> None:
        attempts.append("second")

    assert not dg.materialize([first, second], raise_on_error=False).success
    assert attempts == ["first"]


def test_an_interrupt_that_something_swallows_is_repeated() -> None:
    with pytest.raises(KeyboardInterrupt), interruptible() as interrupted:
        with contextlib.suppress(KeyboardInterrupt):
            press()
            time.sleep(5)
        until = time.monotonic() + 30
        while time.monotonic() < until:
            time.sleep(0.1)
        assert interrupted()
        pytest.fail("it was forgotten")


def test_an_interrupt_ends_a_query_that_is_being_executed() -> None:
    with pytest.raises(KeyboardInterrupt), interruptible():
        threading.Timer(0.5, press).start()
        with engine() as connection:
            connection.execute("SELECT count(*) FROM range(30_000_000_000) AS t(i) WHERE hash(i) = 3")
            pytest.fail("it was computed to its end")


def test_what_an_interrupt_makes_of_a_step_is_no_failure_and_its_run_was_cancelled() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        at_work = instance.add_run(dg.DagsterRun("__ASSET_JOB", status=DagsterRunStatus.STARTED, tags={CATCH_UP: "true"}))
        with pytest.raises(KeyboardInterrupt), interruptible() as interruption, cancelling_runs(instance, interruption):
            try:
                press()
                time.sleep(5)
            except KeyboardInterrupt:
                raise StepFailed("orders: interrupted") from None
        assert instance.get_run_by_id(at_work.run_id).status == DagsterRunStatus.CANCELED


def test_what_fails_without_an_interrupt_has_failed() -> None:
    with pytest.raises(duckdb.Error), interruptible():
        raise duckdb.Error("no such column")
    assert signal.set_wakeup_fd(-1) == -1, "nobody listens any more"


def test_a_run_says_what_it_is_at_and_one_interrupt_ends_it_without_an_alert(new_company, lines, tmp_path) -> None:
    company = new_company(lines.autumn())
    (tmp_path / "analytics.toml").write_text(lines.settings)
    environment = os.environ | {
        "ANALYTICS_HOME": str(company.home.root),
        "ANALYTICS_CONFIG": str(tmp_path / "analytics.toml"),
        "EXPORTS": str(company.export),
        POSTGRES_URL: "",
    }
    run = subprocess.Popen(
        [sys.executable, "-c", RUN], env=environment, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    begun = [run.stdout.readline(), run.stdout.readline()]
    assert [line.split("  ", 1)[1].strip() for line in begun] == [
        "load export files",
        "events  2011-10-29-00:00 to 2011-11-01-23:00",
    ]
    run.send_signal(signal.SIGINT)
    said, printed = run.communicate(timeout=60)
    assert (run.returncode, printed) == (130, "")
    assert said.splitlines()[-1] == "stopped; what was committed stands, and the same command goes on from there"
    with open_record(Home(company.home.root)) as instance:
        assert {one.status for one in instance.get_runs()} <= {DagsterRunStatus.SUCCESS, DagsterRunStatus.CANCELED}
    assert Outbox(company.home.alerts).alerts() == []
