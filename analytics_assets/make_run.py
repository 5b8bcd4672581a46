"""`make run`: what it does, what it shows meanwhile, and what it ends with."""

from __future__ import annotations

import os
import shlex
import sys
import threading
import time
import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table as Grid

from analytics_assets.home import Home
from analytics_assets.operations.interruption import Interruption
from analytics_assets.settings import Settings
from analytics_assets.terminal import console, plain

if TYPE_CHECKING:
    from analytics_assets.operations.catch_up import Done, Stage
    from analytics_assets.warehouse.work import Platform

# About a million lines in the five months that analytics.toml names; the software company adds 300,000.
SIMULATED_CUSTOMERS = 27_000
# What a command must be given to work on the same home with the same settings.
_ENVIRONMENT = ("ANALYTICS_HOME", "ANALYTICS_CONFIG", "PORT")


def make_run(settings: Settings, home: Home, exports: str | None, format: str, interruption: Interruption) -> None:
    """Load what is new, compute what is missing or older than its inputs, and say what there is then.

    Raises:
        StepFailed, ExportError, HomeError, OSError: with one line for whoever ran it.
    """
    import dagster as dg

    from analytics_assets.definitions import build_definitions, build_platform
    from analytics_assets.events.kissmetrics_files import list_files
    from analytics_assets.events.loading import pin_export
    from analytics_assets.operations.assets import record_now
    from analytics_assets.operations.catch_up import StepFailed, catch_up, changed_assets, end_dead_runs, run_stage
    from analytics_assets.operations.delivery import watch
    from analytics_assets.operations.freshness import look
    from analytics_assets.operations.interruption import cancelling_runs
    from analytics_assets.operations.record import open_record
    from analytics_assets.operations.upgrade import upgrade

    # Dagster's notes on parameters that may still change are for us, not for the reader of a progress bar.
    warnings.filterwarnings("ignore", category=dg.BetaWarning)
    warnings.filterwarnings("ignore", category=dg.PreviewWarning)
    started = time.monotonic()
    waiting = lambda: console.print("another run is at work in this home; waiting for it to end")  # noqa: E731
    with home.lock("run", waiting), errors_into(home.root / "run.log"), _steps() as steps:
        folder = _export_folder(settings, home, exports, steps)
        if home.contents().exports != str(folder):
            list_files(folder)
            pin_export(home, folder, format)
        batch_started = time.monotonic()
        platform = build_platform(settings, home)
        with open_record(home) as instance, cancelling_runs(instance, interruption):
            end_dead_runs(instance)
            definitions = build_definitions(platform)

            def tell() -> None:
                if not interruption():
                    watch(platform, instance, definitions.resolve_all_asset_specs(), by_daemon=False)
                    record_now(definitions, instance)

            try:
                if upgraded := upgrade(platform):
                    console.print(f"brought to this version: {', '.join(upgraded)}")
                steps.begin("load export files")
                done = [run_stage(definitions, instance, None)]
                steps.end()
            except Exception:
                tell()
                raise
            # The first load has found the first day, from which the partitions begin.
            platform = build_platform(settings, home)
            changed = changed_assets(platform)
            if changed:
                console.print(f"code or settings changed: {', '.join(changed)} and what follows from them are computed anew")

            def begin(stage: Stage) -> None:
                if interruption():
                    raise KeyboardInterrupt
                span = f"{stage.first} to {stage.last}" if stage.partitions > 1 else stage.first
                steps.begin(f"{', '.join(stage.assets)}  {span}")

            definitions = build_definitions(platform)
            with platform.publishing_at_the_end():
                try:
                    done += catch_up(platform, instance, begin)
                    look(instance, definitions)
                finally:
                    tell()
            steps.end()
    _report(platform, done, time.monotonic() - batch_started, time.monotonic() - started)
    if faults := [one.held_back for one in done if one.held_back and one.by_a_fault]:
        raise StepFailed("\n".join(faults))


