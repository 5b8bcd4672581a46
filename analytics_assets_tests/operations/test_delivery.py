"""Delivery through Apprise to an endpoint on this machine that accepts, fails half the time, answers 500, or hangs."""

import io
import json
import logging
import random
import re
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from analytics_assets.operations import delivery
from analytics_assets.operations.delivery import addresses_for, deliver, send_by_apprise, urls_of, write_messages, written
from analytics_assets.operations.outbox import Alert, Message, Outbox
from analytics_assets.settings import AlertRoute, Alerts, SettingsError, parse_settings

NOW = datetime(2026, 3, 31, 4, 0, tzinfo=UTC)
SETTINGS = Alerts(routes=(AlertRoute(urls="TEST_URLS"),))


DRIPS = -1


class Endpoint(ThreadingHTTPServer):
    """Keeps what it accepted; `answers` says what the next request gets: a status, None to hang, DRIPS for no end."""

    def __init__(self, answers) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.accepted, self.asked, self.released = answers, [], 0, threading.Event()

    @property
    def url(self) -> str:
        return f"json://someone:s3cret@127.0.0.1:{self.server_port}/hook/t0ken?rto=0.5&cto=0.5"

    def numbers(self) -> Counter:
        """How often each piece of news was accepted; of what was over before it could be told both are."""
        said = [body["message"] for body in self.accepted]
        over = [f"{number} recovered" for text in said for number in re.findall(r"(?m)^(#\d+) .*, over by now: ", text)]
        return Counter(over + [found for text in said for found in re.findall(r"#\d+ (?:ERROR|WARNING|recovered)", text)])


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.asked += 1
        status = server.answers()
        if status is None:
            server.released.wait(30)
            return
        if status == DRIPS:
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            while not server.released.wait(0.05):
                self.wfile.write(b"x")
            return
        if status == 200:
            server.accepted.append(body)
        self.send_response(status)
        self.end_headers()

    def log_message(self, *_) -> None: ...


@pytest.fixture
def endpoint(monkeypatch):
    made = []

    def start(answers) -> Endpoint:
        server = Endpoint(answers)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        made.append(server)
        monkeypatch.setenv("TEST_URLS", " ".join(one.url for one in made))
        return server

    yield start
    for server in made:
        server.released.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def outbox(tmp_path) -> Outbox:
    return Outbox(tmp_path / "alerts.sqlite")


def alert(number: int, severity: str = "error", run: str | None = "0123456789", owners: tuple[str, ...] = ()) -> Alert:
    return Alert(f"key {number}", "check failed", severity, "orders", f"text {number}", owners=owners, run_id=run)


class Minutes:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now

    def until_done(self, outbox: Outbox, settings: Alerts = SETTINGS) -> None:
        """Tick every minute for a day."""
        for _ in range(24 * 60):
            if outbox.due(self.now):
                write_messages(outbox, settings, self.now)
                deliver(outbox, settings, self, send_by_apprise)
            self.now += timedelta(minutes=1)


def test_an_endpoint_that_fails_half_the_time_gets_each_alert_exactly_once(outbox, endpoint) -> None:
    generator, clock = random.Random(5), Minutes()
    server = endpoint(lambda: generator.choice([200, 500, 503]))
    for number in range(30):
        outbox.raise_alert(alert(number, run=f"run {number // 3}"), clock())
        if number % 3 == 0:
            outbox.recover(f"key {number}", clock())
        write_messages(outbox, SETTINGS, clock())
        deliver(outbox, SETTINGS, clock, send_by_apprise)
        clock.now += timedelta(minutes=7)
    clock.until_done(outbox)
    assert set(server.numbers().values()) == {1} and len(server.numbers()) == 40
    assert outbox.undelivered() == {} and server.asked > len(server.accepted)


def test_an_endpoint_that_only_answers_500_ends_in_undelivered_and_so_it_is_told(outbox, endpoint) -> None:
    server, clock = endpoint(lambda: 500), Minutes()
    outbox.raise_alert(alert(1), clock())
    write_messages(outbox, SETTINGS, clock())
    clock.until_done(outbox)
    assert (server.asked, outbox.undelivered()) == (8, {"TEST_URLS#1": 1})
    assert outbox.alerts()[0].delivery == "raised: undelivered, TEST_URLS#1, 8 attempts (answered 500)"


