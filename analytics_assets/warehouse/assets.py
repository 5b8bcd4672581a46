"""Write, audit, publish: how a function that computes rows becomes a Dagster asset.

One pattern for every metric. The inputs are pinned and must be complete; the rows are computed and audited; only then does
one commit make them visible, and the published database follows. A failed audit leaves the last good partition, records no
materialisation, and fails the run at the first attempt.
"""

import hashlib
import inspect
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import dagster as dg
import duckdb
import pyarrow as pa
from deltalake.exceptions import CommitFailedError

from analytics_assets.home import Home
from analytics_assets.partitions import (
    BusinessClock,
    all_earlier_days,
    hours_of_the_day,
    keys_between,
    the_evening_before,
    with_earlier,
)
from analytics_assets.settings import Settings
from analytics_assets.warehouse.engine import attach, declared, engine, run, show
from analytics_assets.warehouse.incomplete import INCOMPLETE_HOURS, Lack, lacks, lacks_in
from analytics_assets.warehouse.lake import Lake, LakeError, Pin, Staged, Window, predicate_for
from analytics_assets.warehouse.memory import PEAK_MEMORY, PeakMemory
from analytics_assets.warehouse.publishing import publish
from analytics_assets.warehouse.tables import Table


class Overtaken(Exception):
    """Another run replaced rows of the same partitions while this one computed, perhaps from newer inputs: compute again."""


PASSING_FAULTS = (OSError, CommitFailedError, duckdb.IOException, Overtaken)
RETRIES = dg.RetryPolicy(max_retries=3, delay=2, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)
PREVIEW_ROWS = 5
# Beside it Python and the reading of files take 0.4 GB: an hour of 5 M events in less than 2 GB, 7 % slower than in 3.1 GB.
MOST_MEMORY = "1300MB"
# The tag that says which days catching up keeps filled: all of them, the last 30 (as-of tables), the newest (what goes out).
FILL = "analytics/fill"
FILLS = ("all", "recent", "newest")


@dataclass(frozen=True)
class Audit:
    """A check on the rows: blocking, before they are committed, or a warning beside rows that are published all the same.

    `violations` is a query over the relation `rows` (and the inputs) that returns the offending rows; none may be returned.
    """

    name: str
    means: str
    violations: str


@dataclass(frozen=True)
class Needs:
    """An upstream asset, and which of its partitions: those of the same time, and earlier ones too.

    `as_of` takes all earlier ones, `back` so many before the own, counted in partitions of the asset that needs them;
    `evening_before` takes the day before the business day alone. Before the first day there are none. `hourly` says that the
    upstream's partitions are hours.
    """

    asset: str
    as_of: bool = False
    hourly: bool = False
    back: int = 0
    evening_before: bool = False


@dataclass
class Platform:
    """What every asset is built from: settings, home, clock, and the tables that get published.

    While `hold_publishing` is set, commits do not show in `analytics.duckdb`; who sets it publishes.
    `computations` are those of the assets built so far, by asset.
    """

    settings: Settings
    home: Home
    published_tables: list[Table] = field(default_factory=list)
    hold_publishing: bool = False
    computations: dict[str, "Computation"] = field(default_factory=dict)

    @cached_property
    def clock(self) -> BusinessClock:
        """The business clock of this home."""
        return BusinessClock.of(self.settings, self.home)

    @property
    def lake(self) -> Lake:
        """The home's lake."""
        return Lake(self.home.lake)

    def publish(self) -> bool:
        """Bring `analytics.duckdb` up to the lake's present state."""
        return not self.hold_publishing and publish(self.home, self.published_tables)

    @contextmanager
    def publishing_at_the_end(self) -> Iterator[None]:
        """Let what is committed inside show at once when all of it is over: a publication copies every table."""
        held, self.hold_publishing = self.hold_publishing, True
        try:
            yield
        finally:
            self.hold_publishing = held
            self.publish()


