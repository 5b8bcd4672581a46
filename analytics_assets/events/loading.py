"""Landing: new export files become records, each file whole or not at all, every line accounted for."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pyarrow as pa

from analytics_assets.events import kissmetrics
from analytics_assets.events.kissmetrics_files import ExportError, ExportFile, list_files, named_and_missing
from analytics_assets.events.tables import EVENTS, EXPORT_FILES, PROPERTY_SETS, RECORDS, REJECTED_LINES
from analytics_assets.home import Contents, Home, HomeError
from analytics_assets.partitions import LOOKBACK
from analytics_assets.settings import Settings
from analytics_assets.warehouse.assets import RETRIES, only_passing_faults_retried
from analytics_assets.warehouse.engine import attach, declared, engine
from analytics_assets.warehouse.incomplete import lacks
from analytics_assets.warehouse.lake import Lake
from analytics_assets.warehouse.memory import PEAK_MEMORY, PeakMemory
from analytics_assets.warehouse.work import Platform

_HERE = Path(__file__).parent
BATCH_BYTES = 256 * 2**20
SILENCE = timedelta(days=2)
# KISSmetrics holds nothing from before 2009: an earlier time is a broken clock and no first day of a business.
EARLIEST_FIRST_DAY = datetime(2009, 1, 1, tzinfo=UTC)
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
# What the materialisation of `export_files` keeps: the newest load whose hours have been marked.
_MARKED = "hours marked up to the load of"
NEW_LINES_READ = "new_lines_were_read"


@dataclass(frozen=True)
class Loaded:
    """What a load did: the files that were new, and up to when the export has been received.

    `loaded_before` is when the newest of the other files was loaded; `missing` files are named by the index and have never been there; `gone` ones were loaded, and are no longer there.
    """

    files: list[str]
    lines: int
    through: datetime | None
    loaded_before: datetime | None
    missing: list[str]
    gone: list[str]


def export_folder(settings: Settings, home: Home) -> tuple[Path, str]:
    """Folder and format of the export that belongs to this home.

    Raises:
        HomeError: nobody has said yet where the export lies.
    """
    contents = home.contents()
    if contents.exports:
        return Path(contents.exports), contents.format
    if settings.exports.folder:
        return Path(settings.exports.folder).expanduser().resolve(), settings.exports.format
    raise HomeError(
        "no export folder is known. Run `make run EXPORTS=folder FORMAT=kissmetrics`, or set folder under [exports] in analytics.toml."
    )


def pin_export(home: Home, folder: Path, format: str) -> Contents:
    """Remember which export a home holds, so that two companies never mix in one.

    Raises:
        HomeError: the home holds another export.
    """
    held = home.contents()
    if held.exports and held.exports != str(folder):
        raise HomeError(
            f"{home.root} holds the export from {held.exports}, not from {folder}. "
            "Give the other one a home of its own: ANALYTICS_HOME=another-folder. "
            f'If the folder only moved, change "exports" in {home.root / "home.json"}.'
        )
    return home.remember(exports=str(folder), format=format)


def load(settings: Settings, home: Home, accept: Sequence[str] = ()) -> Loaded:
    """Load the files of the export that are new.

    Args:
        settings: the business's settings.
        home: where to load to, and which export it holds.
        accept: files to read again, whose content replaces what was loaded of them.

    Raises:
        ExportError: the folder is no export, or a loaded file has changed and was not accepted.
    """
    folder, _ = export_folder(settings, home)
    files = list_files(folder)
    unknown = set(accept) - {file.name for file in files}
    if unknown:
        raise ExportError(f"{folder}: there is no file {sorted(unknown)[0]!r} to accept.")
    lake = Lake(home.lake)
    with home.lock("load"), engine() as connection:
        attach(connection, lake.pin(EXPORT_FILES))
        known = {
            name: (sha256, size, modified)
            for name, sha256, size, modified in connection.sql(
                "SELECT file, sha256, bytes, modified_at FROM export_files"
            ).fetchall()
        }
        new = [file for file in files if _is_new(file, known, folder, file.name in accept)]
        # A clock may be set back; which hours were marked goes by this order.
        loaded_before = _newest_load(connection)
        loaded_at = max(datetime.now(UTC), (loaded_before or _LONG_AGO) + timedelta(microseconds=1))
        facts: list[dict[str, Any]] = []
        for batch in _batches(new):
            landed = kissmetrics.read(connection, batch)
            names = ", ".join("'" + file.name.replace("'", "''") + "'" for file in batch)
            lake.replace(RECORDS, landed.records.cast(RECORDS.arrow_schema()), f"file IN ({names})", {})
            lake.replace(REJECTED_LINES, landed.rejected.cast(REJECTED_LINES.arrow_schema()), f"file IN ({names})", {})
            facts += [
                {
                    "file": file.name,
                    "revision": file.revision,
                    "sha256": landed.sha256[file.name],
                    "bytes": file.size,
                    "modified_at": _modified(file),
                    "lines": landed.lines[file.name],
                    "received_at": file.received_at,
                    "loaded_at": loaded_at,
                }
                for file in batch
            ]
        if facts:
            _account(lake, facts)
        through = _data_through(lake)
        if home.first_day(settings) is None:
            home.remember(first_day=_first_business_day(lake, settings))
    there = {file.name for file in files}
    return Loaded(
        files=[fact["file"] for fact in facts],
        lines=sum(fact["lines"] for fact in facts),
        through=through,
        loaded_before=loaded_before,
        missing=named_and_missing(folder, there | known.keys()),
        gone=sorted(known.keys() - there),
    )


def _is_new(file: ExportFile, known: dict[str, tuple[str, int, datetime]], folder: Path, accepted: bool) -> bool:
    if file.name not in known or accepted:
        return True
    sha256, size, modified = known[file.name]
    unchanged = size == file.size and modified == _modified(file)
    if not unchanged:
        with open(file.path, "rb") as content:
            unchanged = hashlib.file_digest(content, "sha256").hexdigest() == sha256
    if not unchanged:
        raise ExportError(
            f"{folder / file.name}: the content has changed since it was loaded. If the new content is right, accept it, with the "
            f"same ANALYTICS_HOME: .venv/bin/analytics-assets accept {file.name}. Nothing was loaded."
        )
    return False


def _modified(file: ExportFile) -> datetime:
    return datetime.fromtimestamp(file.path.stat().st_mtime_ns // 1000 / 1e6, UTC)


def _batches(files: Sequence[ExportFile]) -> list[list[ExportFile]]:
    batches: list[list[ExportFile]] = []
    room = 0
    for file in files:
        if file.size > room or not batches:
            batches.append([])
            room = BATCH_BYTES
        batches[-1].append(file)
        room -= file.size
    return batches


def _newest_load(connection: duckdb.DuckDBPyConnection) -> datetime | None:
    return connection.sql("SELECT max(loaded_at) FROM export_files").fetchall()[0][0]


def _touched_hours(platform: Platform, after: datetime | None) -> tuple[set[datetime], datetime | None]:
    """Hours whose events or whose orders' item lines the files loaded `after` an instant may change, as instants at which they
    begin, and when the newest of all files was loaded."""
    with engine() as connection:
        attach(connection, platform.lake.pin(EXPORT_FILES))
        attach(connection, platform.lake.pin(RECORDS))
        newest = _newest_load(connection)
        if newest is None or newest == after:
            return set(), newest
        rows = connection.sql(
            """
            WITH landed AS (
                SELECT kind, occurred_at FROM records SEMI JOIN (FROM export_files WHERE loaded_at > $after) AS files USING (file)
            ),
            times AS (
                SELECT occurred_at AS t FROM landed
                UNION ALL SELECT occurred_at - to_minutes($window) FROM landed WHERE kind = 'set'
            )
            SELECT DISTINCT to_timestamp(epoch_us(t) // 1000000 - epoch_us(t AT TIME ZONE $zone) // 1000000 % 3600) FROM times
            """,
            params={
                "after": after or _LONG_AGO,
                "window": platform.settings.items.window_minutes,
                "zone": platform.settings.business.time_zone,
            },
        ).fetchall()
    return {hour.astimezone(UTC) for (hour,) in rows}, newest


def differing_hours(platform: Platform, start: datetime, end: datetime) -> list[datetime]:
    """Hours between two instants whose events are not those of the landed records."""
    with engine() as connection:
        for table in (RECORDS, EVENTS, PROPERTY_SETS):
            attach(connection, platform.lake.pin(table))
        found = connection.sql(
            """
            WITH landed AS (
                SELECT DISTINCT record_id, occurred_at FROM records WHERE kind <> 'alias'
            ),
            sides AS (
                SELECT occurred_at AS t, record_id AS id, 1 AS side FROM landed
                UNION ALL SELECT occurred_at, event_id, -1 FROM events
                UNION ALL SELECT occurred_at, set_id, -1 FROM property_sets
            )
            SELECT to_timestamp(epoch_us(t) // 1000000 - epoch_us(t AT TIME ZONE $zone) // 1000000 % 3600) AS hour
            FROM sides WHERE t >= $start_at AND t < $end_at GROUP BY 1
            HAVING sum(side) <> 0 OR sum(side * CAST(md5_number(id) >> 80 AS HUGEINT)) <> 0
            """,
            params={"start_at": start, "end_at": end, "zone": platform.settings.business.time_zone},
        ).fetchall()
    return [hour.astimezone(UTC) for (hour,) in found]


def _account(lake: Lake, facts: list[dict[str, Any]]) -> None:
    """Count every file anew: which line of a repeated pair is the earlier one may change when a file comes in late."""
    with engine() as connection:
        attach(connection, lake.pin(RECORDS))
        attach(connection, lake.pin(REJECTED_LINES))
        attach(connection, lake.pin(EXPORT_FILES))
        connection.register("facts", pa.Table.from_pylist(facts, schema=_FACTS))
        rows = declared(connection, EXPORT_FILES, connection.sql((_HERE / "export_files.duckdb.sql").read_text()))
    lake.replace(EXPORT_FILES, rows, None, {})


_FACTS = pa.schema([field for field in EXPORT_FILES.arrow_schema() if field.name in {
    "file", "revision", "sha256", "bytes", "modified_at", "lines", "received_at", "loaded_at"
}])  # fmt: skip


def _data_through(lake: Lake) -> datetime | None:
    with engine() as connection:
        attach(connection, lake.pin(EXPORT_FILES))
        row = connection.sql("SELECT max(coalesce(received_at, last_event_at)) FROM export_files").fetchall()[0]
    return row[0] if row else None


def data_through(home: Home) -> datetime | None:
    """The instant up to which the export has been received; None before the first load."""
    return _data_through(Lake(home.lake))


def _first_business_day(lake: Lake, settings: Settings) -> str | None:
    with engine() as connection:
        attach(connection, lake.pin(RECORDS))
        row = connection.sql(
            "SELECT CAST(min(occurred_at) AT TIME ZONE $zone AS DATE) FROM records WHERE occurred_at >= $earliest",
            params={"zone": settings.business.time_zone, "earliest": EARLIEST_FIRST_DAY},
        ).fetchall()[0]
    return row[0].isoformat() if row and row[0] else None


def hours_due(platform: Platform, through: datetime) -> datetime:
    """The instant before which every hour is computed: those that are in, and those that the night does not wait for.

    After `[operations] night_starts_by` the day that has ended is taken with what there is of it. A day of which nothing has
    been received is not: there would be nothing to compute, and the export is late, which freshness tells.
    """
    clock, starts_by = platform.clock, platform.settings.operations.night_starts_by
    are_in = hours_in(platform, through)
    if starts_by is None or clock.is_over:
        return are_in
    today = clock.day_of(clock.now())
    waited_long_enough = clock.now() >= datetime.combine(today, starts_by, platform.settings.business.zone)
    over = today - timedelta(days=1 if waited_long_enough else 2)
    return max(are_in, clock.begins(min(over, clock.day_of(through)) + timedelta(days=1)))


def lacking_hours(platform: Platform) -> set[datetime]:
    """Hours that were computed before they were in."""
    clock = platform.clock
    of_days = (clock.hour_keys(lack.first_hour, clock.begins(lack.day + timedelta(days=1))) for lack in lacks(platform.lake))
    return {hour for hours in of_days for hour in hours}


def hours_to_restate(platform: Platform, through: datetime) -> set[datetime]:
    """Hours that were computed before they were in, and have been received since: silence makes nothing whole."""
    clock = platform.clock
    end = clock.now() if clock.is_over else _received(platform, through)
    return {hour for hour in lacking_hours(platform) if hour < end}


def hours_in(platform: Platform, through: datetime) -> datetime:
    """The instant before which every hour is in: the export has been received past its end.

    The last hour of a business day waits for the item lines that may follow an order after midnight. An export that has
    been silent for two days is taken as it is: the day on which it ends counts as complete.
    """
    clock = platform.clock
    if clock.is_over:
        return clock.now()
    if clock.now() - through > SILENCE:
        return clock.begins(clock.day_of(through) + timedelta(days=1))
    return _received(platform, through)


def _received(platform: Platform, through: datetime) -> datetime:
    clock = platform.clock
    end = min(through, clock.now())
    end -= timedelta(
        seconds=(end.astimezone(platform.settings.business.zone).minute * 60 + end.second), microseconds=end.microsecond
    )
    midnight = clock.begins(clock.day_of(end))
    if end == midnight and through < midnight + timedelta(minutes=platform.settings.items.window_minutes):
        return end - timedelta(hours=1)
    return end


class LoadConfig(dg.Config):
    """How a load reports: `mark_hours` tells automation which hours came in."""

    mark_hours: bool = True


def export_files_asset(platform: Platform) -> dg.AssetsDefinition:
    """The unpartitioned asset `export_files`, which fills `records` and `rejected_lines` as well."""

    @dg.asset(
        retry_policy=RETRIES,
        group_name="events",
        owners=["team:analytics"],
        kinds={"duckdb", "deltalake"},
        metadata={"dagster/column_schema": EXPORT_FILES.dagster_schema(), "dagster/table_name": "export_files"},
        check_specs=[
            dg.AssetCheckSpec("every_line_accounted_for", asset="export_files", blocking=True,
                              description="Events + property sets + aliases + repeated + rejected lines = lines, in every file."),
            dg.AssetCheckSpec("few_lines_rejected", asset="export_files", description="Less than one line in a hundred could not be read."),
            dg.AssetCheckSpec(NEW_LINES_READ, asset="export_files",
                              description="Every line of the files that were loaded now could be read. The others lie in `rejected_lines`."),
            dg.AssetCheckSpec("every_file_is_there", asset="export_files",
                              description="Every file that the export's index names is in the folder, or was loaded once. A file that is still being "
                              "copied is there by the next load; one that is lost is missing from every figure."),
        ],
    )  # fmt: skip
    def export_files(context: dg.AssetExecutionContext, config: LoadConfig) -> Iterator[Any]:
        """The export files that have been loaded, and what became of each of their lines.

        Files are loaded once. A file whose content changes afterwards is an error until somebody accepts it. Every line is
        loaded, repeated, or set aside in `rejected_lines` with the reason.

        Read it as the receipt for the export: the line counts of a row add up.
        """
        with only_passing_faults_retried("export_files"), PeakMemory() as memory:
            yield from _load_and_account(context, platform, config, memory)

    return export_files


def _load_and_account(
    context: dg.AssetExecutionContext, platform: Platform, config: LoadConfig, memory: PeakMemory
) -> Iterator[Any]:
    loaded = load(platform.settings, platform.home)
    marked = _marked_before(context)
    if config.mark_hours:
        marked = _mark_hours(context, platform, loaded, marked)
    lake = platform.lake
    with engine() as connection:
        attach(connection, lake.pin(EXPORT_FILES))
        files, lines, rejected, wrong = connection.sql(
            """SELECT count(*), sum(lines), sum(rejected_lines), count(*) FILTER
            (lines <> events + property_sets + aliases + repeated_lines + rejected_lines) FROM export_files"""
        ).fetchall()[0]
        attach(connection, lake.pin(REJECTED_LINES))
        of_files = connection.sql(
            """SELECT file, count(*), min(line_number), min_by(reason, line_number) FROM rejected_lines
            WHERE list_contains($files, file) GROUP BY 1 ORDER BY 1 LIMIT 5""",
            params={"files": list(loaded.files)},
        ).fetchall()
    unread = [
        f"{file}: {count} lines were rejected, the first is line {line}: {reason}" for file, count, line, reason in of_files
    ]
    yield dg.AssetCheckResult(
        check_name="every_line_accounted_for", passed=wrong == 0, metadata={"files that do not add up": wrong}
    )
    share = rejected / lines if lines else 0.0
    yield dg.AssetCheckResult(
        check_name="few_lines_rejected", passed=share < 0.01, severity=dg.AssetCheckSeverity.WARN,
        metadata={"rejected": rejected, "share": round(share, 5)},
    )  # fmt: skip
    yield dg.AssetCheckResult(
        check_name=NEW_LINES_READ, passed=not unread, severity=dg.AssetCheckSeverity.WARN,
        metadata={"found": unread, "means": "Every line of the files that were loaded now could be read."} if unread else {},
    )  # fmt: skip
    yield dg.AssetCheckResult(
        check_name="every_file_is_there", passed=not loaded.missing, severity=dg.AssetCheckSeverity.WARN,
        metadata={"missing": _some(loaded.missing), "loaded, and no longer there": _some(loaded.gone)},
    )  # fmt: skip
    platform.publish()
    yield dg.MaterializeResult(
        metadata={
            "dagster/row_count": files,
            "new files": len(loaded.files),
            "new lines": loaded.lines,
            "lines": lines,
            "rejected lines": rejected,
            "data through": str(loaded.through),
            "delta_version": lake.pin(EXPORT_FILES).version,
            **({_MARKED: marked.isoformat()} if marked else {}),
            PEAK_MEMORY: memory.size,
        }
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") or "none"


def _marked_before(context: dg.AssetExecutionContext) -> datetime | None:
    for record in context.instance.fetch_materializations(context.asset_key, limit=1).records:
        assert record.asset_materialization is not None
        if said := record.asset_materialization.metadata.get(_MARKED):
            return datetime.fromisoformat(str(said.value))
    return None


def _mark_hours(
    context: dg.AssetExecutionContext, platform: Platform, loaded: Loaded, before: datetime | None
) -> datetime | None:
    """Tell automation which hours came in: those that records touched, and those that are over, with whatever there is of them.

    Files count that were loaded since hours were last marked *and it was recorded*, not those of this load: a run that is
    killed between the commit of the files and its marks would leave late hours unmarked for ever. Where that was never recorded,
    what `make run` has loaded and computed is no news. Nor are hours before the lookback, unless they were computed and are outdated
    now: the first load of a year marked 8,760 hours one by one, and what `make run` has loaded of a year would be computed twice.

    Returns:
        The newest load whose hours are marked now.
    """
    touched, newest = _touched_hours(platform, before or loaded.loaded_before)
    if loaded.through is None:
        return newest
    clock, are_in = platform.clock, hours_in(platform, loaded.through)
    lookback, keys = clock.now() - LOOKBACK, clock.hour_keys(clock.begins(clock.first_day), hours_due(platform, loaded.through))
    computed = context.instance.get_materialized_partitions(dg.AssetKey("events"))
    known = computed | context.instance.get_materialized_partitions(dg.AssetKey("raw_event_hours"))
    touched -= _computed_already(
        platform, [hour for hour, key in keys.items() if hour < lookback and hour in touched and key in computed]
    )
    touched |= hours_to_restate(platform, loaded.through)
    for hour, key in keys.items():
        if (hour in touched or key not in known) and (key in computed or hour >= lookback):
            says = {} if hour < are_in else {"incomplete": f"not waited for: the export had been received until {loaded.through}"}
            context.log_event(dg.AssetMaterialization("raw_event_hours", partition=key, metadata=says))
    return newest


def _computed_already(platform: Platform, touched: Sequence[datetime]) -> set[datetime]:
    """Of touched hours, oldest first, those whose events, and the item lines that may follow them, are those of the landed records."""
    hour, window = timedelta(hours=1), timedelta(minutes=platform.settings.items.window_minutes)
    # One broken clock of two years ago does not have all that lies between read.
    spans: list[list[datetime]] = []
    for one in touched:
        if spans and one - spans[-1][-1] <= timedelta(days=7):
            spans[-1].append(one)
        else:
            spans.append([one])
    differing = {late for span in spans for late in differing_hours(platform, span[0], span[-1] + window + 2 * hour)}
    return {one for one in touched if not any(one + number * hour in differing for number in range(math.ceil(window / hour) + 1))}


def raw_event_hours(platform: Platform) -> dg.AssetSpec:
    """The marks that the loader sets: an hour's records are in."""
    return dg.AssetSpec(
        "raw_event_hours",
        partitions_def=platform.clock.hours,
        deps=["export_files"],
        group_name="events",
        description="Which hours are in: the export reaches past their end, or `[operations] night_starts_by` has passed and they are "
        "taken with what there is. Marked by `export_files`, again when late records touch them.",
    )