def test_an_endpoint_that_hangs_is_given_up_in_time_and_tried_again(outbox, endpoint) -> None:
    answers = iter([None, 200])
    server, clock = endpoint(lambda: next(answers)), Minutes()
    outbox.raise_alert(alert(1), clock())
    write_messages(outbox, SETTINGS, clock())
    assert deliver(outbox, SETTINGS, clock, send_by_apprise) == (0, 1)
    assert "no answer in time" in outbox.alerts()[0].delivery
    clock.until_done(outbox)
    assert server.numbers() == {"#1 ERROR": 1}


def test_an_endpoint_whose_answer_never_ends_keeps_no_other_from_hearing_and_no_program_from_ending(
    outbox, endpoint, monkeypatch
) -> None:
    """Six such answers filled the pool of threads that Apprise keeps, and nothing was sent to anybody any more."""
    monkeypatch.setattr(delivery, "SECONDS_TO_ANSWER", 0.3)
    dripping, good, clock = endpoint(lambda: DRIPS), endpoint(lambda: 200), Minutes()
    threads = threading.active_count()
    for number in range(10):
        outbox.raise_alert(alert(number), clock())
        write_messages(outbox, SETTINGS, clock())
        deliver(outbox, SETTINGS, clock, send_by_apprise)
        clock.now += timedelta(minutes=1)
    assert good.numbers() == {f"#{number} ERROR": 1 for number in range(1, 11)}
    assert dripping.asked == 1 and threading.active_count() <= threads + 3
    assert {thread.name for thread in threading.enumerate() if not thread.daemon} == {"MainThread"}
    clock.until_done(outbox)
    assert outbox.undelivered() == {"TEST_URLS#1": 10}
    assert "has not ended its answer" in outbox.alerts()[0].delivery


def test_a_crash_between_sending_and_recording_sends_the_same_number_again(outbox, endpoint) -> None:
    server, clock = endpoint(lambda: 200), Minutes()
    outbox.raise_alert(alert(1), clock())
    write_messages(outbox, SETTINGS, clock())

    def killed_after_sending(url: str, title: str, text: str, bad: bool) -> str | None:
        assert send_by_apprise(url, title, text, bad) is None
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deliver(outbox, SETTINGS, clock, killed_after_sending)
    clock.until_done(outbox)
    assert server.numbers() == {"#1 ERROR": 2} and outbox.undelivered() == {}


def test_one_deaf_address_does_not_keep_another_from_hearing_nor_make_it_hear_twice(outbox, endpoint) -> None:
    deaf, good, clock = endpoint(lambda: 500), endpoint(lambda: 200), Minutes()
    outbox.raise_alert(alert(1), clock())
    write_messages(outbox, SETTINGS, clock())
    clock.until_done(outbox)
    assert (deaf.asked, good.asked, good.numbers()) == (8, 1, {"#1 ERROR": 1})


def test_news_of_one_tick_is_one_message(outbox, endpoint) -> None:
    server, clock = endpoint(lambda: 200), Minutes()
    outbox.raise_alert(alert(0), clock())
    write_messages(outbox, SETTINGS, clock())
    deliver(outbox, SETTINGS, clock, send_by_apprise)
    outbox.recover("key 0", clock())
    for number in range(1, 26):
        outbox.raise_alert(alert(number), clock())
    write_messages(outbox, SETTINGS, clock())
    assert deliver(outbox, SETTINGS, clock, send_by_apprise) == (26, 0)
    body = server.accepted[-1]
    assert body["title"] == "Analytics: 25 new, 1 recovered" and body["type"] == "failure"
    assert "#1 recovered: orders, check failed" in body["message"] and body["message"].endswith(
        "and 5 more: analytics-assets alerts"
    )


