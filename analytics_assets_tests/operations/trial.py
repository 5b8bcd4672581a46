"""`python -W ignore -m analytics_assets_tests.operations.trial FOLDER MINUTES`: the real daemon at real time, killed at random.

A small company's export comes in hour by hour, some of it late, with lines that were days under way. Web server, daemon, code servers and
workers are killed -9 and begun anew as a supervisor would; addresses for alerts fail, hang and refuse. Afterwards it is judged:

- every partition of every table equals that of a home to which nothing happened (by digest), and nothing is left to run; what is as of a
  day more than a week ago, and only that, may differ for what came later than a week, and is then named as outdated;
- no partition ran again without a change of what it is computed from, other than in a run that Dagster began anew;
- each alert arrived once at each address, or is told as undelivered; what comes twice comes from a death while it was sent;
- `alive` notices a dead daemon, and never says so of one that lives;
- the daemon's memory, minute by minute; processes that are left over.

It needs an hour, and a core for half of it. Ends with 1 if anything was wrong; `FOLDER` keeps the logs.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import dagster as dg
import polars as pl
from dagster import RunsFilter
from dagster._core.execution.backfill import BulkActionStatus
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

from analytics_assets.definitions import build_definitions, build_platform
from analytics_assets.home import Home
from analytics_assets.operations.alive import look
from analytics_assets.operations.automation import is_restated_at_any_age
from analytics_assets.operations.catch_up import events_to_run
from analytics_assets.operations.outbox import Outbox
from analytics_assets.operations.outdated import outdated_days
from analytics_assets.operations.record import open_record
from analytics_assets.partitions import LOOKBACK
from analytics_assets.settings import Settings, parse_settings
from analytics_assets.simulation import kissmetrics, kissmetrics_software, retailer, software
from analytics_assets.warehouse.work import Platform
from analytics_assets_tests.conftest import write_export
from analytics_assets_tests.operations.endpoints import ADDRESSES, Endpoints
from analytics_assets_tests.upgrade import digests

PROGRAM = str(Path(sys.executable).parent / "analytics-assets")
# A part of what happened so many days ago comes in at the end, later than the seven days whose as-of tables are restated by themselves.
DAYS_BEFORE, DAYS_LATE, HOURS_AT_THE_END = 12, (9, 10), 30
SECONDS_BETWEEN_FILES, SECONDS_BETWEEN_KILLS = 150, (45, 120)
# A daemon that begins is heard of after so long, and one that died is missed by then.
SECONDS_TO_BEGIN = 90
# Seconds for which what was killed is down. The daemon is first, and for so long that `alive` must tell.
PAUSES, LONGEST_PAUSE = (2.0, 10.0, 30.0, 60.0), 300.0
QUIET_MINUTES = 6
SETTINGS = """
[business]
time_zone = "{zone}"
currency = "GBP"
first_day = {first}
[operations]
night_starts_by = ""
[alerts]
attempts = 3
"""


@dataclass(frozen=True)
class Hour:
    """What of the export was received in one hour: a file that comes `late` hours after the next one."""

    received: int
    lines: list[bytes]
    late: int


def export_of(zone: str, first: date, last: date, chance: random.Random) -> list[Hour]:
    """The export of a small shop and a small software company, by the hour."""
    shop = retailer.Retailer(first, last, zone, customers=150, products=200)
    vendor = software.SoftwareCompany(first, last, zone, accounts=30)
    companies = (
        kissmetrics.company_lines(retailer.simulate(shop))[0],
        kissmetrics_software.company_lines(software.simulate(vendor))[0],
    )
    lines = pl.concat([file.select("line", "received") for company in companies for file in company.files])
    hours = lines.with_columns(hour=pl.col("received") // 3600).sort("received", maintain_order=True)
    return [
        Hour(int(found["received"][-1]), [line.encode() for line in found["line"]], chance.choice((0, 0, 0, 0, 2, 5)))
        for found in hours.partition_by("hour", maintain_order=True)
    ]


def held_back(hours: list[Hour], begin: int) -> list[bytes]:
    """Take every third line of the fullest hour of each of `DAYS_LATE` out of `hours`."""
    taken: list[bytes] = []
    for days in DAYS_LATE:
        of_day = [place for place, hour in enumerate(hours) if 0 <= hour.received - (begin - days * 86_400) < 86_400]
        fullest = max(of_day, key=lambda place: len(hours[place].lines))
        hour = hours[fullest]
        taken += hour.lines[::3]
        hours[fullest] = Hour(hour.received, [line for number, line in enumerate(hour.lines) if number % 3], hour.late)
    return taken


@dataclass
class Trial:
    """A home at work, and what happened to it."""

    folder: Path
    settings: Settings
    endpoints: Endpoints
    chance: random.Random
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    begins_at: dict[str, float] = field(default_factory=dict)
    kills: list[tuple[datetime, str]] = field(default_factory=list)
    heard: list[tuple[datetime, bool, str]] = field(default_factory=list)
    lives: list[tuple[datetime, datetime | None]] = field(default_factory=list)
    resident: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    oldest_sign: float = 0.0

    def __post_init__(self) -> None:
        self.home = Home(self.folder / "home")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    def environment(self, home: Path) -> dict[str, str]:
        """What a command finds around it."""
        of_home = {"ANALYTICS_HOME": str(home), "ANALYTICS_CONFIG": str(self.folder / "analytics.toml")}
        urls = self.endpoints.urls if home == self.home.root else ""
        return {**os.environ, **of_home, "ANALYTICS_ALERT_URLS": urls, "PYTHONWARNINGS": "ignore"}

    def run(self, *arguments: str, home: Path | None = None) -> str:
        """A command, to its end."""
        done = subprocess.run([PROGRAM, *arguments], env=self.environment(home or self.home.root), capture_output=True, text=True)
        (self.folder / f"{arguments[0]}.log").write_text(done.stdout + done.stderr)
        if done.returncode:
            raise RuntimeError(f"{arguments}: {done.stdout}{done.stderr}")
        return done.stdout

    def look_after(self) -> None:
        """Begin what is not there, as a supervisor does after a while."""
        for name, arguments in {"daemon": ["daemon"], "web server": ["webserver", "--port", str(self.port)]}.items():
            if (process := self.running.get(name)) and process.poll() is not None:
                del self.running[name]
                first_death = name == "daemon" and len(self.lives) == 1
                self.begins_at[name] = time.monotonic() + (LONGEST_PAUSE if first_death else self.chance.choice(PAUSES))
                if name == "daemon":
                    self.lives[-1] = (self.lives[-1][0], datetime.now(UTC))
            if name in self.running or time.monotonic() < self.begins_at.get(name, 0.0):
                continue
            with open(self.folder / f"{name}.log", "ab") as log:
                self.running[name] = subprocess.Popen(
                    [PROGRAM, *arguments], env=self.environment(self.home.root), stdout=log, stderr=log, start_new_session=True
                )
            if name == "daemon":
                self.lives.append((datetime.now(UTC), None))

    def processes(self) -> Iterator[tuple[int, str]]:
        """Processes of this home, and what each of them is."""
        mine = f"ANALYTICS_HOME={self.home.root}".encode()
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal() or int(entry.name) == os.getpid():
                continue
            with suppress(OSError):
                if mine in (entry / "environ").read_bytes().split(b"\0"):
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    yield int(entry.name), next((name for sign, name in SIGNS.items() if sign in command), command)

    def kill(self, daemon_too: bool) -> None:
        """Kill one, a worker where there is one in half of the cases; the first is the daemon."""
        found = [(number, name) for number, name in self.processes() if name in ("worker", "code server", "daemon", "web server")]
        workers = [one for one in found if one[1] == "worker"]
        others = [one for one in found if daemon_too or one[1] not in ("daemon", "worker")]
        if not self.kills:
            others = [one for one in found if one[1] == "daemon"]
            workers = []
        choice = workers if workers and (self.chance.random() < 0.5 or not others) else others
        if choice:
            number, name = self.chance.choice(sorted(choice))
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
            self.kills.append((datetime.now(UTC), name))

    def launch(self, job: str) -> bool:
        """Begin a job as the web page does."""
        selector = {"repositoryLocationName": "analytics_assets", "repositoryName": "__repository__", "jobName": job}
        asked = {"query": LAUNCH, "variables": {"parameters": {"selector": selector, "runConfigData": {}, "mode": "default"}}}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql", json.dumps(asked).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["data"]["launchRun"]["__typename"] == "LaunchRunSuccess"
        except (OSError, ValueError, TypeError, KeyError):
            return False

    def observe(self, instance: dg.DagsterInstance) -> None:
        """Note what `alive` says, how old signs of life are, and the daemon's memory."""
        now = datetime.now(UTC)
        answer = look(self.settings, self.home, instance, now)
        self.heard.append((now, answer.alive, answer.line))
        daemon = self.running.get("daemon")
        if daemon and daemon.poll() is None and now - self.lives[-1][0] > timedelta(seconds=SECONDS_TO_BEGIN):
            beats = [beat.timestamp for beat in instance.get_daemon_heartbeats().values()]
            self.oldest_sign = max(self.oldest_sign, now.timestamp() - max(beats))
            with suppress(OSError):
                pages = int(Path(f"/proc/{daemon.pid}/statm").read_text().split()[1])
                self.resident[daemon.pid].append(pages * os.sysconf("SC_PAGE_SIZE"))

    def stop(self) -> list[str]:
        """End what was begun; what is left a minute later."""
        for process in self.running.values():
            process.terminate()
        until = time.monotonic() + 60
        while time.monotonic() < until and (left := [name for _, name in self.processes()]):
            time.sleep(1)
        for number, _ in self.processes():
            os.kill(number, signal.SIGKILL)
        return left


