"""Redis on a real server: generations are switched whole, live as long as they should, and a dead server harms nothing."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import dagster as dg
import pytest
import redis

from analytics_assets.activation import onsite
from analytics_assets.activation.checks import activation_checks
from analytics_assets.activation.onsite import POINTER, RedisRefused, RedisUnavailable, publish_to_redis

DAY, NEXT = date(2026, 3, 3), date(2026, 3, 4)
CURRENT = dg.AssetCheckKey(dg.AssetKey("onsite_recommendations"), "is_current")
PASSWORD = "very-secret"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if not shutil.which("redis-server"):
        pytest.skip("there is no redis-server on this machine (Debian: apt-get install redis-server)")
    port = free_port()
    process = started(port, tmp_path_factory.mktemp("redis"))
    try:
        yield address_of(port)
    finally:
        process.terminate()
        process.wait()


def address_of(port: int) -> str:
    return f"redis://:{PASSWORD}@127.0.0.1:{port}/0"


def started(port: int, folder: Path) -> subprocess.Popen[bytes]:
    """A server that keeps nothing on disk, once it answers."""
    options = {"port": port, "bind": "127.0.0.1", "save": "", "appendonly": "no", "requirepass": PASSWORD, "dir": folder}
    command = ["redis-server", *(str(word) for name, value in options.items() for word in (f"--{name}", value))]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    for _ in range(100):
        try:
            redis.Redis.from_url(address_of(port)).ping()
            break
        except redis.ConnectionError:
            time.sleep(0.05)
    return process


@pytest.fixture
def server(url: str) -> redis.Redis:
    client = redis.Redis.from_url(url, decode_responses=True)
    client.flushall()
    client.config_set("maxmemory", 0)
    return client


def pairs(text: str, count: int = 1200) -> list[tuple[str, str]]:
    return [(f"customer:{n}", text) for n in range(count)]


def test_all_keys_and_the_pointer_expire_in_the_same_second(url: str, server: redis.Redis) -> None:
    assert publish_to_redis(url, "2026-03-03-aa", pairs("x"), hours_to_live=2)
    assert server.get(POINTER) == "2026-03-03-aa"
    assert server.get("analytics:onsite:2026-03-03-aa:customer:7") == "x"
    assert server.dbsize() == 1201
    (expiry,) = {server.expiretime(key) for key in server.scan_iter()}
    assert 7190 < expiry - time.time() <= 7200


def test_writing_again_renews_and_an_older_day_never_takes_over(url: str, server: redis.Redis) -> None:
    publish_to_redis(url, "2026-03-04-bb", pairs("new", 3), 1)
    assert not publish_to_redis(url, "2026-03-03-zz", pairs("old", 3), 1)
    assert server.get(POINTER) == "2026-03-04-bb"
    assert publish_to_redis(url, "2026-03-04-aa", pairs("remade", 3), 5)
    assert server.get(POINTER) == "2026-03-04-aa" and server.ttl(POINTER) > 4 * 3600


def test_a_reader_sees_one_generation_whole_while_others_are_written(url: str, server: redis.Redis) -> None:
    publish_to_redis(url, "2026-03-03-00", pairs("00"), 1)
    stop, wrong, seen = threading.Event(), [], set()

    def read() -> None:
        client = redis.Redis.from_url(url, decode_responses=True)
        while not stop.is_set():
            generation = client.get(POINTER)
            found = set(client.mget([f"analytics:onsite:{generation}:customer:{n}" for n in range(0, 1200, 60)]))
            seen.add(generation)
            if found != {generation[-2:]}:
                wrong.append((generation, found))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(1, 15):
        publish_to_redis(url, f"2026-03-03-{number:02}", pairs(f"{number:02}"), 1)
    stop.set()
    reader.join()
    assert wrong == [] and len(seen) > 3


def test_a_writer_that_dies_halfway_leaves_the_pointer_and_its_keys_expire(url: str, server: redis.Redis) -> None:
    publish_to_redis(url, "2026-03-03-aa", pairs("good", 10), 1)

    def dying() -> Iterator[tuple[str, str]]:
        yield from pairs("half", 700)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish_to_redis(url, "2026-03-04-bb", dying(), 1)
    assert server.get(POINTER) == "2026-03-03-aa"
    left = list(server.scan_iter("analytics:onsite:2026-03-04-bb:*"))
    assert len(left) == 500 and all(0 < server.ttl(key) <= 3600 for key in left)


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_server_that_is_killed_while_it_is_written_never_shows_half_a_generation(tmp_path, url: str, comes_back: bool) -> None:
    port = free_port()
    processes = [started(port, tmp_path)]

    def killing() -> Iterator[tuple[str, str]]:
        for number, pair in enumerate(pairs("new", 1800)):
            if number == 700:
                processes[-1].kill()
                processes[-1].wait()
                if comes_back:
                    processes.append(started(port, tmp_path))
            yield pair

    try:
        publish_to_redis(address_of(port), "2026-03-03-aa", pairs("good", 10), 1)
        says = "lost keys of generation 2026-03-04-bb while" if comes_back else "did not take generation 2026-03-04-bb"
        with pytest.raises(RedisUnavailable, match=says):
            publish_to_redis(address_of(port), "2026-03-04-bb", killing(), 1)
        if not comes_back:
            processes.append(started(port, tmp_path))
        server = redis.Redis.from_url(address_of(port), decode_responses=True)
        assert server.get(POINTER) is None, "what it showed went with its memory"
        assert publish_to_redis(address_of(port), "2026-03-04-bb", pairs("new", 1800), 1)
        assert server.get(POINTER) == "2026-03-04-bb" and server.dbsize() == 1801
    finally:
        processes[-1].kill()
        processes[-1].wait()


def test_keys_that_were_lost_while_others_were_written_leave_the_pointer(url: str, server: redis.Redis) -> None:
    publish_to_redis(url, "2026-03-03-aa", pairs("good", 10), 1)

    def losing() -> Iterator[tuple[str, str]]:
        yield from pairs("new", 600)
        server.flushall()
        publish_to_redis(url, "2026-03-03-aa", pairs("good", 10), 1)
        yield from pairs("new", 600)

    with pytest.raises(RedisUnavailable, match="lost keys of generation 2026-03-04-bb"):
        publish_to_redis(url, "2026-03-04-bb", losing(), 1)
    assert server.get(POINTER) == "2026-03-03-aa"


def test_a_server_without_room_is_a_passing_fault_and_keeps_the_pointer(url: str, server: redis.Redis) -> None:
    publish_to_redis(url, "2026-03-03-aa", pairs("good", 10), 1)
    server.config_set("maxmemory", 1)
    try:
        with pytest.raises(RedisUnavailable, match="2026-03-04-bb"):
            publish_to_redis(url, "2026-03-04-bb", pairs("x" * 1000), 1)
        assert server.get(POINTER) == "2026-03-03-aa"
    finally:
        server.config_set("maxmemory", 0)


def test_no_error_says_where_the_server_is_or_its_password(url: str, server: redis.Redis) -> None:
    nowhere = f"redis://:{PASSWORD}@127.0.0.1:{free_port()}/0"
    wrong = url.replace(PASSWORD, PASSWORD + "-wrong")
    for address, kind in ((nowhere, RedisUnavailable), (wrong, RedisRefused), (f"http://{PASSWORD}@x", RedisRefused)):
        with pytest.raises(kind) as error:
            publish_to_redis(address, "2026-03-03-aa", pairs("x", 1), 1)
        text = f"{error.value}{error.value.__cause__}"
        assert PASSWORD not in text and "127.0.0.1" not in text and error.value.__suppress_context__


# ---------------------------------------------------------------------------------------------------- through the asset


def test_what_the_site_reads_is_what_the_files_say(evening, monkeypatch, url: str, server: redis.Redis) -> None:
    monkeypatch.setenv(onsite.URL_VARIABLE, url)
    assert evening.run("onsite_recommendations").success
    generation = server.get(POINTER)
    assert generation == evening.manifest("onsite")["generation"]
    line = (evening.folder("onsite") / "customers.jsonl").read_text().splitlines()[0]
    assert server.get(f"analytics:onsite:{generation}:customer:ann@x.test") == line
    assert json.loads(server.get(f"analytics:onsite:{generation}:product:p1"))["related"][0]["product_id"] == "p2"
    assert server.ttl(POINTER) <= 72 * 3600


def test_a_dead_redis_is_tried_again_and_the_last_generation_stays_in_file_and_server(
    evening, monkeypatch, why_of, url: str, server: redis.Redis
) -> None:
    monkeypatch.setenv(onsite.URL_VARIABLE, url)
    evening.run("onsite_recommendations", day=DAY)
    before = server.get(POINTER)
    monkeypatch.setenv(onsite.URL_VARIABLE, f"redis://:{PASSWORD}@127.0.0.1:{free_port()}/0")
    monkeypatch.setattr("analytics_assets.activation.assets.RETRIES", dg.RetryPolicy(max_retries=1, delay=0))
    result = evening.run("onsite_recommendations", day=NEXT)
    assert not result.success and len([e for e in result.all_events if e.event_type_value == "STEP_RESTARTED"]) == 1
    everything = " ".join(f"{event.message} {event.event_specific_data}" for event in result.all_events)
    assert "Redis did not take generation 2026-03-04" in everything and PASSWORD not in everything
    assert server.get(POINTER) == before
    assert (evening.folder("onsite").parent / "current").resolve().name == before and not evening.folder("onsite", NEXT).exists()
    status = evening.status("onsite")
    assert status["state"] == "held" and "Redis did not take" in status["reasons"][0] and PASSWORD not in str(status)
    monkeypatch.setenv(onsite.URL_VARIABLE, url)
    assert evening.run("onsite_recommendations", day=NEXT).success
    assert server.get(POINTER).startswith("2026-03-04") and evening.status("onsite")["reasons"] == []


def test_a_server_that_has_lost_what_the_site_reads_is_told_and_gets_it_again(
    evening, monkeypatch, url: str, server: redis.Redis
) -> None:
    monkeypatch.setenv(onsite.URL_VARIABLE, url)
    evening.settings_text = evening.settings_text.replace("last_day = 2026-03-05", f"last_day = {DAY}")
    evening.run("onsite_recommendations")
    (check,) = (one for one in activation_checks(evening.platform) if one.check_key == CURRENT)

    def served(at: str = url) -> tuple[bool, str]:
        monkeypatch.setenv(onsite.URL_VARIABLE, at)
        result = check()
        assert PASSWORD not in str(result.metadata)
        return result.passed, result.metadata["served by Redis"].value

    assert served() == (True, evening.manifest("onsite")["generation"])
    server.flushall()
    assert served() == (False, "none: it was emptied, or the time to live is over")
    assert served(f"redis://:{PASSWORD}@127.0.0.1:{free_port()}/0") == (False, "none: no answer (ConnectionError)")
    assert served("nowhere")[0] is False
    monkeypatch.setenv(onsite.URL_VARIABLE, url)
    evening.run("onsite_recommendations")
    assert served()[0]


def test_a_wrong_password_fails_at_the_first_attempt(evening, monkeypatch, why_of, url: str, server: redis.Redis) -> None:
    monkeypatch.setenv(onsite.URL_VARIABLE, url.replace(PASSWORD, "wrong"))
    result = evening.run("onsite_recommendations")
    assert "check ANALYTICS_REDIS_URL" in why_of(result)
    assert not [e for e in result.all_events if e.event_type_value == "STEP_RESTARTED"]