class _Steps:
    """What a run is at: bars on a terminal; elsewhere, for cron and build servers, a line as each step begins."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._began = progress, time.monotonic()

    def begin(self, what: str, total: float | None = None) -> TaskID:
        self.end()
        if not console.is_terminal:
            console.print(
                f"{timedelta(seconds=int(time.monotonic() - self._began))}  {plain(what)}", highlight=False, soft_wrap=True
            )
        return self._progress.add_task(what, total=total)

    def advance(self, step: TaskID, share: float) -> None:
        self._progress.update(step, completed=share)

    def end(self) -> None:
        for task in self._progress.tasks:
            self._progress.update(task.id, total=1, completed=1)


@contextmanager
def _steps() -> Iterator[_Steps]:
    columns = (
        SpinnerColumn(finished_text="[green]✓[/]"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield _Steps(progress)


@contextmanager
def errors_into(log: Path) -> Iterator[None]:
    """Write what libraries print about an error into a file, where the disk has room for it: whoever runs this is told it in one line."""
    file = log.open("wb", buffering=0)
    reading, writing = os.pipe()
    terminal = os.dup(2)

    def copy() -> None:
        with os.fdopen(reading, "rb", buffering=0) as pipe, file:
            while printed := pipe.read(2**16):
                with suppress(OSError):
                    file.write(printed)

    sys.stderr.flush()
    os.dup2(writing, 2)
    os.close(writing)
    copying = threading.Thread(target=copy, name="run.log", daemon=True)
    copying.start()
    try:
        yield
    except Exception:
        traceback.print_exc()
        raise
    finally:
        sys.stderr.flush()
        os.dup2(terminal, 2)
        os.close(terminal)
        # A program that was started inside and is still there may hold the other end.
        copying.join(timeout=2)


def _export_folder(settings: Settings, home: Home, exports: str | None, steps: _Steps) -> Path:
    if exports:
        return Path(exports).expanduser().resolve()
    if home.contents().exports:
        return Path(str(home.contents().exports))
    if settings.exports.folder:
        return Path(settings.exports.folder).expanduser().resolve()
    if not home.simulation.exists():
        from analytics_assets.simulation import kissmetrics, kissmetrics_software, retailer, software
        from analytics_assets.simulation.export_folder import write_folder

        step = steps.begin("simulate a fashion retailer and a software company", total=1.0)
        business, default = settings.business, retailer.Retailer()
        first_day, last_day = business.first_day or default.first_day, business.last_day or default.last_day
        zone, currency = business.time_zone, business.currency
        shop = retailer.Retailer(first_day, last_day, zone, currency, customers=SIMULATED_CUSTOMERS)
        vendor = software.SoftwareCompany(first_day, last_day, zone, currency)
        companies = (
            kissmetrics.company_lines(retailer.simulate(shop))[0],
            kissmetrics_software.company_lines(software.simulate(vendor))[0],
        )
        write_folder(home.simulation, companies, lambda _, share: steps.advance(step, share))
    return home.simulation


def _report(platform: Platform, done: list[Done], batch_seconds: float, all_seconds: float) -> None:
    import duckdb

    from analytics_assets.operations.delivery import outbox_of

    home = platform.home
    seconds: dict[str, float] = defaultdict(float)
    partitions: Counter[str] = Counter()
    for one in done:
        for name in one.stage.assets:
            seconds[name] += one.computing_of.get(name, 0.0)
            partitions[name] += one.stage.partitions
    grid = Grid("table", "rows", "partitions computed", "seconds", title="What there is now", title_justify="left")
    for column in grid.columns[1:]:
        column.justify = "right"
    with duckdb.connect(str(home.database), read_only=True) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        empty = []
        for table in platform.published_tables:
            rows = connection.sql(f'SELECT count(*) FROM "{table.name}"').fetchall()[0][0]
            if not rows:
                empty.append(table.name)
                continue
            ran = table.name in partitions
            grid.add_row(
                table.name,
                f"{rows:,}",
                f"{partitions[table.name]:,}" if ran else "-",
                f"{seconds[table.name]:.1f}" if ran and table.name in seconds else "-",
            )
        best = connection.sql(
            """SELECT customer_id, orders, net_revenue, expected_revenue, lifetime_value, currency, as_of_date FROM customer_ltv
            WHERE as_of_date = (SELECT max(as_of_date) FROM customer_ltv) ORDER BY lifetime_value DESC, customer_id LIMIT 10"""
        ).fetchall()
        at_risk = connection.sql(
            """SELECT subject_id, mrr, probability, mrr_at_risk, currency,
                coalesce(regexp_extract(reasons, 'raises: ([^;]*)', 1), '') AS why, as_of_date
            FROM churn_scores
            WHERE kind = 'account' AND as_of_date = (SELECT max(as_of_date) FROM churn_scores) AND mrr_at_risk > 0
            ORDER BY mrr_at_risk DESC, subject_id LIMIT 5"""
        ).fetchall()
    console.print(grid)
    if empty:
        console.print(f"Empty: {', '.join(empty)}.", highlight=False)
    if best:
        top = Grid(
            "customer",
            "orders",
            "so far",
            "expected",
            "lifetime value",
            title=f"The ten most valuable customers, {best[0][6]}",
            title_justify="left",
        )
        for column in top.columns[1:]:
            column.justify = "right"
        for customer, orders, revenue, expected, value, currency, _ in best:
            top.add_row(
                plain(customer),
                f"{orders:,}",
                f"{revenue:,.2f}",
                "-" if expected is None else f"{expected:,.2f}",
                f"{value:,.2f} {currency}",
            )
        console.print(top)
    if at_risk:
        calls = Grid("account", "pays a month", "may leave", "at risk", "what raises it", title_justify="left")
        calls.title = f"Accounts with the most revenue at risk, {at_risk[0][6]}"
        for column in calls.columns[1:4]:
            column.justify = "right"
        for account, mrr, probability, risk, currency, why, _ in at_risk:
            calls.add_row(plain(account), f"{mrr:,.2f}", f"{probability:.0%}", f"{risk:,.2f} {currency}", plain(why))
        console.print(calls)
    for one in done:
        if one.held_back and not one.by_a_fault:
            console.print(f"[yellow]held back:[/] {plain(one.held_back)}", highlight=False, soft_wrap=True)
    parked = _parked(platform)
    if parked:
        business = platform.settings.business
        console.print(
            f"[yellow]{parked:,} events lie before first_day ({platform.clock.first_day}) or after the end "
            f"({business.last_day or 'now'}) and are in no partition.[/]"
        )
    if standing := Counter(one.alert.kind for one in outbox_of(platform).alerts(standing_only=True)):
        kinds = ", ".join(f"{kind} ({count})" if count > 1 else kind for kind, count in sorted(standing.items()))
        console.print(
            f"[yellow]alerts:[/] {kinds}. What each says: .venv/bin/analytics-assets alerts", highlight=False, soft_wrap=True
        )
    computing = sum(one.computing for one in done)
    loading = done[0].seconds
    console.print(
        f"batch {batch_seconds:.1f} s: loading {loading:.1f}, computing {computing:.1f}, Dagster's bookkeeping and start "
        f"{batch_seconds - computing - loading:.1f}; with everything {all_seconds:.1f} s"
    )
    console.print(f"\nIt lies in [bold]{home.root}[/]. Look at it:", highlight=False, soft_wrap=True)
    console.print(f"  duckdb -readonly {home.database}      or any client; open it read-only", highlight=False, soft_wrap=True)
    console.print(
        f"  make ui{_environment()}                 assets, checks, backfills, schedules: http://127.0.0.1:{os.environ.get('PORT') or 3000}",
        highlight=False,
        soft_wrap=True,
    )
    console.print("  make run EXPORTS=dir FORMAT=kissmetrics ANALYTICS_HOME=dir      the same on your export", highlight=False)


def _environment() -> str:
    """What a command must be given to work on this home with these settings."""
    return "".join(f" {name}={shlex.quote(os.environ[name])}" for name in _ENVIRONMENT if os.environ.get(name))


def _parked(platform: Platform) -> int:
    from analytics_assets.events.tables import RECORDS
    from analytics_assets.warehouse.engine import attach, engine

    clock = platform.clock
    with engine() as connection:
        attach(connection, platform.lake.pin(RECORDS))
        query = (
            "SELECT count(DISTINCT record_id) FROM records WHERE kind = 'event' AND (occurred_at < $first OR occurred_at >= $end)"
        )
        parameters = {"first": clock.begins(clock.first_day), "end": clock.now()}
        return int(connection.sql(query, params=parameters).fetchall()[0][0])