SIGNS = {
    "dagster-daemon": "daemon", "dagster-webserver": "web server", "analytics-assets daemon": "daemon",
    "analytics-assets webserver": "web server", "dagster api grpc": "code server", "spawn_main": "worker",
    "resource_tracker": "resource tracker", "watch_orphans": "watcher of a tail", "tail -F": "tail",
}  # fmt: skip
LAUNCH = """mutation ($parameters: ExecutionParams!) { launchRun(executionParams: $parameters) {
    __typename ... on PythonError { message } ... on RunConfigValidationInvalid { errors { message } } } }"""


def ran_again(definitions: dg.Definitions, instance: dg.DagsterInstance, since: int) -> tuple[list[str], list[str]]:
    """Partitions that ran again after an event's number though nothing that they are computed from had come in since.

    Returns:
        Those without any reason, and those of which an input came in after the run before had been requested and before it had ended: what
        requests cannot know whether that run will begin in time to read it.
    """
    graph = definitions.resolve_asset_graph()
    made: dict[dg.AssetKey, dict[str, list[tuple[int, float, str]]]] = {}
    for key in graph.get_all_asset_keys():
        made[key] = defaultdict(list)
        cursor = None
        while True:
            page = instance.fetch_materializations(key, limit=1000, cursor=cursor, ascending=True)
            for record in page.records:
                made[key][record.partition_key or ""].append((record.storage_id, record.timestamp, record.run_id))
            cursor = page.cursor
            if not page.has_more:
                break
    without, overtaken = [], []
    for key, of_key in made.items():
        node = graph.get(key)
        definition = node.partitions_def
        if not node.automation_condition or not isinstance(definition, dg.TimeWindowPartitionsDefinition):
            continue
        for partition, runs in of_key.items():
            inputs = [
                one
                for parent in node.parent_keys
                for upstream in _inputs(graph, node, parent, partition, made[parent])
                for one in made[parent][upstream]
            ]
            for (before, _, earlier), (after, _, run_id) in pairwise(runs):
                if after <= since or any(before < number < after for number, _, _ in inputs):
                    continue
                run = instance.get_run_by_id(run_id)
                if run and not run.parent_run_id:
                    request, requested = _request(instance, earlier)
                    came_in = any(
                        number < before and at > requested and _request(instance, by)[0] != request for number, at, by in inputs
                    )
                    (overtaken if came_in else without).append(f"{key.to_user_string()} {partition} in run {run_id[:8]}")
    return without, overtaken


