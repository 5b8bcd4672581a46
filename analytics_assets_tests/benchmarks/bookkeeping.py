"""What Dagster itself takes, in CPU seconds: assets that compute nothing, recorded as ours are, beside Dagster's own SQLite storage."""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import dagster as dg

from analytics_assets.home import Home
from analytics_assets.operations.catch_up import Stage, run_stage
from analytics_assets.operations.record import open_record
from analytics_assets_tests.benchmarks.comparison import Comparison, taking_turns

HOURS = dg.HourlyPartitionsDefinition(start_date="2025-11-01-00:00", end_date="2025-12-12-16:00")
CHECKS = ("inputs_ready", "as_declared", "first_rule", "second_rule")
STEPS = 10
STEP_GOAL, PARTITION_GOAL = 0.1, 15.0


def measure(folder: Path, repetitions: int) -> tuple[Comparison, Iterator[str]]:
    """A range of a thousand partitions in one step; the lines hold a step, and a partition, to what they may add."""
    keys = HOURS.get_partition_keys()
    definitions = _definitions(1)

    def ours(number: int) -> float:
        with open_record(Home(folder / f"ours-{number}")) as instance:
            return _cpu(definitions, instance, keys)

    def stock(number: int) -> float:
        home = folder / f"stock-{number}"
        home.mkdir(parents=True)
        # Set by whoever opened a record of ours before.
        os.environ.pop("DAGSTER_EVENT_BATCH_SIZE", None)
        with dg.DagsterInstance.local_temp(str(home), overrides={"telemetry": {"enabled": False}}) as instance:
            return _cpu(definitions, instance, keys)

    seconds = taking_turns(ours, stock, repetitions)
    return Comparison("record of 1,000 partitions", "in batches", "one by one", *seconds, 0.25), _told(
        folder, seconds[0], len(keys)
    )


def _told(folder: Path, of_range: float, partitions: int) -> Iterator[str]:
    with open_record(Home(folder / "steps")) as instance:
        a_step = _cpu(_definitions(STEPS), instance, HOURS.get_partition_keys()[:1]) / STEPS
    yield f"Dagster adds {a_step:.3f} CPU-seconds a step of one partition (goal: under {STEP_GOAL})"
    yield f"Dagster adds {of_range / partitions * 1000:.2f} CPU-milliseconds a partition of a range (goal: under {PARTITION_GOAL:g})"


def _definitions(assets: int) -> dg.Definitions:
    return dg.Definitions([_asset(f"asset_{number}") for number in range(assets)], executor=dg.in_process_executor)


def _asset(name: str) -> dg.AssetsDefinition:
    checks = [dg.AssetCheckSpec(check, asset=name) for check in CHECKS]

    @dg.asset(name=name, partitions_def=HOURS, backfill_policy=dg.BackfillPolicy.single_run(), check_specs=checks)
    def asset(context: dg.AssetExecutionContext):
        for check in CHECKS:
            yield dg.AssetCheckResult(check_name=check, passed=True, metadata={"partitions": "all"})
        for key in context.partition_keys:
            context.add_asset_metadata({"dagster/partition_row_count": 5, "digest": "0" * 32}, partition_key=key)
        yield dg.MaterializeResult(metadata={"delta_version": 1, "seconds": 0.0, "inputs": {"events": 1}, "unchanged": False})

    return asset


def _cpu(definitions: dg.Definitions, instance: dg.DagsterInstance, keys: Sequence[str]) -> float:
    """CPU seconds of one run, the second: the first makes the databases."""
    names = tuple(key.to_user_string() for key in definitions.resolve_asset_graph().get_all_asset_keys())
    run_stage(definitions, instance, Stage(names, keys[0], keys[0], 1))
    started = time.process_time()
    run_stage(definitions, instance, Stage(names, keys[0], keys[-1], len(keys)))
    return time.process_time() - started
