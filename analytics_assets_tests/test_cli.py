"""What the command line says: what there is after a run, what other weights would change, and one line when something goes wrong."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import traceback
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal

import dagster as dg
import duckdb
import pyarrow as pa
import pytest
from dagster._daemon.types import DaemonHeartbeat

from analytics_assets import cli, make_run
from analytics_assets.events.kissmetrics_files import ExportError
from analytics_assets.home import Home
from analytics_assets.make_run import errors_into
from analytics_assets.operations import catch_up, delivery
from analytics_assets.operations.alerts import look_at_deaf_addresses
from analytics_assets.operations.catch_up import Done, Stage, StepFailed
from analytics_assets.operations.delivery import outbox_of
from analytics_assets.operations.interruption import Interruption
from analytics_assets.operations.outbox import Alert, Outbox
from analytics_assets.operations.record import open_record
from analytics_assets.saas.churn.tables import CHURN_SCORES
from analytics_assets.saas.health import effect
from analytics_assets.settings import PROJECT_ROOT, Health, parse_settings
from analytics_assets.terminal import console
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


@pytest.mark.parametrize("stop", ["", "."])
def test_the_hint_at_a_full_disk_is_a_sentence_of_its_own(run, stop: str) -> None:
    def work():
        raise OSError(f"{os.strerror(errno.ENOSPC)}{stop}")

    assert f"error: {os.strerror(errno.ENOSPC)}. The disk of " in run(work)[1]


@pytest.fixture
def interruption():
    """Nobody presses Ctrl-C."""
    listening = Interruption()
    yield listening
    listening.listen_no_more()


@pytest.mark.parametrize("broken", ["changed", "missing"])
def test_a_load_that_fails_ends_with_one_line_and_an_alert_which_the_next_good_one_ends(
    company, branch, interruption, monkeypatch, broken: str
) -> None:
    file, kept = branch.export / "revisions" / "1.json", branch.export.with_name("kept")
    if broken == "changed":
        file.write_bytes(file.read_bytes() + b"{}\n")
        os.utime(file, (1, 1))
    else:
        branch.export.rename(kept)
    monkeypatch.setattr(catch_up, "catch_up", lambda *_: [])
    monkeypatch.setattr(make_run, "_report", lambda *_: None)

    def failed() -> list[str]:
        standing = outbox_of(branch.platform()).alerts(standing_only=True)
        return [one.alert.subject for one in standing if one.alert.kind == "failed"]

    def end() -> None:
        make_run.make_run(branch.settings, branch.home, None, "kissmetrics", interruption)

    with pytest.raises(StepFailed, match="revisions/1.json" if broken == "changed" else str(branch.export)):
        end()
    assert failed() == ["export_files"]
    if broken == "changed":
        shutil.copy2(company.export / "revisions" / "1.json", file)
    else:
        kept.rename(branch.export)
    end()
    assert failed() == []


def test_an_export_that_is_not_there_is_no_export_of_a_new_home(tmp_path, lines, interruption) -> None:
    settings, home = parse_settings(lines.settings, "x"), Home(tmp_path / "home")
    with pytest.raises(ExportError, match="nowhere"):
        make_run.make_run(settings, home, str(tmp_path / "nowhere"), "kissmetrics", interruption)
    assert home.contents().exports is None


@pytest.mark.parametrize(
    ("arguments", "port", "said"),
    [
        (["restore", "orders", "abc"], None, "'abc' is no version of a table, such as 7"),
        (["versions", "orders", "--newest", "-1"], None, "'-1' is no number of versions"),
        (["webserver"], "abc", "'abc' is no port"),
        (["ui", "--port", "70000"], None, "'70000' is no port"),
    ],
)
def test_a_number_that_is_none_is_told_by_what_it_is_to_be(monkeypatch, capsys, arguments, port, said) -> None:
    monkeypatch.setattr(sys, "argv", ["analytics-assets", *arguments])
    if port:
        monkeypatch.setenv("PORT", port)
    with pytest.raises(SystemExit):
        cli.main()
    assert said in capsys.readouterr().err


def test_accept_tells_what_was_read_again_from_what_was_new(branch, lines, capsys) -> None:
    line = lines.event("purchased", "gus@x.test", lines.at("2011-10-30 20:00"), order_id="12", order_total="2.00")
    branch.add(12, lines.at("2011-11-02 09:00"), [line])
    cli._accept(branch.settings, branch.home, ["revisions/1.json"])
    said = "loaded again: revisions/1.json; loaded with them, since they were new: revisions/12.json (15 lines in all). "
    assert capsys.readouterr().out.startswith(said)
    cli._accept(branch.settings, branch.home, ["revisions/12.json"])
    assert capsys.readouterr().out.startswith("loaded again: revisions/12.json (1 lines in all). ")


def test_what_a_retry_delivers_is_undelivered_no_more(tmp_path, lines, monkeypatch, capsys) -> None:
    monkeypatch.setenv("ANALYTICS_ALERT_URLS", "json://a")
    settings, home, now = parse_settings(f"{lines.settings}[alerts]\nattempts = 1\n", "x"), Home(tmp_path), datetime.now(UTC)
    outbox = Outbox(home.alerts)
    outbox.raise_alert(Alert("key", "stale", "error", "orders", "late"), now)
    delivery.write_messages(outbox, settings.alerts, now)
    delivery.deliver(outbox, settings.alerts, lambda: now, lambda *_: "answered 500")
    look_at_deaf_addresses(outbox, now)
    assert sorted(one.alert.kind for one in outbox.alerts(standing_only=True)) == ["stale", "undelivered"]
    monkeypatch.setattr(delivery, "send_by_apprise", lambda *_: None)
    cli._alerts(settings, home, every=False, retry=True)
    assert [one.alert.kind for one in outbox.alerts(standing_only=True)] == ["stale"]
    said = capsys.readouterr().out
    assert "1 accepted now" in said and "could not be delivered" not in said


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
    rows = branch.query("SELECT count(*) FROM orders")[0][0]
    cli._restore(branch.settings, branch.home, "orders", 0)
    said = capsys.readouterr().out
    assert rows > 0 and f", with 0 rows where {rows} were; " in said
    assert "1 runs are under way: what they commit to orders from now on" in said


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
    with open_record(Home(tmp_path)) as instance:
        instance.add_daemon_heartbeat(DaemonHeartbeat(0.0, "SENSOR", "x", []))
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
    # A daemon that a person has stopped is not missed.
    with open_record(Home(tmp_path)) as instance:
        assert bool(instance.get_daemon_heartbeats()) == (ended_by != signal.SIGINT)


# --------------------------------------------------------------------------------------------------- what there is


@pytest.fixture
def said(capsys, monkeypatch):
    """What was printed, line by line, a row of a grid as its cells."""
    monkeypatch.setattr(console, "width", 400)

    def lines() -> list[list[str]]:
        printed = capsys.readouterr().out.splitlines()
        return [[cell.strip() for cell in line.replace("┃", "│").strip("│").split("│")] for line in printed]

    return lines


DAY = date(2011, 11, 1)


def write(branch, table, rows: list[dict]) -> None:
    full = [{name: row.get(name) for name in table.column_names} for row in rows]
    branch.platform().lake.replace(table, pa.Table.from_pylist(full, schema=table.arrow_schema()), f"as_of_date = '{DAY}'", {})


def test_a_run_ends_with_its_tables_the_best_customers_and_the_revenue_at_risk(branch, said, monkeypatch) -> None:
    why = "raises: 60 % fewer events; 12 days idle; lowers: long customer"
    score = {"as_of_date": DAY, "kind": "account", "band": "high", "model_id": "m", "reasons": why, "currency": "EUR"}
    figures = {"a [small] one": (0.9, "20", "18"), "large": (0.25, "4000", "1000"), "free": (0.8, "0", "0")}
    rows = [
        score | {"subject_id": name, "probability": probability, "mrr": Decimal(mrr), "mrr_at_risk": Decimal(risk)}
        for name, (probability, mrr, risk) in figures.items()
    ]
    write(branch, CHURN_SCORES, rows)
    branch.platform().publish()
    done = [
        Done(Stage(("export_files",), "", "", 1), 2.0, {}),
        Done(Stage(("orders", "customers"), "2011-10-29", "2011-11-01", 4), 5.0, {"orders": 1.25, "customers": 0.5}),
        Done(Stage(("orders",), "2011-11-01", "2011-11-01", 1), 1.0, {"orders": 0.5}, held_back="the list is empty [3]"),
    ]
    for key, kind in (("a", "check failed"), ("b", "stale"), ("c", "check failed"), ("d", "late")):
        outbox_of(branch.platform()).raise_alert(
            Alert(key, kind, "warning", "orders", "what is wrong"), datetime(2011, 11, 2, tzinfo=UTC)
        )
    outbox_of(branch.platform()).recover("d", datetime(2011, 11, 3, tzinfo=UTC))
    monkeypatch.setenv("ANALYTICS_HOME", "/a home")
    monkeypatch.setenv("PORT", "8080")
    make_run._report(branch.platform(), done, 9.0, 11.5)
    told = said()
    orders, customers = branch.query("SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM customers)")[0]
    assert ["orders", f"{orders:,}", "5", "1.8"] in told and ["customers", f"{customers:,}", "4", "0.5"] in told
    assert ["identities", f"{branch.query('SELECT count(*) FROM identities')[0][0]:,}", "-", "-"] in told
    (empty,) = (line[0] for line in told if line[0].startswith("Empty: "))
    assert "email_sends" in empty and "orders" not in empty
    ((best, value),) = branch.query(
        f"SELECT customer_id, lifetime_value FROM customer_ltv WHERE as_of_date = '{DAY}' ORDER BY 2 DESC, 1 LIMIT 1"
    )
    first = told.index(["customer", "orders", "so far", "expected", "lifetime value"]) + 2
    assert (told[first][0], told[first][-1]) == (best, f"{value:,.2f} GBP")
    head = told.index(["account", "pays a month", "may leave", "at risk", "what raises it"])
    assert told[head + 2 : head + 4] == [
        ["large", "4,000.00", "25%", "1,000.00 EUR", "60 % fewer events"],
        ["a [small] one", "20.00", "90%", "18.00 EUR", "60 % fewer events"],
    ]
    assert not any("free" in line for line in told)
    plain = [line[0] for line in told]
    assert "held back: the list is empty [3]" in plain
    assert "alerts: check failed (2), stale. What each says: .venv/bin/analytics-assets alerts" in plain
    # 888.00 and 999.00 of conftest.py.
    assert any(line.startswith("2 events lie before first_day (2011-10-29) or after the end (2011-11-01)") for line in plain)
    assert "batch 9.0 s: loading 2.0, computing 2.2, Dagster's bookkeeping and start 4.8; with everything 11.5 s" in plain
    [ui] = (line for line in plain if line.startswith("make ui ANALYTICS_HOME='/a home' PORT=8080 "))
    assert ui.endswith("http://127.0.0.1:8080")


def test_other_weights_of_health_are_told_by_band_by_score_and_by_what_became_of_accounts(
    branch, lines, said, monkeypatch, tmp_path
) -> None:
    settings = tmp_path / "new.toml"
    settings.write_text("[health]\nhealthy = 75\n")
    asked = []
    told = effect.Effect(
        hour=datetime(2011, 11, 1, 12, tzinfo=UTC),
        accounts=1_200,
        moves={("healthy", "healthy"): 1_000, ("healthy", "neutral"): 150, ("neutral", "at risk"): 50},
        scores_now=(10.0, 30.0, 50.0, 70.0, 90.0),
        scores_new=(5.0, 25.04, 50.0, 70.0, 90.0),
        horizon_days=30,
        separations=(effect.Separation(date(2011, 10, 2), 1_100, 40, 0.7125, 0.75), effect.Separation(DAY, 9, 0, None, None)),
    )
    monkeypatch.setattr(effect, "weights_effect", lambda platform, new: asked.append(new) or told)
    cli._health(branch.settings, branch.home, settings)
    shown = said()
    assert asked == [Health(healthy=75)]
    assert shown[:3] == [
        ["2011-11-01 12:00: 200 of 1,200 accounts would change their band"],
        ["healthy -> neutral: 150"],
        ["neutral -> at risk: 50"],
    ]
    assert ["score", "10% below", "25% below", "50% below", "75% below", "90% below"] in shown
    assert ["now", "10.0", "30.0", "50.0", "70.0", "90.0"] in shown and ["new", "5.0", "25.0", "50.0", "70.0", "90.0"] in shown
    assert ["2011-10-02", "1,100", "40", "0.713", "0.750"] in shown and ["2011-11-01", "9", "0", "-", "-"] in shown
    monkeypatch.setattr(effect, "weights_effect", lambda platform, new: replace(told, separations=()))
    cli._health(branch.settings, branch.home, settings)
    assert said()[-1] == ["No day has 30 days of outcome after it and 70 days of usage up to it: the past cannot tell yet."]
    monkeypatch.setattr(effect, "weights_effect", lambda platform, new: replace(told, accounts=0))
    cli._health(branch.settings, branch.home, settings)
    assert said() == [["2011-11-01 12:00: no account has a band yet, since too little is known of them"]]
