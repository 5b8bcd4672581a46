"""Write, audit, publish: how a function that computes rows becomes a Dagster asset.

One pattern for every metric. The inputs are pinned and must be complete; the rows are computed and audited; only then does
one commit make them visible, and the published database follows. A failed audit leaves the last good partition, records no
materialisation, and fails the run at the first attempt.
"""

import hashlib
import inspect
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pyarrow as pa
from dagster._utils import interrupts
from deltalake.exceptions import CommitFailedError, DeltaError

from analytics_assets.warehouse.engine import engine, show
from analytics_assets.warehouse.incomplete import INCOMPLETE_HOURS, lacks, lacks_in
from analytics_assets.warehouse.inputs import Needs, dependency, incomplete_partitions, missing_inputs
from analytics_assets.warehouse.lake import Window
from analytics_assets.warehouse.memory import PEAK_MEMORY, PeakMemory
from analytics_assets.warehouse.staged import Staged
from analytics_assets.warehouse.tables import Table
from analytics_assets.warehouse.work import Computation, Compute, Platform, Rows, Work
from analytics_assets.warehouse.writing import EMPTY_DIGEST, Overtaken, by_key, in_window, newest, refuse_mixture, write

PASSING_FAULTS = (OSError, CommitFailedError, duckdb.IOException, Overtaken)
RETRIES = dg.RetryPolicy(max_retries=3, delay=2, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)
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
        deps=[*(dependency(need, main.grain == "hour") for need in needs), *extra_deps],
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
    except dg.DagsterExecutionInterruptedError as interrupted:
        # Dagster would begin the step again, and the cancelled run would run on to its end. What is noted here stops the next step.
        interrupts._received_interrupt["received"] = True
        raise dg.Failure(f"{asset}: interrupted", allow_retries=False) from interrupted
    except Exception as error:
        # What the system says to Delta's own writer is no OSError to Python.
        if isinstance(error, DeltaError) and "(os error " in str(error):
            raise
        raise dg.Failure(f"{asset}: {type(error).__name__}: {error}", allow_retries=False) from error


_INPUTS_READY = "Every partition that this one is computed from has been materialised."
_AS_DECLARED = "Rows have the declared columns, no NULL where none may be, unique keys, and lie inside their partition."


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

    missing = missing_inputs(context.instance, platform.clock, needs, window, main.grain == "hour")
    yield _check_result("inputs_ready", not missing, keys, {"missing": missing} if missing else {})
    if missing:
        names = "; ".join(f"{asset}: {text}" for asset, text in missing.items())
        raise dg.Failure(
            f"{main.name} {_span(keys)}: inputs are not there yet ({names}). Materialise them first.", allow_retries=False
        )

    with engine() as connection, closing(Work(platform, window, connection, context.log)) as work:
        if of_one_make:
            refuse_mixture(work, tables)
        work.before = {table.name: platform.lake.pin(table) for table in tables}
        # Before the inputs are read: what comes in meanwhile is at worst there and said to be missing.
        lacking = lacks(platform.lake)
        rows = compute(work)
        shown_as = {table.name: "rows" if table is main else f"rows_of_{table.name}" for table in tables}
        people_are_accounts = platform.settings.accounts.are == "people"
        hidden = {name for table in (*platform.published_tables, *tables) for name in table.personal_columns(people_are_accounts)}
        for table in tables:
            show(connection, table, rows[table.name], shown_as[table.name])
        declaration = " UNION ALL ".join(
            f"FROM ({_declared_violations(table, shown_as[table.name], window, rows[table.name], hidden)})" for table in tables
        )
        for name, query in {"as_declared": declaration, **{a.name: a.violations for a in audits}}.items():
            found = _first_found(connection, query, hidden)
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
            for found in [_first_found(connection, a.violations, hidden)]
        ]
        platform.home.builds(main.name, context.assets_def.code_versions_by_key[context.asset_key])
        written = {
            table.name: write(work, table, rows[table.name], shown_as[table.name], context.run.run_id)
            for table in reversed(tables)
        }
        outcome = written[main.name]
        metadata: dict[str, Any] = {
            "dagster/row_count": sum(count for count, _ in outcome.digests.values()),
            "delta_version": outcome.version,
            "inputs": {name: pin.version for name, pin in sorted(work.pins.items())},
            "unchanged": outcome.unchanged,
            "preview": dg.MetadataValue.md(_preview(main, outcome.newest_rows, people_are_accounts)),
            **work.metadata,
        }
        if plot:
            import base64

            shown = rows[main.name]
            of_newest = connection.sql(newest(main, "rows")).to_arrow_table() if isinstance(shown, Staged) else shown
            image = base64.b64encode(plot(work, of_newest)).decode()
            metadata["plot"] = dg.MetadataValue.md(f"![{main.name}](data:image/png;base64,{image})")
    platform.publish()
    metadata |= {"seconds": round(time.monotonic() - started, 3), PEAK_MEMORY: memory.size}

    incomplete = incomplete_partitions(platform.clock, main, needs, keys, lacking)
    by_partition = by_key(work, main, outcome.digests)
    of_all = {name: metadata.pop(name) for name in ("delta_version", "seconds", PEAK_MEMORY, "inputs", "unchanged")}
    for key in keys:
        count, digest = by_partition.get(key, (0, EMPTY_DIGEST))
        # A thousand previews and plots of one range would fill the event log: the page shows those of its last partition.
        of_last = metadata if key == keys[-1] else {}
        says = {"incomplete": incomplete[key]} if key in incomplete else {}
        context.add_asset_metadata({"dagster/partition_row_count": count, "digest": digest, **says, **of_last}, partition_key=key)
    yield from warned
    yield dg.MaterializeResult(metadata=of_all)


