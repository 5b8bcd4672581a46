"""`make bench`: what the project costs beside the plain alternative, as ratios measured within one run.

Both sides take turns, and the medians are compared, since two runs on a shared machine differ by more than what is measured.
"""

import importlib.metadata
import os
import platform
import tempfile
from collections.abc import Iterator
from datetime import date, timedelta
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
BIG_SHOP = BigShop(customers=100_000, products=5_000, lines=1_000_000, days=365)
GROWING_SHOP = BigShop(customers=20_000, products=2_000, lines=200_000, days=365)
BACKFILLED_DAYS = 15
PACKAGES = ("dagster", "duckdb", "deltalake", "polars", "lifetimes")


def main() -> None:
    """Measure, and print one table."""
    console = Console(width=max(120, Console().width))
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    console.print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, {versions}")
    with tempfile.TemporaryDirectory(prefix="analytics-bench-") as folder:
        table = Table("what", "ours", "other", "ours, s", "other, s", "ratio", "goal", title="Medians of alternating repetitions")
        for row in _measured(Path(folder), console):
            goal = "" if row.goal is None else f"≤ {row.goal:g}"
            seconds = f"{row.ours_seconds:.3f}", f"{row.other_seconds:.3f}"
            table.add_row(row.what, row.ours, row.other, *seconds, f"{row.ratio:.2f}", goal)
            console.print(f"measured: {row.what}: {row.ratio:.2f}")
        console.print(table)
    for line in (*_standings(), *window.measure()):
        console.print(line)


def _measured(folder: Path, console: Console) -> Iterator[Comparison]:
    export = folder / "export"
    truth = write_export(simulate(SHOP), export, faults=False)
    console.print(f"{truth.lines:,} lines in {truth.files} files, {truth.orders:,} orders")
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
    for line in spent:
        console.print(line)
    beside_stock, added = bookkeeping.measure(folder / "records", REPETITIONS)
    yield beside_stock
    for line in added:
        console.print(line)
    yield from ltv.measure(REPETITIONS)
    yield from affinity.measure(REPETITIONS, folder)
    yield from recommendations.measure(REPETITIONS, folder)
    night = (customers, customer_ltv, customer_segments, cohort_retention, product_affinity, recommended)
    yield from suite.measure(BIG_SHOP, night, [BIG_SHOP.last_day], folder / "big shop", 1.3)
    days = [GROWING_SHOP.last_day - timedelta(days=n) for n in reversed(range(BACKFILLED_DAYS))]
    # Recommendations are kept for the newest day only: nobody fills them back.
    yield from suite.measure(GROWING_SHOP, night[:-1], days, folder / "backfill", 1.5)
    yield from suite.growth(GROWING_SHOP, night, 3, folder / "growth")
    yield from usage.measure(REPETITIONS, folder)
    yield from health.measure(REPETITIONS, folder, accounts=1_000)


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
    main()
