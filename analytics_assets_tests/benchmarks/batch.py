"""The batch, from landed records to customers: what the assets themselves take, beside one hand-written script."""

from datetime import timedelta
from pathlib import Path

from analytics_assets.definitions import build_definitions, build_platform
from analytics_assets.events.tables import RECORDS
from analytics_assets.home import Home
from analytics_assets.operations.catch_up import AS_OF_DAYS, Done, Stage, run_stage
from analytics_assets.operations.record import open_record
from analytics_assets.settings import Settings
from analytics_assets_tests.benchmarks.by_hand import write_tables
from analytics_assets_tests.benchmarks.comparison import Comparison, seconds_of, taking_turns


def measure(settings: Settings, homes: Path, repetitions: int) -> tuple[Comparison, list[str]]:
    """Catch up each of the landed homes. The lines say what Dagster's bookkeeping takes, which the comparison leaves out."""
    stages: list[Done] = []

    def ours(number: int) -> float:
        done = caught_up(settings, Home(homes / str(number)))
        stages[:] = done
        return sum(stage.computing for stage in done)

    def by_hand(number: int) -> float:
        out = homes / f"by-hand-{number}"
        out.mkdir()
        return seconds_of(lambda: write_by_hand(settings, Home(homes / str(number)), out))

    seconds = taking_turns(ours, by_hand, repetitions)
    return Comparison("batch", "assets", "one DuckDB script", *seconds), [_spent(done) for done in stages]


def caught_up(settings: Settings, home: Home) -> list[Done]:
    """Run a landed home up to its customers, with a Dagster instance of its own."""
    platform, last = build_platform(settings, home), settings.business.last_day
    assert last
    definitions, first = build_definitions(platform), platform.clock.first_day
    as_of = max(first, last - timedelta(days=AS_OF_DAYS - 1))
    hours = list(platform.clock.hour_keys(platform.clock.begins(first), platform.clock.now()).values())
    stages = [
        Stage(("events",), hours[0], hours[-1], len(hours)),
        Stage(("order_items", "orders"), first.isoformat(), last.isoformat(), (last - first).days + 1),
        Stage(("identities", "customers"), as_of.isoformat(), last.isoformat(), (last - as_of).days + 1),
    ]
    with open_record(home) as instance:
        return [run_stage(definitions, instance, stage) for stage in stages]


def write_by_hand(settings: Settings, home: Home, out: Path) -> None:
    """Run the hand-written script over the landed records of a home."""
    first, last = settings.business.first_day, settings.business.last_day
    assert first and last
    records = build_platform(settings, home).lake.pin(RECORDS).files()
    write_tables(records, settings, first, last, min(AS_OF_DAYS, (last - first + timedelta(days=1)).days), out)


def _spent(done: Done) -> str:
    stage = done.stage
    bookkeeping = done.seconds - done.computing
    each = bookkeeping * 1000 / stage.partitions / len(stage.assets)
    assets = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in done.computing_of.items())
    return (
        f"{stage.partitions} partitions: {assets}; "
        f"Dagster's bookkeeping {bookkeeping:.2f} s, {each:.1f} ms per partition and asset"
    )
