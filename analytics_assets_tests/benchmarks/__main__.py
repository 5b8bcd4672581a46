"""`make bench`: what the project costs beside the plain alternative, as ratios measured within one run.

Both sides take turns, and the medians are compared, since two runs on a shared machine differ by more than what is measured.
"""

import importlib.metadata
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import date, timedelta
from itertools import chain
from pathlib import Path

from rich.console import Console
from rich.table import Table

from analytics_assets.retail.affinity.assets import product_affinity
from analytics_assets.retail.cohorts.assets import cohort_retention
from analytics_assets.retail.customers.assets import customers
from analytics_assets.retail.ltv.assets import customer_ltv
from analytics_assets.retail.recommendations.assets import recommendations as recommended
from analytics_assets.retail.segments.assets import customer_segments
from analytics_assets.settings import parse_settings
from analytics_assets.simulation.kissmetrics import write_export
from analytics_assets.simulation.retailer import Retailer, simulate
from analytics_assets_tests.benchmarks import (
    affinity,
    batch,
    bookkeeping,
    churn,
    health,
    landing,
    ltv,
    recommendations,
    suite,
    usage,
    window,
)
from analytics_assets_tests.benchmarks.big_shop import BigShop
from analytics_assets_tests.benchmarks.comparison import Comparison

REPETITIONS = 3
SHOP = Retailer(first_day=date(2026, 3, 1), last_day=date(2026, 4, 30), customers=12_000)
"""Two months: more would lengthen Dagster's bookkeeping of hours, which is shown but not compared."""
MILLION = BigShop(customers=1_000_000, products=50_000, lines=10_000_000, days=365)
BIG_SHOP = BigShop(customers=100_000, products=5_000, lines=1_000_000, days=365)
GROWING_SHOP = BigShop(customers=20_000, products=2_000, lines=200_000, days=365)
BACKFILLED_DAYS = 15
LONG_BACKFILL_DAYS = 90
NIGHT = (customers, customer_ltv, customer_segments, cohort_retention, product_affinity, recommended)
KEPT = NIGHT[:-1]
"""Recommendations are kept for the newest day only: nobody fills them back."""
MONTH_ACCOUNTS = 2_000
"""Of whom a month of hours is computed in about a minute. It grows with them: of 20,000 it took 285 CPU-seconds and 1.7 GB."""
PACKAGES = ("dagster", "duckdb", "deltalake", "polars", "lifetimes")


def main(only: Sequence[str]) -> None:
    """Measure the parts that are asked for, or all but the `LONG` ones, and print one table."""
    if unknown := sorted(set(only) - set(PARTS)):
        sys.exit(f"There is no part {', '.join(unknown)}: the parts are {', '.join(PARTS)}.")
    console = Console(width=max(120, Console().width))
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    console.print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, {versions}")
    table = Table("what", "ours", "other", "ours, s", "other, s", "ratio", "goal", title="Medians of alternating repetitions")
    for name in only or [name for name in PARTS if name not in LONG]:
        with tempfile.TemporaryDirectory(prefix="analytics-bench-") as folder:
            for row in PARTS[name](Path(folder)):
                if isinstance(row, str):
                    console.print(row)
                    continue
                goal = "" if row.goal is None else f"≤ {row.goal:g}"
                seconds = f"{row.ours_seconds:.3f}", f"{row.other_seconds:.3f}"
                table.add_row(row.what, row.ours, row.other, *seconds, f"{row.ratio:.2f}", goal)
                console.print(f"measured: {row.what}: {row.ratio:.2f}")
    console.print(table)


def _batch(folder: Path) -> Iterator[Comparison | str]:
    export = folder / "export"
    truth = write_export(simulate(SHOP), export, faults=False)
    yield f"{truth.lines:,} lines in {truth.files} files, {truth.orders:,} orders"
    settings = parse_settings(
        f"""[business]
        time_zone = "{SHOP.time_zone}"
        currency = "{SHOP.currency}"
        first_day = {SHOP.first_day}
        last_day = {SHOP.last_day}""",
        "the benchmark's settings",
    )
    yield landing.measure(export, settings, folder / "homes", REPETITIONS)
    beside_hand, spent = batch.measure(settings, folder / "homes", REPETITIONS)
    yield beside_hand
    yield from spent


