"""What the command line says when something goes wrong: one line, the rest in a file."""

import os
import signal
import subprocess
import sys
import traceback

import dagster as dg
import duckdb
import pytest

from analytics_assets import cli
from analytics_assets.make_run import errors_into
from analytics_assets.operations.record import open_record
from analytics_assets.settings import PROJECT_ROOT
from analytics_assets.warehouse.lake import LakeError

NO_SPACE = 'IO Error: Could not write file "orders.parquet": No space left on device'


@pytest.fixture
def run(tmp_path, monkeypatch, lines, capfd):
    """Run `analytics-assets run`, whose work is what is given; what it ends with, and what it says."""
    (tmp_path / "analytics.toml").write_text(lines.settings)
    monkeypatch.setenv("ANALYTICS_CONFIG", str(tmp_path / "analytics.toml"))
    monkeypatch.setenv("ANALYTICS_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.setattr(sys, "argv", ["analytics-assets", "run"])

    def ran(work):
        def instead(_settings, home, *_):
            with errors_into(home.root / "run.log"):
                work()

        monkeypatch.setattr(cli, "make_run", instead)
        with pytest.raises((SystemExit, duckdb.Error)) as ended:
            cli.main()
        return ended.value, capfd.readouterr().out

    return ran


def test_a_disk_that_was_full_is_told_in_one_line_though_what_did_not_fit_is_gone_again(run, tmp_path, capfd) -> None:
    def work():
        try:
            os.write(2, b"thread 'tokio-rt-worker' panicked\n")
            raise RuntimeError("could not write a log")
        except RuntimeError:
            traceback.print_exc(file=os.fdopen(os.dup(2), "w"))
            raise duckdb.IOException(NO_SPACE) from None

    ended, said = run(work)
    assert ended.code == 1
    home = tmp_path / "home"
    hint = f"The disk of {home} is full: make room and run the same command again. What was committed stands."
    assert said == f"error: {NO_SPACE}. {hint}\n"
    log = (home / "run.log").read_text()
    assert log.startswith("thread 'tokio-rt-worker' panicked\n") and "could not write a log" in log
    os.write(2, b"shown again")
    assert capfd.readouterr().err == "shown again"


def test_what_nobody_foresaw_is_shown_as_it_is(run) -> None:
    def work():
        raise duckdb.BinderException("no such column")

    ended, said = run(work)
    assert isinstance(ended, duckdb.BinderException) and said == ""


def test_versions_show_run_ids_whole_and_a_restore_says_what_is_under_way(branch, capsys) -> None:
    cli._versions(branch.settings, branch.home, "orders", 1)
    with branch.instance() as instance:
        ids = {run.run_id for run in instance.get_runs()}
    said = "".join(capsys.readouterr().out.replace("│", " ").split())
    assert any(run_id in said for run_id in ids)
    with open_record(branch.home) as instance:
        instance.add_run(dg.DagsterRun("__ASSET_JOB", status=dg.DagsterRunStatus.STARTED))
    with pytest.raises(LakeError, match="orders has no version 9999"):
        cli._restore(branch.settings, branch.home, "orders", 9999)
    assert capsys.readouterr().out == ""
    cli._restore(branch.settings, branch.home, "orders", 0)
    assert "1 runs are under way: what they commit to orders from now on" in capsys.readouterr().out


# A line at one go: that of another program may come between two.
PROGRAM = "import os, signal, time; {at_ctrl_c}; os.write(1, b'{name} is here\\n'); time.sleep(60)"
UI = """
import sys
from pathlib import Path
from analytics_assets import cli
from analytics_assets.home import Home
cli._webserver = lambda host, port: [sys.executable, "-c", sys.argv[2]]
cli._daemon = lambda: [sys.executable, "-c", sys.argv[3]]
sys.exit(cli._ui(Home(Path(sys.argv[1])), 0))
"""


@pytest.mark.parametrize("ended_by", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_ends_the_ui_ends_both_programs_and_ctrl_c_reaches_neither_them_nor_their_runs(tmp_path, ended_by) -> None:
    told = "signal.signal(signal.SIGINT, lambda *_: os.write(1, b'was interrupted'))"
    programs = [PROGRAM.format(at_ctrl_c=told, name=name) for name in ("web server", "daemon")]
    ui = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", UI, str(tmp_path), *programs],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, cwd=PROJECT_ROOT,
    )  # fmt: skip
    said = [ui.stdout.readline() for _ in range(3)]
    assert "runs at work go on" in said[0]
    assert sorted(said[1:]) == ["daemon is here\n", "web server is here\n"]
    # As a terminal does: to everybody in the foreground.
    os.killpg(ui.pid, ended_by)
    rest, _ = ui.communicate(timeout=30)
    assert ui.returncode == 0 and rest == "", "the pipe is closed: nobody is left that could write to it"