WARN, ERROR = dg.AssetCheckSeverity.WARN, dg.AssetCheckSeverity.ERROR


def _check_result(
    name: str, passed: bool, keys: Sequence[str], metadata: Mapping[str, Any], severity: dg.AssetCheckSeverity = ERROR
) -> dg.AssetCheckResult:
    """One result for the whole range: Dagster writes an event for each, and a range is all or nothing."""
    details = {**metadata, "partitions": _span(keys)}
    return dg.AssetCheckResult(check_name=name, passed=passed, severity=severity, metadata=details)


ROWS_TOLD = 5


def _first_found(connection: duckdb.DuckDBPyConnection, violations: str, hidden: Collection[str]) -> list[str]:
    """The first rows that a query finds, as people read them: `as_of_date 2026-03-31, currency GBP`.

    Addresses and what stands in `hidden` columns, which tell who somebody is, are masked.
    """
    # Where an order is asked for, parts of a query that each take the rows one after another run side by side.
    found = connection.sql(f"SELECT * FROM ({violations}) ORDER BY ALL LIMIT {ROWS_TOLD}")
    rows = [zip(found.columns, row, strict=True) for row in found.fetchall()]
    return [masked(", ".join(f"{name} {'…' if name in hidden else value}" for name, value in row)) for row in rows]


def masked(text: str) -> str:
    """A text without addresses of people and without credentials in URLs, and no longer than a message may be."""
    return re.sub(r"[^\s'\"(,;<>]+@[^\s'\"),;<>]+", "‹address›", text)[:1_500]


def _span(keys: Sequence[str]) -> str:
    return keys[0] if len(keys) == 1 else f"{keys[0]} to {keys[-1]}"


def _declared_violations(table: Table, name: str, window: Window, rows: Rows, hidden: Collection[str]) -> str:
    """A query over the rows, which show as `name`, for what is not as declared, in two passes.

    Of staged rows each partition must come in one piece, in order of the key: they are compared with the row before, which
    proves the keys unique in little memory. Their NULLs were counted when they were written. Of a key that is not unique, `hidden`
    columns are not told.
    """
    staged = rows if isinstance(rows, Staged) else None
    counts = {
        **{
            f"NULL in {c.name}": str(staged.nulls[c.name]) if staged else f'count(*) - count("{c.name}")'
            for c in table.columns
            if not c.nullable
        },
        "outside the partition": f"count(*) FILTER (NOT ({in_window(table, window)}))",
    }
    counted = ", ".join(f"{count} AS c{number}" for number, count in enumerate(counts.values()))
    found = ", ".join(f"('{table.name}: {what}', c{number})" for number, what in enumerate(counts))
    key = ", ".join(f'"{column}"' for column in table.key)
    told = "concat_ws(', ', " + ", ".join("'…'" if column in hidden else f'"{column}"' for column in table.key) + ")"
    repeated = f"SELECT {told} AS which, count(*) AS times FROM {name} GROUP BY {key} HAVING times > 1"
    problem = "not unique"
    if staged:
        problem = "not unique, or out of order"
        partition = table.partition_expression
        before = ", ".join(f'lag("{column}") OVER () AS before{number}' for number, column in enumerate(table.key))
        # Column by column: comparing the key as one value took a third longer.
        ascends = "false"
        for number, column in reversed(list(enumerate(table.key))):
            ascends = f'("{column}" > before{number} OR "{column}" = before{number} AND {ascends})'
        repeated = f"""SELECT coalesce(CAST(opened AS VARCHAR), first_key) AS which, times FROM (
            SELECT opened, min({told}) AS first_key, count(*) AS times
            FROM (
                SELECT {key}, CASE WHEN its_partition IS DISTINCT FROM partition_before THEN its_partition END AS opened, {ascends} AS ascends
                FROM (SELECT {key}, {before}, {partition} AS its_partition, lag({partition}) OVER () AS partition_before FROM {name})
            ) WHERE opened IS NOT NULL OR ascends IS NOT TRUE
            GROUP BY opened
        ) WHERE opened IS NULL OR times > 1"""
    return f"""SELECT violation, times FROM (SELECT unnest([{found}], recursive := true) FROM (SELECT {counted} FROM {name}))
        AS t(violation, times) WHERE times > 0
        UNION ALL SELECT '{table.name}: key {problem}: ' || which, times FROM ({repeated})"""


def _preview(table: Table, rows: pa.Table, people_are_accounts: bool) -> str:
    hidden = table.personal_columns(people_are_accounts)
    shown = [c for c in table.columns if c.name not in hidden]
    head = "| " + " | ".join(c.name for c in shown) + " |\n|" + "---|" * len(shown)
    body = [
        "| " + " | ".join(str(record[c.name]).replace("|", "\\|").replace("\n", " ") for c in shown) + " |"
        for record in rows.to_pylist()
    ]
    note = f"\n\nNot shown, since they tell who somebody is: {', '.join(hidden)}." if hidden else ""
    return "\n".join([head, *body]) + note