def _request(instance: dg.DagsterInstance, run_id: str) -> tuple[str, float]:
    """By what a partition was requested, a run or the backfill that it is part of, and when; what was reported without a run, by itself."""
    for record in instance.get_run_records(RunsFilter(run_ids=[run_id])):
        backfill = instance.get_backfill(record.dagster_run.tags.get("dagster/backfill", ""))
        return (backfill.backfill_id, backfill.backfill_timestamp) if backfill else (run_id, record.create_timestamp.timestamp())
    return run_id, 0.0


def _inputs(graph, node, parent: dg.AssetKey, partition: str, there) -> Sequence[str]:
    definition, of_parent = node.partitions_def, graph.get(parent).partitions_def
    if not isinstance(of_parent, dg.TimeWindowPartitionsDefinition):
        return list(there)
    mapping = node.partition_mappings.get(parent) or dg.TimeWindowPartitionMapping()
    found = mapping.get_upstream_mapped_partitions_result_for_partitions(
        definition.subset_with_partition_keys([partition]), definition, of_parent
    )
    return [key for key in found.partitions_subset.get_partition_keys() if key in there]


def named_as_outdated(platform: Platform, instance: dg.DagsterInstance, definitions: dg.Definitions) -> dict[str, set[date]]:
    """Days that the check `is_up_to_date` names, by table, where that is as of a day more than a week ago."""
    lookback, graph = platform.clock.day_of(platform.clock.now()) - LOOKBACK, definitions.resolve_asset_graph()
    return {
        table.name: {day for day in days if day < lookback}
        for asset, days in outdated_days(platform, instance, definitions, at_work=False).items()
        if not is_restated_at_any_age(graph.get(dg.AssetKey(asset)))
        for table in platform.computations[asset].tables
    }


