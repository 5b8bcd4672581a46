"""The outbox: each alert once while it stands, each message delivered, tried again, or told as undelivered."""

import contextlib
import multiprocessing
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from analytics_assets.operations import outbox as module
from analytics_assets.operations.outbox import STEPS, Alert, Outbox, OutboxError

NOW = datetime(2026, 3, 31, 4, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def alert(key: str = "failed:orders:2026-03-30", **more) -> Alert:
    return Alert(key, "failed", "error", "orders", "no such column", **more)


@pytest.fixture
def outbox(tmp_path) -> Outbox:
    return Outbox(tmp_path / "alerts.sqlite")


def test_what_stands_is_one_alert_however_often_it_is_seen(outbox) -> None:
    first = outbox.raise_alert(alert(), NOW)
    assert outbox.raise_alert(alert(), NOW + MINUTE) == first
    [one] = outbox.alerts()
    assert (one.times_seen, one.raised_at, one.seen_at, one.recovered_at) == (2, NOW, NOW + MINUTE, None)


def test_what_comes_back_after_it_was_right_is_a_new_alert(outbox) -> None:
    first = outbox.raise_alert(alert(), NOW)
    assert outbox.recover(alert().key, NOW + MINUTE) and not outbox.recover(alert().key, NOW + MINUTE)
    assert outbox.raise_alert(alert(), NOW + 2 * MINUTE) == first + 1
    assert [one.number for one in outbox.alerts(standing_only=True)] == [first + 1]


def test_what_fails_inside_together_leaves_nothing_behind(outbox) -> None:
    with pytest.raises(ZeroDivisionError), outbox.together():
        outbox.seen_first("run", NOW)
        outbox.raise_alert(alert(), NOW)
        _ = 1 / 0
    assert outbox.alerts() == [] and outbox.seen_first("run", NOW)


def test_an_alert_is_written_once_to_each_address(outbox) -> None:
    number = outbox.raise_alert(alert(), NOW)
    assert [(one.number, news) for one, news in outbox.unaddressed(NOW)] == [(number, "raised")]
    outbox.address(number, "raised", ["A#1", "A#2"], NOW)
    outbox.address(number, "raised", ["A#1", "A#2"], NOW)
    assert outbox.unaddressed(NOW) == []
    assert (outbox.due(NOW), len(outbox.take("A#1", NOW)), len(outbox.take("A#2", NOW))) == (["A#1", "A#2"], 1, 1)


def test_the_end_is_told_to_whom_the_beginning_was_and_old_stories_to_nobody(outbox) -> None:
    outbox.raise_alert(alert("old"), NOW - timedelta(days=9))
    outbox.recover("old", NOW - timedelta(days=8))
    standing = outbox.raise_alert(alert("old and standing"), NOW - timedelta(days=9))
    brief = outbox.raise_alert(alert("brief"), NOW - MINUTE)
    outbox.recover("brief", NOW)
    news = [(one.number, what) for one, what in outbox.unaddressed(NOW - timedelta(days=1))]
    assert news == [(standing, "raised"), (brief, "raised"), (brief, "recovered")]


def test_taken_messages_are_nobody_elses_until_the_lease_runs_out(outbox) -> None:
    outbox.address(outbox.raise_alert(alert(), NOW), "raised", ["A#1"], NOW)
    [mine] = outbox.take("A#1", NOW)
    assert outbox.take("A#1", NOW + 4 * MINUTE) == [] == outbox.due(NOW + 4 * MINUTE)
    [again] = outbox.take("A#1", NOW + 6 * MINUTE)
    assert (again.number, again.alert_number, again.attempts) == (mine.number, mine.alert_number, 2)
    outbox.delivered([again], NOW + 6 * MINUTE)
    assert outbox.due(NOW + timedelta(days=9)) == [] and outbox.alerts()[0].delivery == "raised: delivered, A#1"


def test_the_beginning_of_an_alert_is_never_told_after_its_end(outbox) -> None:
    number = outbox.raise_alert(alert(), NOW)
    outbox.address(number, "raised", ["A#1"], NOW)
    now = NOW
    for pause in (1, 2, 4):
        outbox.refused(outbox.take("A#1", now), "answered 500", 9, now)
        now += pause * MINUTE
    mine = outbox.take("A#1", now)
    outbox.recover(alert().key, now)
    outbox.address(number, "recovered", ["A#1"], now)
    assert outbox.take("A#1", now) == [], "whoever tells of the beginning is still at it"
    outbox.refused(mine, "answered 500", 9, now)
    assert outbox.due(now + MINUTE) == ["A#1"], "the end alone is due, the beginning in eight minutes"
    both = outbox.take("A#1", now + MINUTE)
    assert [(one.news, one.is_over) for one in both] == [("raised", True), ("recovered", True)]


def test_pauses_double_up_to_an_hour_and_then_it_is_undelivered_until_somebody_asks(outbox) -> None:
    outbox.address(outbox.raise_alert(alert(), NOW), "raised", ["A#1"], NOW)
    now, pauses = NOW, []
    for _ in range(9):
        messages = outbox.take("A#1", now)
        outbox.refused(messages, "answered 500", 9, now)
        before = now
        while not outbox.due(now) and now - before < timedelta(hours=3):
            now += MINUTE
        pauses.append((now - before) // MINUTE)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 180]
    assert outbox.undelivered() == {"A#1": 1}
    assert outbox.alerts()[0].delivery == "raised: undelivered, A#1, 9 attempts (answered 500)"
    assert outbox.try_again(now) == 1 and outbox.undelivered() == {} and outbox.due(now) == ["A#1"]


def test_what_nobody_delivers_is_overdue(outbox) -> None:
    outbox.address(outbox.raise_alert(alert(), NOW), "raised", ["A#1"], NOW)
    assert outbox.overdue(NOW) == {} and outbox.overdue(NOW + MINUTE) == {"A#1": 1}


def test_an_outbox_that_is_not_there_is_empty_and_asking_makes_none(outbox) -> None:
    assert outbox.alerts() == [] and outbox.undelivered() == {} and outbox.note("x") is None and outbox.seen_until() is None
    assert not outbox.file.exists()


KILLED_IN_A_TRANSACTION = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size = 1")
connection.execute("BEGIN IMMEDIATE")
connection.execute("UPDATE notes SET value = 'half written'")
connection.executemany("INSERT INTO notes VALUES (?, ?)", [(f"n{number}", "x" * 500) for number in range(500)])
os._exit(9)
"""


def test_who_reads_after_a_kill_in_a_transaction_sees_what_was_before_it(outbox) -> None:
    """The sensor reads first: it failed at every tick, for ever."""
    outbox.raise_alert(alert(), NOW)
    outbox.take_note("watched_at", "before")
    subprocess.run([sys.executable, "-c", KILLED_IN_A_TRANSACTION, str(outbox.file)], check=False)
    assert outbox.file.with_name(f"{outbox.file.name}-journal").exists(), "the transaction had reached the file"
    assert outbox.note("watched_at") == "before" and len(outbox.alerts()) == 1 and outbox.note("n1") is None


def raise_many(file, worker: int) -> None:
    box = Outbox(file)
    for number in range(25):
        with box.together():
            if box.seen_first(f"run {number}", NOW):
                made = box.raise_alert(alert(f"key {number}"), NOW)
                box.address(made, "raised", ["A#1"], NOW)
        box.take("A#1", NOW)


def test_processes_at_once_raise_each_alert_once_and_take_each_message_once(outbox) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=raise_many, args=(outbox.file, worker)) for worker in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
    assert sorted(one.alert.key for one in outbox.alerts()) == sorted(f"key {number}" for number in range(25))
    with sqlite3.connect(outbox.file) as connection:
        assert connection.execute("SELECT min(attempts), max(attempts), count(*) FROM messages").fetchone() == (1, 1, 25)


def test_a_file_from_before_it_had_a_version_keeps_its_alerts_and_gets_one(tmp_path) -> None:
    file = tmp_path / "alerts.sqlite"
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.executescript(STEPS[0])
        connection.execute(
            """INSERT INTO alerts (key, kind, severity, subject, owners, text, raised_at, seen_at)
            VALUES ('k', 'stale', 'error', 'orders', '', 'old', '2026-01-01T00:00:00+00:00', '2026-01-01T00:00:00+00:00')"""
        )
        connection.commit()
    Outbox(file).take_note("watched_at", "now")
    [standing] = Outbox(file).alerts(standing_only=True)
    assert standing.alert.text == "old"
    with contextlib.closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(STEPS),)


def test_steps_that_are_new_are_taken_once_and_whole(tmp_path, monkeypatch) -> None:
    file = tmp_path / "alerts.sqlite"
    Outbox(file).take_note("watched_at", "now")
    more = (*STEPS, "ALTER TABLE alerts ADD COLUMN ticket TEXT; CREATE TABLE broken (x INTEGER, x INTEGER)")
    monkeypatch.setattr(module, "STEPS", more)
    with pytest.raises(sqlite3.OperationalError, match="duplicate column"):
        Outbox(file).take_note("watched_at", "later")
    monkeypatch.setattr(module, "STEPS", (*STEPS, "ALTER TABLE alerts ADD COLUMN ticket TEXT"))
    for _ in range(2):
        Outbox(file).take_note("watched_at", "later")
    monkeypatch.setattr(module, "STEPS", STEPS)
    with pytest.raises(OutboxError, match="alerts.sqlite was written by a newer version"):
        Outbox(file).take_note("watched_at", "earlier code")
    assert Outbox(file).note("watched_at") == "later"
