"""A simulated week or more: the clock is moved from tick to tick, files arrive in time, late, and after the night has given up on them.

The loader, its schedule, the assets below and their automation conditions are the platform's own; Dagster's evaluator decides
what runs, and what it decides runs. `Expected` says independently, from the files alone, what must run at which tick.

    .venv/bin/python -m analytics_assets_tests.operations.week 2011-10-21 12
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from unittest import mock
from zoneinfo import ZoneInfo

import dagster as dg
from dagster._core.test_utils import freeze_time

from analytics_assets import partitions
from analytics_assets.definitions import build_definitions, build_platform
from analytics_assets.events.loading import pin_export
from analytics_assets.home import Home
from analytics_assets.operations.catch_up import events_to_run
from analytics_assets.settings import parse_settings

ZONE = ZoneInfo("Europe/London")
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
ASSETS = {
    "export_files",
    "raw_event_hours",
    "events",
    "order_items",
    "orders",
    "identities",
    "customers",
    "accounts",
    "account_usage",
}
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
# What runs: asset, and the instant at which its partition begins.
Ran = Counter[tuple[str, datetime]]


@dataclass(frozen=True)
class File:
    """A file of the export: when it is there, up to when it was received, and when its purchases happened."""

    arrives: datetime
    received: datetime
    purchases: tuple[datetime, ...]


def begins(day: date) -> datetime:
    """The instant at which a business day begins."""
    return datetime.combine(day, time.min, ZONE).astimezone(UTC)


def day_of(instant: datetime) -> date:
    """The business day that an instant falls on."""
    return instant.astimezone(ZONE).date()


def a_week_of_files(first: date, days: int, seed: int) -> list[File]:
    """A file an hour, three minutes after it; now and then one with older events; and one night on which nothing comes until nine."""
    draw = random.Random(seed)
    start, end = begins(first), begins(first + timedelta(days=days))
    silent_from = begins(first + timedelta(days=max(days - 2, 0))) + 20 * HOUR
    silent_to = silent_from.replace(hour=0) + DAY + 9 * HOUR
    files = []
    for number in range(int((end - start) / HOUR) + 10):
        over = start + (number + 1) * HOUR
        arrives = silent_to if silent_from < over < silent_to else over + timedelta(minutes=3)
        purchases = [over - timedelta(minutes=draw.randrange(1, 60)) for _ in range(draw.randrange(3))]
        files.append(File(arrives, over + timedelta(minutes=2), tuple(purchases)))
        if draw.random() < 0.12:
            late = max(start, over - draw.random() * max(3, days) * DAY)
            files.append(File(arrives, over + timedelta(minutes=2), (late,)))
    return files


@dataclass
class Expected:
    """What must run at a load, from the files that are there; written without a look at how the platform does it."""

    first: date
    landed: list[File] = field(default_factory=list)
    early: set[datetime] = field(default_factory=set)
    made: set[tuple[str, datetime]] = field(default_factory=set)

    def at(self, now: datetime, files: Sequence[File]) -> Ran:
        """What runs at the load of `now`, when `files` are there."""
        new = [file for file in files if file.arrives <= now and file not in self.landed]
        self.landed += new
        through = max((file.received for file in self.landed), default=None)
        if through is None:
            return Counter()
        hours = [begins(self.first) + n * HOUR for n in range(int((now - begins(self.first)) / HOUR))]
        touched = {moment.replace(minute=0, second=0, microsecond=0) for file in new for moment in file.purchases}
        runs: set[tuple[str, datetime]] = set()
        for hour in hours:
            ends_day = day_of(hour + HOUR) != day_of(hour)
            there = through >= hour + HOUR + (HOUR if ends_day else timedelta(0))
            given_up = now >= datetime.combine(day_of(hour) + DAY, time(4), ZONE) and through >= begins(day_of(hour))
            again = hour in touched or (hour in self.early and there)
            # On the day on which partitions begin, Dagster does not see the first of the two hours that read the same before the second
            # is over.
            repeats = hour.astimezone(ZONE).utcoffset() != (hour + HOUR).astimezone(ZONE).utcoffset() == timedelta(0)
            if repeats and now < hour + 2 * HOUR and day_of(hour) == self.first:
                continue
            if (there or given_up) and (("events", hour) not in self.made or again):
                runs.add(("events", hour))
                (self.early.discard if there else self.early.add)(hour)
        self.made |= runs
        days = sorted({day_of(hour) for hour in hours if day_of(hour) < day_of(now)})
        whole = []
        for day in days:
            of_day = [hour for hour in hours if day_of(hour) == day]
            if not all(("events", hour) in self.made for hour in of_day):
                break
            whole.append(day)
            changed = any(("events", hour) in runs for hour in of_day)
            # What is as of a day waits for a backfill where the day is more than a week ago.
            as_of = day_of(now) - day <= 7 * DAY and (changed or any(("orders", begins(before)) in runs for before in whole))
            for asset, again in (
                ("order_items", changed), ("orders", changed), ("identities", as_of), ("customers", as_of), ("accounts", as_of),
            ):  # fmt: skip
                if again or (asset, begins(day)) not in self.made:
                    runs.add((asset, begins(day)))
        self.made |= runs
        for hour in hours:
            evening = {day_of(hour - n * HOUR) for n in (23, 24, 25)}
            # A day that is not over is not there to be waited for.
            known = all(("accounts", begins(day)) in self.made for day in evening if self.first <= day < day_of(now))
            mine = ("account_usage", hour)
            # Its sessions may have begun in the 25 hours before.
            changed = any(("events", hour - n * HOUR) in runs for n in range(26))
            if ("events", hour) in self.made and known and (changed or mine not in self.made):
                runs.add(mine)
        self.made |= runs
        return Counter(runs)


class Platform:
    """The platform at work in a folder, with a clock that is moved."""

    def __init__(self, folder: Path, first: date) -> None:
        self.export, home = folder / "export", Home(folder / "home")
        (self.export / "revisions").mkdir(parents=True)
        self.index = ["filename,min_timestamp,max_timestamp,min_utc_date,max_utc_date"]
        settings = f'[business]\ntime_zone = "{ZONE.key}"\ncurrency = "GBP"\nfirst_day = {first}\n'
        self.platform = build_platform(parse_settings(settings, "x"), home)
        self.platform.hold_publishing = True
        pin_export(home, self.export, "kissmetrics")
        everything = build_definitions(self.platform)
        assets = [asset for asset in everything.assets or () if asset.key.to_user_string() in ASSETS]  # type: ignore[union-attr]
        self.schedule = next(one for one in everything.schedules or () if one.name == "load_exports_hourly")  # type: ignore[union-attr]
        self.definitions = dg.Definitions(assets, schedules=[self.schedule], executor=dg.in_process_executor)
        self.graph = self.definitions.resolve_asset_graph()
        self.instance = dg.DagsterInstance.ephemeral()
        self.cursor = None

    def write(self, files: Sequence[File]) -> None:
        """Put files into the export."""
        for file in files:
            number, received = len(self.index), int(file.received.timestamp())
            lines = [
                json.dumps({"_n": "purchased", "_p": f"p{number % 7}@x.test", "_t": int(moment.timestamp()), "order id": f"{number}-{n}", "order total": "5.00", "account id": f"a{n}"})
                for n, moment in enumerate(file.purchases)
            ]  # fmt: skip
            (self.export / "revisions" / f"{number}.json").write_text("".join(f"{line}\n" for line in lines))
            day = f"{file.received:%Y-%m-%d %H:%M} GMT"
            self.index.append(f"revisions/{number}.json,{received - 60},{received},{day},{day}")
        (self.export / "index.csv").write_text("\n".join(self.index) + "\n")

    def load(self, now: datetime) -> None:
        """What the schedule does at its tick."""
        with clock_at(now), dg.build_schedule_context(self.instance, now.astimezone(ZONE)) as context:
            for request in self.schedule.evaluate_tick(context).run_requests or ():
                job = self.definitions.resolve_job_def(self.schedule.job_name)
                assert job.execute_in_process(QUIET, self.instance, tags=request.tags).success

    def settle(self, now: datetime) -> Ran:
        """Evaluate every half minute, and run what is requested, until nothing is."""
        ran: Ran = Counter()
        order = self.graph.toposorted_asset_keys
        while True:
            now += timedelta(seconds=30)
            with clock_at(now):
                result = dg.evaluate_automation_conditions(
                    self.definitions, self.instance, evaluation_time=now, cursor=self.cursor
                )
                self.cursor = result.cursor
                together: list[tuple[set[str], list[dg.AssetKey]]] = []
                for key in order:
                    if self.graph.get(key).automation_condition and (requested := result.get_requested_partitions(key)):
                        # Inputs first: what stands between two of the same partitions may be an input of the second.
                        if not together or together[-1][0] != requested:
                            together.append((requested, []))
                        together[-1][1].append(key)
                if not together:
                    return ran
                for requested, keys in together:
                    definition = self.graph.get(keys[0]).partitions_def
                    assert isinstance(definition, dg.TimeWindowPartitionsDefinition)
                    windows = sorted(definition.time_window_for_partition_key(key).start.astimezone(UTC) for key in requested)
                    ran.update((key.to_user_string(), start) for key in keys for start in windows)
                    for first, last in self._spans(definition, requested):
                        self._run(keys, first, last)

    @staticmethod
    def _spans(definition: dg.TimeWindowPartitionsDefinition, requested: Collection[str]) -> list[tuple[str, str]]:
        """First and last of each run of partitions without a gap: Dagster's backfills make one run of it."""
        subset = definition.subset_with_partition_keys(requested)
        return [(found.start, found.end) for found in subset.get_partition_key_ranges(definition)]

    def _run(self, keys: list[dg.AssetKey], first: str, last: str) -> None:
        """One run, as the daemon starts it."""
        tags = {
            "dagster/asset_partition_range_start": first,
            "dagster/asset_partition_range_end": last,
            "dagster/from_automation_condition": "true",
        }
        job = self.definitions.resolve_implicit_global_asset_job_def()
        assert job.execute_in_process(QUIET, self.instance, asset_selection=keys, tags=tags).success

    def hours_to_run(self, now: datetime) -> list[object]:
        """Hours that are missing, or whose events are not those of the landed records."""
        with clock_at(now):
            return list(events_to_run(self.platform, self.instance))