@dataclass
class Work:
    """One materialisation at work: its window, its pinned inputs, and the connection that computes."""

    platform: Platform
    window: Window
    connection: duckdb.DuckDBPyConnection
    log: Any
    pins: dict[str, Pin] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    staged: list[Staged] = field(default_factory=list)
    before: dict[str, Pin] = field(default_factory=dict)

    @property
    def settings(self) -> Settings:
        """The business's settings."""
        return self.platform.settings

    @property
    def days(self) -> list[date]:
        """The business days of the window."""
        count = (self.window.last_day - self.window.first_day).days + 1
        return [self.window.first_day + timedelta(days=i) for i in range(count)]

    def read(self, table: Table, pruning: str | None = None, in_memory: bool = False) -> None:
        """Pin a table, once for the whole materialisation, and make it readable under its name.

        Raises:
            LakeError: no row has a column that may not be NULL: what is computed from them would be wrong.
        """
        if table.name not in self.pins:
            self.pins[table.name] = self.platform.lake.pin(table)
        if lacking := self.pins[table.name].lacks:
            raise LakeError(
                f"{table.name} was made by an earlier version, without {', '.join(lacking)}: `make run` computes it anew."
            )
        attach(self.connection, self.pins[table.name], pruning, in_memory=in_memory)

    def sql(self, file: Path, **parameters: Any) -> duckdb.DuckDBPyRelation:
        """Run a `.sql` file with bound parameters over what has been read."""
        return run(self.connection, file, parameters)

    def stage(self, table: Table) -> Staged:
        """Where rows of `table` go that are too many for memory; who computes returns it in their place."""
        self.staged.append(self.platform.lake.stage(table))
        return self.staged[-1]

    def bound_memory(self) -> None:
        """Let the connection hold `MOST_MEMORY`; what is more lies in the home until it is closed."""
        spill = self.platform.home.spill
        spill.mkdir(parents=True, exist_ok=True)
        # Two processes with one folder would write the same files.
        self.connection.execute("SET temp_directory = $folder", {"folder": str(spill / str(uuid.uuid4()))})
        self.connection.execute("SET memory_limit = $most", {"most": MOST_MEMORY})

    def close(self) -> None:
        """Delete what was staged and not adopted."""
        for staged in self.staged:
            staged.close()

    def rows_of(self, table: Table, relation: Any) -> pa.Table:
        """A result as exactly the declared columns of `table`."""
        return declared(self.connection, table, relation)


Rows: TypeAlias = pa.Table | Staged
Compute = Callable[[Work], Mapping[str, Rows]]


@dataclass(frozen=True)
class Computation:
    """How the rows of an asset's tables are computed, the main table first, and which days are kept filled (one of `FILLS`)."""

    tables: tuple[Table, ...]
    compute: Compute
    fill: str


def code_version(platform: Platform, compute: Callable[..., Any], tables: Sequence[Table], settings: Sequence[str]) -> str:
    """Changes when the code beside the asset, the declared columns or the settings that it uses change."""
    folder = Path(inspect.getfile(compute)).parent
    sources = b"".join(path.read_bytes() for path in sorted([*folder.glob("*.sql"), *folder.glob("*.py")]))
    columns = repr([table.columns for table in tables])
    used = platform.settings.fingerprint("business.time_zone", *settings)
    return hashlib.sha256(sources + columns.encode() + used.encode()).hexdigest()[:12]