def _bookkeeping(folder: Path) -> Iterator[Comparison | str]:
    beside_stock, added = bookkeeping.measure(folder, REPETITIONS)
    yield beside_stock
    yield from added


def _backfill(shop: BigShop, count: int, folder: Path) -> Iterator[Comparison | str]:
    days = [shop.last_day - timedelta(days=n) for n in reversed(range(count))]
    yield from suite.measure(shop, KEPT, days, folder, 1.5)


def _million(folder: Path) -> Iterator[Comparison | str]:
    yield "Wanted of recommendations: 30 s on two cores with nothing else to do, and 1.5 GB at most."
    yield from suite.measure(MILLION, NIGHT, [MILLION.last_day], folder, 1.3)


def _software_hour(folder: Path) -> Iterator[str]:
    """What the largest company that is promised takes: seconds and memory of its hour, and of a month of hours of a smaller one."""
    of_usage, of_health = usage.alone(folder), health.alone(folder, usage.ACCOUNT_COUNT, hours=1)
    yield (
        f"an hour of {usage.ACCOUNT_COUNT:,} accounts and {usage.EVENT_COUNT:,} events: usage {of_usage[0]:.1f} s in {of_usage[1]:.2f} GB, "
        f"health {of_health[0]:.1f} s in {of_health[1]:.2f} GB; goal: 60 s together, 2 GB"
    )
    seconds, gigabytes = health.alone(folder, MONTH_ACCOUNTS, hours=24 * 31)
    yield (
        f"health of {24 * 31} hours of {MONTH_ACCOUNTS:,} accounts in one run: {seconds:.1f} s, {1000 * seconds / 24 / 31:.0f} ms an hour, "
        f"in {gigabytes:.2f} GB; goal: 2 GB"
    )


PARTS: dict[str, Callable[[Path], Iterator[Comparison | str]]] = {
    "batch": _batch,
    "bookkeeping": _bookkeeping,
    "ltv": lambda _: chain(ltv.measure(REPETITIONS), ltv.at_scale(REPETITIONS)),
    "affinity": lambda folder: affinity.measure(REPETITIONS, folder),
    "lists": lambda folder: recommendations.measure(REPETITIONS, folder),
    "suite": lambda folder: suite.measure(BIG_SHOP, NIGHT, [BIG_SHOP.last_day], folder, 1.3),
    "backfill": lambda folder: _backfill(GROWING_SHOP, BACKFILLED_DAYS, folder),
    "growth": lambda folder: suite.growth(GROWING_SHOP, NIGHT, 3, folder),
    "usage": lambda folder: chain(usage.measure(REPETITIONS, folder), _software_hour(folder)),
    "health": lambda folder: chain(health.measure(REPETITIONS, folder, accounts=5_000), health.ranking(folder)),
    "models": lambda _: _standings(),
    "window": lambda _: window.measure(),
    "million": _million,
    "long-backfill": lambda folder: _backfill(BIG_SHOP, LONG_BACKFILL_DAYS, folder),
}
LONG = ("million", "long-backfill")
"""Left out unless asked for: a night of a million customers takes ten minutes with the making of its shop, 90 days longer."""


def _standings() -> Iterator[str]:
    """What the models reach on data sets that others have measured, as far as these are there."""
    yield from ltv.accuracy()
    yield from churn.accuracy()
    tested = list(recommendations.online_retail(ltv.ONLINE_RETAIL)) if ltv.ONLINE_RETAIL.exists() else []
    if path := recommendations.movielens_path():
        tested.append(recommendations.movielens(path))
    for one in tested:
        yield (
            f"{one.what}: {one.model}, {one.customers:,} customers: recall@20 {one.recall_at_20:.3f}, NDCG@10 {one.ndcg_at_10:.3f}; "
            f"to beat {one.recall_to_beat:.3f} and {one.ndcg_to_beat:.3f}"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