def is_named(key: tuple[str, str], named: dict[str, set[date]], platform: Platform) -> bool:
    """Whether a partition, a day or the instant at which an hour begins, is among the named ones."""
    table, partition = key
    if table not in named:
        return False
    by_the_day = len(partition) == len("2026-03-31")
    day = date.fromisoformat(partition) if by_the_day else platform.clock.day_of(datetime.fromisoformat(partition))
    return day in named[table]


def judge_alerts(trial: Trial) -> tuple[list[str], str]:
    """What is wrong with what the addresses were sent; and figures."""
    wrong, states = [], Counter()
    with sqlite3.connect(trial.home.alerts) as connection:
        rows = connection.execute("SELECT alert, news, address, state FROM messages ORDER BY message").fetchall()
        alerts = connection.execute("SELECT count(*) FROM alerts").fetchone()[0]
    twice = 0
    deaths = [at for at, name in trial.kills if name in ("code server", "daemon")]
    for alert, news, address, state in rows:
        name = ADDRESSES[int(address.partition("#")[2]) - 1]
        states[name, state] += 1
        accepted = trial.endpoints.accepted[name, alert, news]
        told = f"alert {alert} {news}, to {name}: {state}"
        if state == "delivered" and not accepted and not trial.endpoints.left_out:
            wrong.append(f"{told}, and never came")
        if (state != "delivered" and accepted) or state not in ("delivered", "undelivered"):
            wrong.append(f"{told}, and came {len(accepted)} times")
        for first, second in pairwise(accepted):
            twice += 1
            if not any(first - timedelta(seconds=60) < death < second for death in deaths):
                wrong.append(f"{told}, and came at {first:%H:%M:%S} and {second:%H:%M:%S}")
    if any(state == "undelivered" for _, state in states) and "undelivered to" not in trial.heard[-1][2]:
        wrong.append(f"`alive` does not say what is undelivered: {trial.heard[-1][2]}")
    told = f"{alerts} alerts, {dict(sorted(states.items()))}, {twice} came twice after one of {len(deaths)} deaths of who sends"
    return wrong, f"{told}; requests {dict(sorted(trial.endpoints.requests.items()))}"