def table_asset(
    platform: Platform,
    tables: Sequence[Table],
    compute: Compute,
    *,
    needs: Sequence[Needs] = (),
    extra_deps: Sequence[dg.AssetDep] = (),
    audits: Sequence[Audit] = (),
    warnings: Sequence[Audit] = (),
    settings: Sequence[str] = (),
    group: str,
    owners: Sequence[str] = ("team:analytics",),
    plot: Callable[[Work, pa.Table], bytes] | None = None,
    fill: str | None = None,
    condition: dg.AutomationCondition | None = None,
) -> dg.AssetsDefinition:
    """Make the asset of `tables[0]`; further tables are written by the same asset, before it.

    `compute` returns the rows of every table of the window, by table name; its docstring is the asset's page. Checks see
    the main table's rows as `rows`, those of a further table as `rows_of_<name>`; `plot` is given them, of staged ones
    those of the newest partition. `warnings` never stop anything. `fill` is one of `FILLS`; as-of tables are `recent` where it is not given.
    """
    main = tables[0]
    fill = fill or ("recent" if main.partition_column == "as_of_date" else "all")
    platform.computations[main.name] = Computation(tuple(tables), compute, fill)
    partitions = platform.clock.hours if main.grain == "hour" else platform.clock.days
    specs = [
        dg.AssetCheckSpec("inputs_ready", asset=main.name, blocking=True, description=_INPUTS_READY),
        dg.AssetCheckSpec("as_declared", asset=main.name, blocking=True, description=_AS_DECLARED),
        *(dg.AssetCheckSpec(a.name, asset=main.name, blocking=True, description=a.means) for a in audits),
        *(dg.AssetCheckSpec(a.name, asset=main.name, description=a.means) for a in warnings),
    ]

    @dg.asset(
        name=main.name,
        description=inspect.getdoc(compute),
        partitions_def=partitions,
        deps=[*(_dep(need, main.grain == "hour") for need in needs), *extra_deps],
        check_specs=specs,
        retry_policy=RETRIES,
        backfill_policy=dg.BackfillPolicy.single_run(),
        code_version=code_version(platform, compute, tables, settings),
        automation_condition=condition,
        group_name=group,
        owners=list(owners),
        tags={FILL: fill},
        kinds={"duckdb", "deltalake"},
        metadata={
            "dagster/column_schema": main.dagster_schema(),
            "dagster/table_name": main.name,
            "code": dg.MetadataValue.path(_module_path(compute)),
        },
    )
    def asset(context: dg.AssetExecutionContext) -> Iterator[Any]:
        started = time.monotonic()
        with only_passing_faults_retried(main.name), PeakMemory() as memory:
            yield from _materialize(
                context, platform, tables, compute, needs, audits, warnings, plot, started, fill == "all", memory
            )

    return asset


@contextmanager
def only_passing_faults_retried(asset: str) -> Iterator[None]:
    """Let faults through that may pass (disk, conflicting commit, overtaken by another run), and make every other one a failure at the first attempt."""
    try:
        yield
    except (dg.Failure, *PASSING_FAULTS):
        raise
    except Exception as error:
        raise dg.Failure(f"{asset}: {type(error).__name__}: {error}", allow_retries=False) from error


_INPUTS_READY = "Every partition that this one is computed from has been materialised."
_AS_DECLARED = "Rows have the declared columns, no NULL where none may be, unique keys, and lie inside their partition."


def _dep(need: Needs, by_the_hour: bool) -> dg.AssetDep:
    if need.as_of:
        return dg.AssetDep(need.asset, partition_mapping=all_earlier_days())
    if need.back:
        return dg.AssetDep(need.asset, partition_mapping=with_earlier(need.back))
    if need.evening_before:
        return dg.AssetDep(need.asset, partition_mapping=the_evening_before(by_the_hour))
    return dg.AssetDep(need.asset, partition_mapping=hours_of_the_day() if need.hourly else None)


def _module_path(compute: Callable[..., Any]) -> str:
    return str(Path(inspect.getfile(compute)).relative_to(Path(__file__).resolve().parent.parent.parent))


