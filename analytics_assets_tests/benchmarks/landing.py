"""Landing an export: our reader, checks, Delta commits and line accounts beside DuckDB's bare load of the same lines."""

from pathlib import Path

import duckdb

from analytics_assets.events.loading import load, pin_export
from analytics_assets.home import Home
from analytics_assets.settings import Settings
from analytics_assets_tests.benchmarks.comparison import Comparison, seconds_of, taking_turns

GOAL = 2.0
"""We read each line, name its record, commit it, and account for it: at most twice a load that does none of it."""


def measure(export: Path, settings: Settings, homes: Path, repetitions: int) -> Comparison:
    """Land the export in a new home below `homes` each time; the homes stay, for the batch."""

    def ours(number: int) -> float:
        home = Home(homes / str(number))
        pin_export(home, export, "kissmetrics")
        return seconds_of(lambda: load(settings, home))

    def bare(number: int) -> float:
        return seconds_of(lambda: bare_load(export, homes / f"bare-{number}.parquet"))

    return Comparison("landing", "load", "COPY read_json", *taking_turns(ours, bare, repetitions), GOAL)


def bare_load(export: Path, out: Path) -> None:
    """DuckDB alone: JSON lines to Parquet, no ids, no repeated lines, no faults, no account."""
    files = sorted(str(file) for file in (export / "revisions").glob("*.json"))
    with duckdb.connect() as connection:
        connection.read_json(files, format="newline_delimited").write_parquet(str(out), compression="zstd")