def judge_alive(trial: Trial, until: datetime) -> tuple[list[str], str]:
    """Whether `alive` told of a dead daemon in time, and of no living one."""
    wrong, noticed = [], []
    lives = [(began, ended or until) for began, ended in trial.lives]
    for number, (began, ended) in enumerate(lives):
        settled = [one for one in trial.heard if began + timedelta(seconds=SECONDS_TO_BEGIN) < one[0] < ended]
        wrong += [f"{at:%H:%M:%S} a living daemon: {line}" for at, _, line in settled if "daemon" in line and "silent" in line]
        begins_again = lives[number + 1][0] if number + 1 < len(lives) else until
        silent = [at for at, _, line in trial.heard if ended < at < begins_again and "silent" in line]
        if silent:
            noticed.append(round((silent[0] - ended).total_seconds()))
        elif (begins_again - ended).total_seconds() > 240:
            wrong.append(f"dead from {ended:%H:%M:%S} to {begins_again:%H:%M:%S}, and `alive` said nothing")
    told = f"{len(trial.heard)} times asked, death noticed after {noticed} s; at most {trial.oldest_sign:.0f} s without a sign of a living daemon"
    return wrong, told


def settled(instance: dg.DagsterInstance) -> bool:
    """Whether nothing is at work and nothing is waiting."""
    backfills = instance.get_backfills(status=BulkActionStatus.REQUESTED)
    return not backfills and not instance.get_runs_count(RunsFilter(statuses=list(NOT_FINISHED_STATUSES)))


