"""Recommendations by key, for the site: files that people can serve, and the same in Redis."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from analytics_assets.activation.generations import Channel, Generation
from analytics_assets.home import Home

if TYPE_CHECKING:
    import redis

LOCK = "activation-onsite"
DAYS_KEPT = 3
URL_VARIABLE = "ANALYTICS_REDIS_URL"
POINTER = "analytics:onsite:current"
FILES = {"customers.jsonl": "customer", "products.jsonl": "product"}
# 500 keys of about 2 KB are 1 MB on the way: round trips no longer count, and memory stays small.
KEYS_A_TRIP = 500
ROWS_A_BATCH = 10_000
# Lists of 300,000 customers at once took 3.0 GB and 22 s, in blocks of 20,000 0.65 GB and 10 s.
CUSTOMERS_A_BLOCK = 20_000
SECONDS_TO_ANSWER = 10
# The pointer never goes back to an older day, whoever comes last: names begin with the day. Nor does it move when the server has
# lost keys since they were written: one that was restarted, or took over for another, has lost their count with them.
_SWITCH = """
local written = redis.call('GET', KEYS[2])
redis.call('DEL', KEYS[2])
if written ~= ARGV[3] then return -1 end
local now = redis.call('GET', KEYS[1])
if now and string.sub(now, 1, 10) > string.sub(ARGV[1], 1, 10) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'EXAT', ARGV[2])
return 1
"""


class RedisUnavailable(OSError):
    """Redis did not answer or had no room; it may pass. Says what happened, never to which address."""


class RedisRefused(Exception):
    """Redis will not let us in, or the address is none: trying again changes nothing."""


def onsite_channel(home: Home) -> Channel:
    """`activation/onsite/` of a home."""
    return Channel(home.root / "activation" / "onsite", DAYS_KEPT)


def write_lines(blocks: Iterable[duckdb.DuckDBPyRelation], path: Path) -> int:
    """Write the column `line` of every row of every block as a line of UTF-8 text; gives the number of lines."""
    count = 0
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for batch in (batch for rows in blocks for batch in rows.to_arrow_reader(ROWS_A_BATCH)):
            file.writelines(f"{line}\n" for line in batch.column("line").to_pylist())
            count += batch.num_rows
    return count


def entries(generation: Generation) -> Iterator[tuple[str, str]]:
    """Key (`customer:ID`, `product:ID`) and JSON of every line of a generation's files."""
    for name, kind in FILES.items():
        with open(generation.folder / name, encoding="utf-8", newline="\n") as file:
            for line in file:
                text = line.rstrip("\n")
                yield f"{kind}:{json.loads(text)[f'{kind}_id']}", text


def redis_url() -> str | None:
    """Where the site's Redis is; None where there is none. A secret: it stands in no file, log or message."""
    return os.environ.get(URL_VARIABLE) or None


def generation_in_redis(url: str) -> str:
    """The generation that the site reads, or why there is none. One that was restarted empty has none, and one whose time to live is over."""
    import redis

    try:
        with _server(url) as server:
            return str(server.get(POINTER) or "none: it was emptied, or the time to live is over")
    except RedisRefused as error:
        return str(error)
    except redis.RedisError as error:
        return f"none: no answer ({type(error).__name__})"


def _server(url: str) -> redis.Redis:
    import redis

    try:
        return redis.Redis.from_url(
            url, socket_timeout=SECONDS_TO_ANSWER, socket_connect_timeout=SECONDS_TO_ANSWER, decode_responses=True
        )
    except ValueError:
        raise RedisRefused(f"{URL_VARIABLE} is no address of a Redis server, such as redis://host:6379/0") from None


def publish_to_redis(url: str, generation: str, pairs: Iterable[tuple[str, str]], hours_to_live: int) -> bool:
    """Write a generation's keys, then let the pointer lead to it: readers see all of the old one or all of the new one.

    A reader gets `analytics:onsite:current` and, with what it holds, `analytics:onsite:<generation>:customer:<id>` or
    `…:product:<id>`. All keys and the pointer expire in the same second, `hours_to_live` from now; what an unfinished attempt
    left expires with them. Writing a generation again renews it.

    Returns:
        Whether the pointer leads to it; False when it leads to a newer day's.

    Raises:
        RedisUnavailable: no answer, no room, or keys that were written are lost; the pointer is as it was.
        RedisRefused: a wrong password, or no address.
    """
    import redis

    server = _server(url)
    expires_at = int(time.time()) + hours_to_live * 3600
    pairs, written, count = iter(pairs), f"analytics:onsite:written:{uuid.uuid4()}", 0
    try:
        with server:
            while some := list(islice(pairs, KEYS_A_TRIP)):
                trip = server.pipeline(transaction=False)
                for key, value in some:
                    trip.set(f"analytics:onsite:{generation}:{key}", value, exat=expires_at)
                trip.incrby(written, len(some))
                trip.expireat(written, expires_at)
                trip.execute()
                count += len(some)
            switched = int(server.eval(_SWITCH, 2, POINTER, written, generation, str(expires_at), str(count)))
    # The causes are left out: their messages may hold the address.
    except (redis.AuthenticationError, redis.exceptions.NoPermissionError) as error:
        raise RedisRefused(f"Redis refuses us ({type(error).__name__}): check {URL_VARIABLE}") from None
    except redis.RedisError as error:
        raise RedisUnavailable(
            f"Redis did not take generation {generation} ({type(error).__name__}); the last one stands"
        ) from None
    if switched < 0:
        raise RedisUnavailable(f"Redis lost keys of generation {generation} while it was written; the last one stands")
    return bool(switched)
