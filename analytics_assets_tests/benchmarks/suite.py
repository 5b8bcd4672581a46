"""A night of the retail suite on a big shop: what the assets take, beside the same computations with nothing around them.

The other side runs the same SQL files and models over the same Parquet files, and writes each table as one Parquet file: no
digests, audits, Delta commits or publishing. What those cost is the ratio.
"""

import importlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq

from analytics_assets.definitions import build_definitions, build_platform
from analytics_assets.home import Home
from analytics_assets.operations.catch_up import Stage, run_stage
from analytics_assets.settings import parse_settings
from analytics_assets.warehouse.engine import engine
from analytics_assets.warehouse.work import Platform, Rows, Work
from analytics_assets_tests.benchmarks.big_shop import BigShop
from analytics_assets_tests.benchmarks.comparison import Comparison, gigabytes_held, seconds_of

Compute = Callable[[Work], Mapping[str, Rows]]


HEAVY = ("altair", "scipy.linalg", "sklearn.ensemble", "sparse_dot_topn", "vl_convert")
"""Loaded before anything is measured: it would be charged to whoever comes first."""


def measure(
    shop: BigShop, computes: Sequence[Compute], days: Sequence[date], folder: Path, goal: float
) -> Iterator[Comparison | str]:
    """Run each asset over the days in one run, then its computation alone, day after day.

    A line an asset with what it takes of the processor and of memory, one comparison an asset, and one of all.
    """
    for module in HEAVY:
        importlib.import_module(module)
    ours, bare = {}, {}
    what = f"{shop.customers:,} customers, {shop.lines:,} lines, {len(days)} days"
    (folder / "bare").mkdir(parents=True)
    with _open(shop, days, folder) as (platform, instance):
        for compute in computes:
            name = compute.__name__
            began = _forget_peak()
            ours[name] = _as_asset(platform, instance, compute, days)
            yield f"{name}: {what}: {ours[name]:.1f} s, {time.process_time() - began:.1f} s of CPU, {gigabytes_held():.2f} GB at most"
            bare[name] = sum(
                seconds_of(lambda compute=compute, day=day: _alone(platform, compute, day, folder / "bare"))  # type: ignore[misc]
                for day in days
            )
    for name in ours:
        yield Comparison(f"{name}: {what}", "asset", "computation alone", ours[name], bare[name])
    yield Comparison(f"suite: {what}", "assets", "computations alone", sum(ours.values()), sum(bare.values()), goal)


def _forget_peak() -> float:
    """Let the process's peak of memory begin anew (Linux); the seconds of CPU so far."""
    Path("/proc/self/clear_refs").write_text("5")
    return time.process_time()


def growth(shop: BigShop, computes: Sequence[Compute], years: int, folder: Path) -> Iterator[Comparison]:
    """A night after 2, 3, ... years with as many new customers and lines each, beside that many nights of the first year."""
    first = 0.0
    for number in range(1, years + 1):
        grown = replace(shop, customers=number * shop.customers, lines=number * shop.lines, days=number * shop.days)
        with _open(grown, [grown.last_day], folder / f"{number} years") as (platform, instance):
            seconds = sum(_as_asset(platform, instance, compute, [grown.last_day]) for compute in computes)
        first = first or seconds
        if number > 1:
            what = f"night after {number} years, {grown.customers:,} customers"
            yield Comparison(what, "assets", f"{number} nights after one year", seconds, number * first, 1.0)


@contextmanager
def _open(shop: BigShop, days: Sequence[date], folder: Path) -> Iterator[tuple[Platform, dg.DagsterInstance]]:
    """The shop in a home of its own, with a Dagster instance."""
    platform = build_platform(parse_settings(shop.settings(), "the benchmark's settings"), Home(folder / "home"))
    platform.home.dagster.mkdir(parents=True)
    with dg.DagsterInstance.local_temp(str(platform.home.dagster), overrides={"telemetry": {"enabled": False}}) as instance:
        shop.write(platform, instance, list(days))
        platform.publish()
        platform.hold_publishing = True
        yield platform, instance


def _as_asset(platform: Platform, instance: dg.DagsterInstance, compute: Compute, days: Sequence[date]) -> float:
    stage = Stage((compute.__name__,), days[0].isoformat(), days[-1].isoformat(), len(days))
    return run_stage(build_definitions(platform), instance, stage).computing


def _alone(platform: Platform, compute: Compute, day: date, out: Path) -> None:
    clock = platform.clock
    window = clock.window(clock.begins(day), clock.begins(day + timedelta(days=1)))
    with engine() as connection, closing(Work(platform, window, connection, logging.getLogger(__name__))) as work:
        for name, rows in compute(work).items():
            if isinstance(rows, pa.Table):
                pq.write_table(rows, out / f"{name}.parquet", compression="zstd", compression_level=1)
            else:
                rows.files()
