"""A night of the retail suite on a big shop: what the assets take, beside the same computations with nothing around them.

The other side runs the same SQL files and models over the same Parquet files, and writes each table as one Parquet file: no
digests, audits, Delta commits or publishing. What those cost is the ratio.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import date
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq

from analytics_assets.definitions import build_definitions, build_platform
from analytics_assets.home import Home
from analytics_assets.operations.catch_up import Stage, run_stage
from analytics_assets.settings import parse_settings
from analytics_assets.warehouse.assets import Platform, Rows, Work
from analytics_assets.warehouse.engine import engine
from analytics_assets_tests.benchmarks.big_shop import BigShop
from analytics_assets_tests.benchmarks.comparison import Comparison, seconds_of

Compute = Callable[[Work], Mapping[str, Rows]]


def measure(shop: BigShop, computes: Sequence[Compute], days: Sequence[date], folder: Path) -> list[Comparison]:
    """Run each asset over the days, then its computation alone; one comparison an asset and one of all together."""
    platform = build_platform(parse_settings(shop.settings(), "the benchmark's settings"), Home(folder / "home"))
    platform.home.dagster.mkdir(parents=True)
    (folder / "bare").mkdir()
    ours, bare = {}, {}
    with dg.DagsterInstance.local_temp(str(platform.home.dagster), overrides={"telemetry": {"enabled": False}}) as instance:
        shop.write(platform, instance, list(days))
        platform.publish()
        definitions = build_definitions(platform)
        platform.hold_publishing = True
        for compute in computes:
            name = compute.__name__
            stage = Stage((name,), days[0].isoformat(), days[-1].isoformat(), len(days))
            ours[name] = run_stage(definitions, instance, stage).computing
            bare[name] = seconds_of(lambda compute=compute: _alone(platform, compute, days, folder / "bare"))  # type: ignore[misc]
    what = f"{shop.customers:,} customers, {shop.lines:,} lines, {len(days)} days"
    rows = [Comparison(f"{name}: {what}", "asset", "computation alone", ours[name], bare[name]) for name in ours]
    return [*rows, Comparison(f"suite: {what}", "assets", "computations alone", sum(ours.values()), sum(bare.values()), 1.3)]


def _alone(platform: Platform, compute: Compute, days: Sequence[date], out: Path) -> None:
    clock = platform.clock
    window = clock.window(clock.begins(days[0]), clock.begins(date.fromordinal(days[-1].toordinal() + 1)))
    with engine() as connection, closing(Work(platform, window, connection, logging.getLogger(__name__))) as work:
        for name, rows in compute(work).items():
            if isinstance(rows, pa.Table):
                pq.write_table(rows, out / f"{name}.parquet", compression="zstd", compression_level=1)
            else:
                rows.files()