def _materialize(
    context: dg.AssetExecutionContext,
    platform: Platform,
    tables: Sequence[Table],
    compute: Compute,
    needs: Sequence[Needs],
    audits: Sequence[Audit],
    warnings: Sequence[Audit],
    plot: Callable[[Work, pa.Table], bytes] | None,
    started: float,
    of_one_make: bool,
    memory: PeakMemory,
) -> Iterator[Any]:
    main = tables[0]
    bounds = context.partition_time_window
    window = platform.clock.window(bounds.start, bounds.end)
    keys = list(context.partition_keys)

    missing = _missing_inputs(context, platform, needs, window, main.grain == "hour")
    yield _check_result("inputs_ready", not missing, keys, {"missing": missing} if missing else {})
    if missing:
        names = "; ".join(f"{asset}: {text}" for asset, text in missing.items())
        raise dg.Failure(
            f"{main.name} {_span(keys)}: inputs are not there yet ({names}). Materialise them first.", allow_retries=False
        )

    with engine() as connection, closing(Work(platform, window, connection, context.log)) as work:
        if of_one_make:
            _refuse_mixture(work, tables)
        work.before = {table.name: platform.lake.pin(table) for table in tables}
        # Before the inputs are read: what comes in meanwhile is at worst there and said to be missing.
        lacking = lacks(platform.lake)
        rows = compute(work)
        shown_as = {table.name: "rows" if table is main else f"rows_of_{table.name}" for table in tables}
        for table in tables:
            show(connection, table, rows[table.name], shown_as[table.name])
        declaration = " UNION ALL ".join(
            f"FROM ({_declared_violations(table, shown_as[table.name], window, isinstance(rows[table.name], Staged))})"
            for table in tables
        )
        for name, query in {"as_declared": declaration, **{a.name: a.violations for a in audits}}.items():
            found = _first_found(connection, query)
            yield _check_result(name, not found, keys, {"violations": found} if found else {})
            if found:
                meant = next((a.means for a in audits if a.name == name), _AS_DECLARED)
                text = f"{main.name} {_span(keys)}: {name} failed: {found[0]}. It checks: {meant} The last good partition stands."
                raise dg.Failure(text, metadata={"violations": found}, allow_retries=False)

        if INCOMPLETE_HOURS in tables:
            lacking = lacks_in(connection, shown_as[INCOMPLETE_HOURS.name])
        warned = [
            _check_result(a.name, not found, keys, {"means": a.means, "found": found} if found else {}, WARN)
            for a in warnings
            for found in [_first_found(connection, a.violations)]
        ]
        written = {
            table.name: _write(work, table, rows[table.name], shown_as[table.name], context.run.run_id)
            for table in reversed(tables)
        }
        outcome = written[main.name]
        metadata: dict[str, Any] = {
            "dagster/row_count": sum(count for count, _ in outcome.digests.values()),
            "delta_version": outcome.version,
            "inputs": {name: pin.version for name, pin in sorted(work.pins.items())},
            "unchanged": outcome.unchanged,
            "preview": dg.MetadataValue.md(_preview(main, outcome.newest_rows)),
            **work.metadata,
        }
        if plot:
            import base64

            shown = rows[main.name]
            of_newest = connection.sql(_newest(main, "rows")).to_arrow_table() if isinstance(shown, Staged) else shown
            image = base64.b64encode(plot(work, of_newest)).decode()
            metadata["plot"] = dg.MetadataValue.md(f"![{main.name}](data:image/png;base64,{image})")
    platform.publish()
    metadata |= {"seconds": round(time.monotonic() - started, 3), PEAK_MEMORY: memory.size}

    incomplete = _incomplete(platform.clock, main, needs, keys, lacking)
    by_partition = _by_key(work, main, outcome.digests)
    of_all = {name: metadata.pop(name) for name in ("delta_version", "seconds", PEAK_MEMORY, "inputs", "unchanged")}
    for key in keys:
        count, digest = by_partition.get(key, (0, EMPTY_DIGEST))
        # A thousand previews and plots of one range would fill the event log: the page shows those of its last partition.
        of_last = metadata if key == keys[-1] else {}
        says = {"incomplete": incomplete[key]} if key in incomplete else {}
        context.add_asset_metadata({"dagster/partition_row_count": count, "digest": digest, **says, **of_last}, partition_key=key)
    yield from warned
    yield dg.MaterializeResult(metadata=of_all)


def _incomplete(
    clock: BusinessClock, table: Table, needs: Sequence[Needs], keys: Sequence[str], lacking: Sequence[Lack]
) -> dict[str, str]:
    """What partitions are made without, in words, by key: hours of their day that were not in, or of a day before where they read it."""
    if not lacking:
        return {}
    reads_earlier = any(need.as_of or need.back or need.evening_before for need in needs)
    definition = clock.hours if table.grain == "hour" else clock.days
    incomplete = {}
    for key in keys:
        window = definition.time_window_for_partition_key(key)
        day = clock.day_of(window.start)
        found = [
            lack for lack in lacking if lack.first_hour < window.end and (lack.day == day or (reads_earlier and lack.day < day))
        ]
        if found:
            incomplete[key] = "; ".join(lack.in_words(clock.settings.business.zone) for lack in found)
    return incomplete


WARN, ERROR = dg.AssetCheckSeverity.WARN, dg.AssetCheckSeverity.ERROR


def _check_result(
    name: str, passed: bool, keys: Sequence[str], metadata: Mapping[str, Any], severity: dg.AssetCheckSeverity = ERROR
) -> dg.AssetCheckResult:
    """One result for the whole range: Dagster writes an event for each, and a range is all or nothing."""
    details = {**metadata, "partitions": _span(keys)}
    return dg.AssetCheckResult(check_name=name, passed=passed, severity=severity, metadata=details)


EMPTY_DIGEST = "0" * 32
ROWS_TOLD = 5