def test_what_is_over_before_anybody_was_told_is_told_as_over(outbox, endpoint) -> None:
    server, clock = endpoint(lambda: 200), Minutes()
    for number in (1, 2):
        outbox.raise_alert(alert(number), clock())
        outbox.recover(f"key {number}", clock())
    outbox.raise_alert(alert(3), clock())
    write_messages(outbox, SETTINGS, clock())
    assert deliver(outbox, SETTINGS, clock, send_by_apprise) == (5, 0)
    outbox.raise_alert(alert(4), clock())
    outbox.recover("key 4", clock())
    write_messages(outbox, SETTINGS, clock())
    deliver(outbox, SETTINGS, clock, send_by_apprise)
    several, one = server.accepted
    assert (several["title"], several["type"]) == ("Analytics: 1 new, 2 over by now", "failure")
    assert several["message"].splitlines() == [
        "#3 ERROR check failed (run 01234567): text 3",
        "#1 ERROR check failed (run 01234567), over by now: text 1",
        "#2 ERROR check failed (run 01234567), over by now: text 2",
    ]
    assert (one["title"], one["type"]) == ("orders: check failed, over by now", "success")
    assert set(server.numbers().values()) == {1} and len(server.numbers()) == 7


def test_what_nobody_accepted_while_it_stood_is_told_as_over_when_it_is_tried_again(outbox, endpoint) -> None:
    answer = [500]
    server, clock = endpoint(lambda: answer[0]), Minutes()
    outbox.raise_alert(alert(1), clock())
    write_messages(outbox, SETTINGS, clock())
    clock.until_done(outbox)
    answer[0] = 200
    outbox.recover("key 1", clock())
    write_messages(outbox, SETTINGS, clock())
    clock.until_done(outbox)
    assert outbox.try_again(clock()) == 1
    clock.until_done(outbox)
    assert [one["title"] for one in server.accepted] == [
        "orders: check failed, recovered",
        "orders: check failed, over by now",
    ]


def test_nothing_of_a_url_is_in_the_outbox_the_log_or_an_error(outbox, endpoint, capfd, monkeypatch) -> None:
    server, clock = endpoint(lambda: 500), Minutes()
    # As a program's log gets it: pytest's own listens to Apprise itself.
    logged = io.StringIO()
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.StreamHandler(logged)])
    monkeypatch.setenv("TEST_URLS", f"{server.url} gibberish-s3cret json://s3cret.invalid/t0ken?rto=0.2&cto=0.2")
    outbox.raise_alert(alert(1), clock())
    write_messages(outbox, SETTINGS, clock())
    deliver(outbox, SETTINGS, clock, send_by_apprise)
    out, err = capfd.readouterr()
    found = outbox.file.read_bytes() + f"{logged.getvalue()}{out}{err}{outbox.alerts()[0].delivery}".encode()
    assert b"t0ken" not in found and b"s3cret" not in found
    assert "not a URL that Apprise knows" in outbox.alerts()[0].delivery


def test_routes_go_by_owner_and_severity(monkeypatch) -> None:
    monkeypatch.setenv("ONE", "json://a json://b")
    monkeypatch.setenv("OTHER", "json://c")
    routes = (
        AlertRoute(urls="ONE", severities=("error",)),
        AlertRoute(urls="OTHER", owners=("team:shop",)),
        AlertRoute(urls="UNSET_VARIABLE", owners=("team:shop",)),
    )
    of = lambda **more: addresses_for(alert(1, **more), routes)  # noqa: E731
    assert of(owners=("team:shop",)) == ["ONE#1", "ONE#2", "OTHER#1", "UNSET_VARIABLE"]
    assert of(severity="warning", owners=("team:shop",)) == ["OTHER#1", "UNSET_VARIABLE"]
    assert of(owners=("team:other",)) == ["ONE#1", "ONE#2"]
    assert of(severity="warning", owners=("team:other",)) == []
    assert of() == ["ONE#1", "ONE#2", "OTHER#1", "UNSET_VARIABLE"], "what nobody owns is everybody's"
    deaf = Alert("now:undelivered:ONE#1", "undelivered", "error", "platform", "x")
    assert addresses_for(deaf, routes) == ["ONE#2", "OTHER#1", "UNSET_VARIABLE"]


def test_without_an_address_alerts_are_kept_nothing_waits_and_what_stands_is_told_once_there_is_one(outbox, monkeypatch) -> None:
    monkeypatch.delenv("TEST_URLS", raising=False)
    for number in (1, 2):
        outbox.raise_alert(alert(number), NOW)
    for _ in range(2):
        write_messages(outbox, SETTINGS, NOW)
        assert outbox.due(NOW) == [] and outbox.overdue(NOW + timedelta(days=1)) == {}
        assert outbox.alerts()[0].delivery == "raised: no address, TEST_URLS"
    outbox.recover("key 1", NOW)
    monkeypatch.setenv("TEST_URLS", "json://a")
    write_messages(outbox, SETTINGS, NOW + timedelta(days=2))
    [message] = outbox.take("TEST_URLS#1", NOW + timedelta(days=2))
    assert (message.alert_number, message.news) == (2, "raised")
    assert outbox.alerts()[0].delivery == "raised: taken, TEST_URLS#1, 1 attempts"