@contextmanager
def clock_at(instant: datetime) -> Iterator[None]:
    """Let Dagster's clock and the business's show an instant."""

    class Shown(datetime):
        @classmethod
        def now(cls, tz=None):
            return instant.astimezone(tz)

    with freeze_time(instant), mock.patch.object(partitions, "datetime", Shown):
        yield


def simulate(
    folder: Path,
    first: date,
    days: int,
    loads: Callable[[datetime], bool],
    seed: int,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[int, list[str]]:
    """Run the days, and the morning after them.

    `loads` says at which hours (UTC) the loader's tick falls; elsewhere it is left out, to save time.

    Returns:
        How many partitions ran, and every difference from what was expected.
    """
    files = a_week_of_files(first, days, seed)
    platform, expected = Platform(folder, first), Expected(first)
    now, wrong, count, written = begins(first) + timedelta(minutes=65), [], 0, 0
    platform.settle(now - timedelta(minutes=2))
    while now < begins(first + timedelta(days=days)) + 10 * HOUR:
        if loads(now):
            there = [file for file in files if file.arrives <= now]
            platform.write(there[written:])
            written = len(there)
            platform.load(now)
            ran, wanted = platform.settle(now), expected.at(now, files)
            count += ran.total()
            differs = [
                f"{now:%m-%d %H:%M}: {asset} {start:%m-%d %H:%M} ran {ran[asset, start]} times, expected {wanted[asset, start]}"
                for asset, start in sorted(ran.keys() | wanted.keys())
                if ran[asset, start] != wanted[asset, start]
            ]
            wrong += differs
            say("\n".join([f"{now:%Y-%m-%d %H:%M} UTC: {ran.total()} partitions ran", *differs]))
        now += HOUR
    wrong += [f"left to run: {stage}" for stage in platform.hours_to_run(now)]
    return count, wrong


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as temporary:
        total, differences = simulate(
            Path(temporary),
            date.fromisoformat(sys.argv[1]),
            int(sys.argv[2]),
            lambda _: True,
            1,
            lambda text: print(text, flush=True),
        )
    print(f"{total} partitions ran", *(differences or ["exactly those that should, once each"]), sep="\n")
    sys.exit(bool(differences))