def main() -> int:
    folder, minutes = Path(sys.argv[1]).resolve(), float(sys.argv[2])
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    chance = random.Random(seed)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    now = datetime.now(UTC)
    # A zone in which it is about half past two: two nights are behind, and the export is yet to reach them.
    offset = round((now.hour + now.minute / 60 - 2.5) % 24)
    offset = offset - 24 if offset > 14 else offset
    zone = f"Etc/GMT{offset:+d}" if offset > -13 else "Etc/GMT-12"
    endpoints = Endpoints()
    endpoints.start()
    today = (now - timedelta(hours=offset)).date()
    text = SETTINGS.format(zone=zone, first=today - timedelta(days=DAYS_BEFORE))
    (folder / "analytics.toml").write_text(text)
    trial = Trial(folder, parse_settings(text, "analytics.toml"), endpoints, chance)
    os.environ.update({key: value for key, value in trial.environment(trial.home.root).items() if key.startswith("ANALYTICS_")})
    hours = export_of(zone, today - timedelta(days=DAYS_BEFORE), today, chance)
    begin = int(now.timestamp()) - HOURS_AT_THE_END * 3600
    export = write_export(folder / "export", {})
    first = [hour for hour in hours if hour.received < begin]
    waiting = [hour for hour in hours if begin <= hour.received < now.timestamp()]
    late, middle = held_back(first, begin), waiting[len(waiting) // 2]
    waiting[len(waiting) // 2] = Hour(middle.received, middle.lines + late, middle.late)
    write_export(export, {number: (hour.received, hour.lines) for number, hour in enumerate(first, 1)})
    trial.run("run", "--exports", str(export))
    print(
        f"{zone}: {len(first)} hours loaded, {len(waiting)} to come, {len(late)} lines of them late by more than a week",
        flush=True,
    )
    number, drops = len(first), []
    steps = max(1, round((minutes - QUIET_MINUTES) * 60 / SECONDS_BETWEEN_FILES))
    for place, hour in enumerate(waiting):
        drops.append((min(steps - 1, place * steps // len(waiting) + hour.late), hour))
    with open_record(trial.home) as instance:
        platform = build_platform(trial.settings, trial.home)
        since = instance.event_log_storage.get_maximum_record_id() or 0
        began = time.monotonic()
        next_file, next_kill, next_look, step, asked = 0.0, 120.0, 0.0, 0, []
        while (passed := time.monotonic() - began) < minutes * 60:
            trial.look_after()
            if passed >= next_look:
                trial.observe(instance)
                next_look = passed + 10
            if passed >= next_file and step < steps:
                new = [hour for due, hour in drops if due == step]
                write_export(export, {number + place: (hour.received, hour.lines) for place, hour in enumerate(new, 1)})
                number, step, next_file = number + len(new), step + 1, passed + SECONDS_BETWEEN_FILES
                asked.append("load_exports")
                asked += ["freshness"] if step in (1, steps // 2, steps) else []
            if asked and trial.launch(asked[0]):
                asked.pop(0)
            quiet = passed > (minutes - QUIET_MINUTES) * 60
            if passed >= next_kill and not quiet:
                trial.kill(daemon_too=passed < minutes * 60 / 2)
                next_kill = passed + chance.uniform(*SECONDS_BETWEEN_KILLS)
            time.sleep(1)
        calm = 0
        while calm < 12 and time.monotonic() - began < (minutes + 30) * 60:
            trial.look_after()
            trial.observe(instance)
            calm = calm + 1 if settled(instance) else 0
            time.sleep(10)
        endpoints.mended = True
        trial.run("alerts", "--retry")
        outbox = Outbox(trial.home.alerts)
        for _ in range(60):
            trial.look_after()
            trial.observe(instance)
            if not outbox.waiting():
                break
            time.sleep(10)
        until = datetime.now(UTC)
        left = trial.stop()
        definitions = build_definitions(platform)
        needless, overtaken = ran_again(definitions, instance, since)
        runs = Counter(str(run.status.value) for run in instance.get_runs())
        named = named_as_outdated(platform, instance, definitions)
        unfinished = [f"left to run: {stage}" for stage in events_to_run(platform, instance)]
    trial.run("run", "--exports", str(export), home=folder / "twin")
    mine, twin = digests(trial.home.root), digests(folder / "twin")
    different = sorted(key for key, value in twin.items() if mine.get(key) != value)
    differ = [f"{key}: {mine.get(key)} instead of {twin[key]}" for key in different if not is_named(key, named, platform)]
    alerts, told_of_alerts = judge_alerts(trial)
    alive, told_of_alive = judge_alive(trial, until)
    wrong = [*unfinished, *differ, *(f"again without reason: {one}" for one in needless), *alerts, *alive]
    wrong += [f"left over: {Counter(left)}"] if left else []
    print(
        f"kills: {dict(Counter(name for _, name in trial.kills))}; runs {dict(runs)}; {len(twin)} partitions compared, {len(different) - len(differ)} of them different and named as outdated"
    )
    print(f"again, since an input came in after the run before had been requested: {len(overtaken)}", *overtaken, sep="\n  ")
    print(f"alerts: {told_of_alerts}", f"alive: {told_of_alive}", sep="\n")
    for pid, sizes in trial.resident.items():
        print(f"daemon {pid}, MB a minute: {[round(max(sizes[n : n + 6]) / 2**20) for n in range(0, len(sizes), 6)]}")
    print(*wrong, f"{len(wrong)} wrong", sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