def _first_found(connection: duckdb.DuckDBPyConnection, violations: str) -> list[str]:
    """The first rows that a query finds, as people read them: `as_of_date 2026-03-31, currency GBP`."""
    found = connection.sql(f"SELECT * FROM ({violations}) LIMIT {ROWS_TOLD}")
    return [", ".join(f"{name} {value}" for name, value in zip(found.columns, row, strict=True)) for row in found.fetchall()]


def _span(keys: Sequence[str]) -> str:
    return keys[0] if len(keys) == 1 else f"{keys[0]} to {keys[-1]}"


def _missing_inputs(
    context: dg.AssetExecutionContext, platform: Platform, needs: Sequence[Needs], window: Window, by_the_hour: bool
) -> dict[str, str]:
    missing = {}
    for need in needs:
        definition = platform.clock.hours if need.hourly else platform.clock.days
        start, end = _needed(platform.clock, need, window, by_the_hour)
        wanted = keys_between(definition, start, end)
        there = partitions_there(context.instance, need.asset)
        absent = [key for key in wanted if key not in there]
        if absent:
            missing[need.asset] = f"{len(absent)} of {len(wanted)} partitions, first {absent[0]}"
    return missing


def partitions_there(instance: dg.DagsterInstance, asset: str) -> set[str]:
    """Partitions that were materialised and that maintenance has not removed since, which it records as an observation."""
    key, events = dg.AssetKey(asset), instance.event_log_storage
    removed = events.get_latest_storage_id_by_partition(key, dg.DagsterEventType.ASSET_OBSERVATION)
    if not removed:
        return instance.get_materialized_partitions(key)
    made = events.get_latest_storage_id_by_partition(key, dg.DagsterEventType.ASSET_MATERIALIZATION)
    return {partition for partition, made_at in made.items() if made_at > removed.get(partition, -1)}


def _needed(clock: BusinessClock, need: Needs, window: Window, by_the_hour: bool) -> tuple[datetime, datetime]:
    """From when to when partitions of an input are read for a window."""
    first = clock.begins(clock.first_day)
    if need.as_of:
        return first, window.end
    if need.evening_before:
        return max(first, clock.begins(window.first_day - timedelta(days=1))), max(first, clock.begins(window.last_day))
    if by_the_hour:
        return max(first, window.start - timedelta(hours=need.back)), window.end
    return max(first, clock.begins(window.first_day - timedelta(days=need.back))), window.end


def _declared_violations(table: Table, rows: str, window: Window, in_order: bool) -> str:
    """A query for what is not as declared, in two passes.

    Rows whose partitions must each come in one piece, `in_order` of the key, are compared with the row before, which proves the
    keys unique in little memory.
    """
    counts = {
        **{f"NULL in {c.name}": f'"{c.name}" IS NULL' for c in table.columns if not c.nullable},
        "outside the partition": f"NOT ({in_window(table, window)})",
    }
    counted = ", ".join(f"count(*) FILTER ({condition}) AS c{number}" for number, condition in enumerate(counts.values()))
    found = ", ".join(f"('{table.name}: {what}', c{number})" for number, what in enumerate(counts))
    key = ", ".join(f'"{name}"' for name in table.key)
    repeated = f"SELECT concat_ws(', ', {key}) AS which, count(*) AS times FROM {rows} GROUP BY {key} HAVING times > 1"
    problem = "not unique"
    if in_order:
        problem = "not unique, or out of order"
        partition = table.partition_expression
        neighbours = f"""SELECT {key}, ({key}) AS here, lag(({key})) OVER () AS before, {partition} AS its_partition,
            lag({partition}) OVER () AS partition_before FROM {rows}"""
        repeated = f"""SELECT concat_ws(', ', {key}) AS which, 2 AS times FROM ({neighbours})
            WHERE its_partition = partition_before AND NOT here > before
            UNION ALL SELECT CAST(its_partition AS VARCHAR), count(*) AS times FROM ({neighbours})
            WHERE its_partition IS DISTINCT FROM partition_before GROUP BY its_partition HAVING times > 1"""
    return f"""SELECT violation, times FROM (SELECT unnest([{found}], recursive := true) FROM (SELECT {counted} FROM {rows}))
        AS t(violation, times) WHERE times > 0
        UNION ALL SELECT '{table.name}: key {problem}: ' || which, times FROM ({repeated})"""


