"""`alive` answers without the code location: one line, and what is wrong is in it."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._daemon.types import DaemonHeartbeat

from analytics_assets.operations import alive
from analytics_assets.operations.outbox import Alert, Outbox
from analytics_assets.settings import parse_settings

LIVE = parse_settings('[business]\ntime_zone = "Europe/London"\ncurrency = "GBP"\nfirst_day = 2011-10-29\n', "x")


@pytest.fixture
def healthy(branch):
    """The shop, with daemons and the watch at work: what `look` says after some minutes."""
    with branch.instance() as instance:
        # The shop of the tests may have been made a while ago.
        instance.report_runless_asset_event(dg.AssetMaterialization("export_files"))
        now = datetime.now(UTC)
        outbox = Outbox(branch.home.alerts)

        def work(minutes: float, *at_something: str) -> None:
            """Give the signs that a daemon gives, but for threads that are at something."""
            at = now + timedelta(minutes=minutes)
            outbox.take_note("watched_at", at.isoformat())
            for kind in set(instance.get_required_daemon_types()).difference(at_something):
                instance.add_daemon_heartbeat(DaemonHeartbeat(at.timestamp(), kind, "x", []))

        def look(minutes: float = 1, settings=LIVE) -> alive.Answer:
            return alive.look(settings, branch.home, instance, now + timedelta(minutes=minutes))

        look.work = work
        work(0)
        yield branch, outbox, look


def test_all_is_well(healthy) -> None:
    answer = healthy[2]()
    assert answer.alive, answer.line
    assert answer.line.startswith(
        "alive: daemons heard of 1 min ago; alerts watched 1 min ago; loaded 1 min ago; analytics.duckdb"
    )
    assert "\n" not in answer.line


def test_a_dead_daemon_is_noticed_after_three_minutes(healthy) -> None:
    look = healthy[2]
    assert look(minutes=2.9).alive
    answer = look(minutes=4)
    assert not answer.alive and "the daemon is dead, silent since 4 min ago" in answer.line and "SENSOR" not in answer.line
    assert "alerts watched 11 min ago" in look(minutes=11).line


def test_a_thread_that_is_at_something_for_minutes_is_not_silent_and_one_that_stays_silent_is_noticed(healthy) -> None:
    look = healthy[2]
    look.work(9, "ASSET")
    assert look(minutes=9.5).alive
    look.work(11, "ASSET")
    answer = look(minutes=11.5)
    assert not answer.alive and "daemon ASSET silent since 12 min ago" in answer.line and "dead" not in answer.line


def test_a_load_that_is_hours_old_is_noticed_unless_the_business_is_over(healthy) -> None:
    branch, _, look = healthy
    assert "loaded 4 h ago" in look(minutes=240).line
    assert "loaded" not in look(minutes=240, settings=branch.settings).line


def test_a_publication_that_is_behind_is_noticed_after_ten_minutes(healthy) -> None:
    branch, _, look = healthy
    versions = branch.home.published / "versions.json"
    shown = versions.read_text()
    versions.write_text(shown.replace('"orders": ', '"orders": 99'))
    for log in (branch.home.lake / "orders" / "_delta_log").iterdir():
        os.utime(log, (datetime.now().timestamp(),) * 2)
    look.work(9)
    assert look(minutes=9).alive
    assert "the lake has" in look(minutes=11).line
    versions.unlink()
    assert "has never been published" in look().line


def test_messages_that_nobody_accepts_or_delivers_are_noticed(healthy) -> None:
    _, outbox, look = healthy
    now = datetime.now(UTC)
    number = outbox.raise_alert(Alert("k", "late", "error", "orders", "x"), now)
    outbox.address(number, "raised", ["B#1"], now)
    assert look().alive and "1 messages waiting for B#1" in look().line and "delivered" not in look().line
    outbox.address(number, "raised", ["A#1"], now - timedelta(hours=2))
    assert "1 messages waiting for A#1 for more than an hour" in look().line
    outbox.refused(outbox.take("A#1", now), "answered 500", 1, now)
    assert "1 messages undelivered to A#1" in look().line


def test_a_full_disk_is_noticed(healthy, monkeypatch) -> None:
    monkeypatch.setattr(alive.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 2**29})())
    assert "0.5 GiB free" in healthy[2]().line and not healthy[2]().alive


def test_the_command_says_one_line_and_loads_no_code_location(tmp_path) -> None:
    (tmp_path / "analytics.toml").write_text('[business]\ntime_zone = "UTC"\ncurrency = "GBP"\n')
    environment = os.environ | {"ANALYTICS_CONFIG": str(tmp_path / "analytics.toml"), "ANALYTICS_HOME": str(tmp_path / "home")}
    program = (
        "import sys; sys.argv = ['analytics-assets', 'alive']\nfrom analytics_assets.cli import main\n"
        "try: main()\nfinally: print('analytics_assets.definitions' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], env=environment, capture_output=True, text=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    line, loaded = done.stdout.splitlines()
    assert done.returncode == 1 and line.startswith("NOT ALIVE: the daemon has never run here") and loaded == "False"