def test_who_is_told_for_the_first_time_hears_of_what_stands_and_not_of_what_was_over_before(outbox, monkeypatch) -> None:
    monkeypatch.delenv("TEST_URLS", raising=False)
    for number in (1, 2):
        outbox.raise_alert(alert(number), NOW)
    outbox.recover("key 1", NOW)
    write_messages(outbox, SETTINGS, NOW)
    monkeypatch.setenv("TEST_URLS", "json://a")
    first, later = NOW + timedelta(hours=1), NOW + timedelta(hours=2)
    write_messages(outbox, SETTINGS, first)
    # A process without the address leaves what comes and goes from now on to one that has it.
    monkeypatch.delenv("TEST_URLS")
    outbox.raise_alert(alert(3), later)
    outbox.recover("key 3", later)
    write_messages(outbox, SETTINGS, later)
    monkeypatch.setenv("TEST_URLS", "json://a")
    write_messages(outbox, SETTINGS, later)
    told = [(message.alert_number, message.news) for message in outbox.take("TEST_URLS#1", later)]
    assert told == [(2, "raised"), (3, "raised"), (3, "recovered")]


def test_a_url_that_was_taken_away_is_a_problem_that_is_told(outbox, monkeypatch) -> None:
    monkeypatch.setenv("TEST_URLS", "json://a json://b")
    outbox.raise_alert(alert(1), NOW)
    write_messages(outbox, SETTINGS, NOW)
    monkeypatch.setenv("TEST_URLS", "json://a")
    assert deliver(outbox, SETTINGS, Minutes(), lambda *_: None) == (1, 1)
    assert "(TEST_URLS has no URL number 2)" in outbox.alerts()[0].delivery


def test_a_process_without_the_addresses_leaves_messages_to_one_that_has_them(outbox, monkeypatch) -> None:
    monkeypatch.setenv("TEST_URLS", "json://a")
    outbox.raise_alert(alert(1), NOW)
    write_messages(outbox, SETTINGS, NOW)
    monkeypatch.delenv("TEST_URLS")
    assert deliver(outbox, SETTINGS, Minutes(), lambda *_: None) == (0, 0)
    [message] = outbox.take("TEST_URLS#1", NOW)
    assert message.attempts == 1


def test_a_message_says_what_where_and_which_run() -> None:
    raised = Message(1, 17, "raised", "A#1", 1, alert(4), is_over=False)
    assert written([raised]) == ("orders: check failed", "#17 ERROR check failed (run 01234567): text 4")
    over = Message(2, 17, "recovered", "A#1", 1, alert(4), is_over=True)
    assert written([over]) == ("orders: check failed, recovered", "#17 recovered: orders, check failed")


def test_slow_addresses_leave_the_rest_to_the_next_tick(outbox, monkeypatch) -> None:
    monkeypatch.setenv("TEST_URLS", "json://a json://b json://c")
    outbox.raise_alert(alert(1), NOW)
    write_messages(outbox, SETTINGS, NOW)
    clock = Minutes()

    def slow(*_) -> None:
        clock.now += timedelta(seconds=delivery.SECONDS_TO_DELIVER - 15)

    assert deliver(outbox, SETTINGS, clock, slow) == (2, 0)
    assert deliver(outbox, SETTINGS, clock, slow) == (1, 0)


def test_a_url_in_the_settings_is_refused_by_name_and_line() -> None:
    text = '[business]\ntime_zone = "UTC"\ncurrency = "GBP"\n[[alerts.routes]]\nurls = "https://hooks.example.com/x"\n'
    with pytest.raises(SettingsError, match=r"analytics.toml:5: alerts.routes.urls"):
        parse_settings(text, "analytics.toml")


def test_urls_are_apart_by_spaces_or_lines(monkeypatch) -> None:
    monkeypatch.setenv("TEST_URLS", " json://a\njson://b ")
    assert urls_of("TEST_URLS") == ["json://a", "json://b"]