def _refuse_mixture(work: Work, tables: Sequence[Table]) -> None:
    """Write no partition with a column that the others lack: who reads all of them would take their NULLs for values.

    Raises:
        LakeError: the table was made by an earlier version and has rows outside the window.
    """
    for table in tables:
        now = work.platform.lake.pin(table)
        if lacking := now.lacks:
            attach(work.connection, now, name="stored")
            others = work.connection.sql(f"SELECT 1 FROM stored WHERE NOT ({in_window(table, work.window)}) LIMIT 1").fetchall()
            if others:
                raise LakeError(
                    f"{table.name} was made by an earlier version, without {', '.join(lacking)}: `make run` computes all of it anew."
                )


@dataclass(frozen=True)
class _Written:
    version: int
    digests: dict[Any, tuple[int, str]]
    newest_rows: pa.Table
    unchanged: bool


def _write(work: Work, table: Table, rows: Rows, name: str, run_id: str) -> _Written:
    """Commit the rows of a window, which show as `name`, unless the lake holds exactly these already."""
    digests = _digests(work, table, name)
    newest_rows = work.connection.sql(f"{_newest(table, name)} LIMIT {PREVIEW_ROWS}").to_arrow_table()
    lake = work.platform.lake
    now = lake.pin(table)
    predicate = predicate_for(table, work.window)
    if now.version is not None and _stored_digests(work, now) == digests:
        return _Written(now.version, digests, newest_rows, unchanged=True)
    note = {"run_id": run_id, "partitions": f"{work.window.start.isoformat()} to {work.window.end.isoformat()}"}

    def before(pin: Pin) -> None:
        seen = work.before[table.name]
        if pin.files(predicate) != seen.files(predicate) and _stored_digests(work, pin) != _stored_digests(work, seen):
            raise Overtaken(f"{table.name} {note['partitions']}: another run replaced these rows while this one computed.")

    if isinstance(rows, Staged):
        replaced = lake.adopt(rows, work.window, note, before)
    else:
        replaced = lake.replace(table, rows, predicate, note, before)
    return _Written(replaced, digests, newest_rows, unchanged=False)


def _stored_digests(work: Work, pin: Pin) -> dict[Any, tuple[int, str]]:
    """Digests of the window's partitions as a version holds them."""
    attach(work.connection, pin, predicate_for(pin.table, work.window), name="stored")
    return _digests(work, pin.table, f"(FROM stored WHERE {in_window(pin.table, work.window)})")


def _newest(table: Table, name: str) -> str:
    """A query for the rows of the newest partition that there is."""
    return f"FROM {name} WHERE {table.partition_expression} = (SELECT max({table.partition_expression}) FROM {name})"


def in_window(table: Table, window: Window) -> str:
    """The SQL condition that a row of a table lies in the partitions of a window."""
    if table.grain == "hour":
        return f"hour >= TIMESTAMPTZ '{window.start.isoformat()}' AND hour < TIMESTAMPTZ '{window.end.isoformat()}'"
    return f"{table.partition_column} BETWEEN DATE '{window.first_day}' AND DATE '{window.last_day}'"


def _digests(work: Work, table: Table, relation: str) -> dict[Any, tuple[int, str]]:
    return {part: (rows, digest) for part, rows, digest in work.connection.sql(table.digest_select(relation)).fetchall()}


def _by_key(work: Work, table: Table, digests: Mapping[Any, tuple[int, str]]) -> dict[str, tuple[int, str]]:
    if table.grain == "day":
        return {day.isoformat(): found for day, found in digests.items()}
    keys = work.platform.clock.hour_keys(work.window.start, work.window.end)
    return {keys[hour.astimezone(UTC)]: found for hour, found in digests.items()}


def _preview(table: Table, rows: pa.Table) -> str:
    shown = [c for c in table.columns if not c.personal]
    head = "| " + " | ".join(c.name for c in shown) + " |\n|" + "---|" * len(shown)
    body = [
        "| " + " | ".join(str(record[c.name]).replace("|", "\\|").replace("\n", " ") for c in shown) + " |"
        for record in rows.to_pylist()
    ]
    hidden = [c.name for c in table.columns if c.personal]
    note = f"\n\nNot shown, since they tell who somebody is: {', '.join(hidden)}." if hidden else ""
    return "\n".join([head, *body]) + note
