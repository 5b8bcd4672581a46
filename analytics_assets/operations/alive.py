"""Whether the platform does its work, for a watcher outside: a monitor, cron on another machine, a load balancer.

Reads Dagster's storage, the outbox and the disk, and loads no code location: it answers when nothing else does.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
from deltalake import DeltaTable

from analytics_assets.home import Home
from analytics_assets.operations.outbox import Outbox
from analytics_assets.settings import Settings

# Each of the daemon's eight threads gives a sign every half minute unless it is at something: one may be for minutes, all of them are not.
DEAD = timedelta(minutes=3)
SILENT = timedelta(minutes=10)
# The load runs every hour whether or not there is something new.
LOAD_DUE = timedelta(hours=3)
UNPUBLISHED = timedelta(minutes=10)
OVERDUE = timedelta(hours=1)
LEAST_FREE = 2**30


@dataclass(frozen=True)
class Answer:
    """Whether all is well, and the line that says so or says everything that is not."""

    alive: bool
    line: str


def look(settings: Settings, home: Home, instance: dg.DagsterInstance, now: datetime) -> Answer:
    """Look at daemons, the load, publication, delivery and the disk."""
    good: list[str] = []
    bad: list[str] = []
    looks: tuple[Callable[[], Iterator[tuple[bool, str]]], ...] = (
        lambda: _daemons(instance, now),
        lambda: _watch(home, now),
        lambda: _load(settings, instance, now),
        lambda: _publication(home, now),
        lambda: _delivery(home, now),
        lambda: _disk(home),
    )
    for each in looks:
        for fine, text in each():
            (good if fine else bad).append(text)
    return Answer(not bad, f"NOT ALIVE: {'; '.join(bad)}" if bad else f"alive: {'; '.join(good)}")


def _ago(now: datetime, then: datetime) -> str:
    minutes = (now - then).total_seconds() / 60
    return f"{minutes:.0f} min ago" if minutes < 120 else f"{minutes / 60:.0f} h ago"


def _daemons(instance: dg.DagsterInstance, now: datetime) -> Iterator[tuple[bool, str]]:
    beats = {kind: datetime.fromtimestamp(beat.timestamp, UTC) for kind, beat in instance.get_daemon_heartbeats().items()}
    if not beats:
        yield False, "the daemon has never run here, or was stopped: make ui"
        return
    newest = max(beats.values())
    if now - newest > DEAD:
        yield False, f"the daemon is dead, silent since {_ago(now, newest)}: make ui"
        return
    silent = [kind for kind in sorted(instance.get_required_daemon_types()) if kind not in beats or now - beats[kind] > SILENT]
    for kind in silent:
        yield False, f"daemon {kind} silent since {_ago(now, beats[kind]) if kind in beats else 'ever'}"
    if not silent:
        yield True, f"daemons heard of {_ago(now, min(beats.values()))}"


def _watch(home: Home, now: datetime) -> Iterator[tuple[bool, str]]:
    noted = Outbox(home.alerts).note("watched_at")
    if noted is None:
        yield False, "the sensor `alerts` has never run"
    else:
        watched = datetime.fromisoformat(noted)
        yield now - watched <= SILENT, f"alerts watched {_ago(now, watched)}"


def _load(settings: Settings, instance: dg.DagsterInstance, now: datetime) -> Iterator[tuple[bool, str]]:
    found = instance.fetch_materializations(dg.AssetKey("export_files"), limit=1).records
    if not found:
        yield False, "nothing has been loaded"
        return
    loaded = datetime.fromtimestamp(found[0].timestamp, UTC)
    last = settings.business.last_day
    historical = last is not None and last < now.astimezone(settings.business.zone).date()
    yield historical or now - loaded <= LOAD_DUE, f"loaded {_ago(now, loaded)}"


def _publication(home: Home, now: datetime) -> Iterator[tuple[bool, str]]:
    try:
        shown = json.loads((home.published / "versions.json").read_text())["versions"]
    except (FileNotFoundError, ValueError):
        yield False, f"{home.database} has never been published"
        return
    for name, version in sorted(shown.items()):
        if not DeltaTable.is_deltatable(str(home.lake / name)):
            continue
        newest = DeltaTable(str(home.lake / name)).version()
        if newest != version:
            committed = datetime.fromtimestamp(_log(home.lake / name, newest).stat().st_mtime, UTC)
            if now - committed > UNPUBLISHED:
                yield False, f"{home.database.name} shows version {version} of {name}, the lake has {newest}"
                return
    yield True, f"{home.database.name} shows the lake"


def _log(table: Path, version: int) -> Path:
    return table / "_delta_log" / f"{version:020}.json"


def _delivery(home: Home, now: datetime) -> Iterator[tuple[bool, str]]:
    outbox = Outbox(home.alerts)
    undelivered, overdue = outbox.undelivered(), outbox.overdue(now - OVERDUE)
    for address, count in undelivered.items():
        yield False, f"{count} messages undelivered to {address}"
    for address, count in overdue.items():
        yield False, f"{count} messages waiting for {address} for more than an hour"
    waiting = {address: count - overdue.get(address, 0) for address, count in outbox.waiting().items()}
    for address, count in waiting.items():
        if count:
            yield True, f"{count} messages waiting for {address}"
    if not undelivered and not any(waiting.values()) and not overdue:
        yield True, "every message delivered"


def _disk(home: Home) -> Iterator[tuple[bool, str]]:
    free = shutil.disk_usage(home.root).free
    yield free >= LEAST_FREE, f"{free / 2**30:.1f} GiB free"
