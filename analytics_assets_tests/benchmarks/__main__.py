"""`make bench`: what the project costs beside the plain alternative, as ratios measured within one run.

Both sides take turns, and the medians are compared, since two runs on a shared machine differ by more than what is measured.
"""

import importlib.metadata
import os
import platform
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path

from rich.console import Console
from rich.table import Table

from analytics_assets.settings import parse_settings
from analytics_assets.simulation.kissmetrics import write_export
from analytics_assets.simulation.retailer import Retailer, simulate
from analytics_assets_tests.benchmarks import batch, landing, ltv
from analytics_assets_tests.benchmarks.comparison import Comparison

REPETITIONS = 3
SHOP = Retailer(first_day=date(2026, 3, 1), last_day=date(2026, 4, 30), customers=12_000)
"""Two months: more would lengthen Dagster's bookkeeping of hours, which is shown but not compared."""
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
    beside_hand, bookkeeping = batch.measure(settings, folder / "homes", REPETITIONS)
    yield beside_hand
    for line in bookkeeping:
        console.print(line)
    yield from ltv.measure(REPETITIONS)


if __name__ == "__main__":
    main()
