"""KISSmetrics raw data exports, from the files of a folder to Arrow tables of records and of rejected lines.

An export is `revisions/1.json`, `2.json` and so on, one JSON object a line in the order of receipt, beside an
`index.csv` that says which time each file covers. Nothing here is deduplicated: a repeated record has the same
`record_id`, and whoever stores the records drops the repetitions.

DuckDB reads the lines in bulk: the first pass finds which keys each line has (an export has few combinations), the
second takes the values out, one query for each set of keys. A line that is not ordinary in any respect (not valid
JSON, nested values, repeated keys, a time that is no plain integer) goes to `kissmetrics_line.parse`, which says what
a line means. Both give the same record for the same line.
"""

import gzip
import hashlib
import io
import json
import re
import zlib
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from analytics_assets.events.kissmetrics_files import ExportError, ExportFile
from analytics_assets.events.kissmetrics_line import Record, Unreadable, event_name, json_text, parse, property_name

BATCH_BYTES = 16 * 2**20  # parsed at once, and read at once from a large file
BATCHES_AT_ONCE = 2
VECTOR_LINES = 2**14  # lines in one Arrow batch: enough batches to keep DuckDB's threads busy
GROUP_LINES = 500  # a query costs as much as so many lines that are parsed one by one
SHAPE_LINES = 5  # the lines of a shape that fewer have are parsed one by one, which is cheaper than grouping it
GROUP_KEYS = 64  # keys that lines of rare shapes may have in one query
GROUPS = 20  # queries that read rare shapes; the lines of yet rarer ones are parsed one by one
HERE = Path(__file__).parent
MACROS_SQL = (HERE / "kissmetrics_json.duckdb.sql").read_text(encoding="utf-8")
ROWS_SQL = re.sub("--.*", "", (HERE / "read_kissmetrics.duckdb.sql").read_text(encoding="utf-8"))
SHAPES_SQL = r"""
    SELECT row, to_json(json_keys(line)) || coalesce(CAST(json_extract(line, '/_n') AS VARCHAR), '') AS shape
    FROM export_lines WHERE ordinary AND json_valid(line) AND NOT contains(line, '\u0000')
"""
INSTANT = pa.timestamp("us", tz="UTC")
RECORDS = pa.schema(
    [
        pa.field("file", pa.string(), nullable=False),
        pa.field("revision", pa.int64()),
        pa.field("line_number", pa.int64(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("record_id", pa.string(), nullable=False),
        pa.field("identity", pa.string(), nullable=False),
        pa.field("other_identity", pa.string()),
        pa.field("name", pa.string()),
        pa.field("occurred_at", INSTANT, nullable=False),
        pa.field("received_at", INSTANT),
        pa.field("properties", pa.string(), nullable=False),
        pa.field("system", pa.string()),
    ]
)
REJECTED = pa.schema(
    [
        pa.field("file", pa.string(), nullable=False),
        pa.field("line_number", pa.int64(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("line", pa.binary(), nullable=False),
    ]
)
SHAPE = json.JSONDecoder()
TEXTS = ("kind", "record_id", "identity", "other_identity", "name", "properties", "system")


@dataclass(frozen=True)
class Landed:
    """What was read from some files.

    `records` (schema `RECORDS`) has one row per readable line, `rejected` (schema `REJECTED`) one per line that is
    none, in no particular order. `lines` counts the lines read of each file: each is in exactly one of the two.
    `sha256` is of each file as it is stored, and is empty for a sample, which does not read whole files.
    """

    records: pa.Table
    rejected: pa.Table
    sha256: dict[str, str]
    lines: dict[str, int]


def read(connection: duckdb.DuckDBPyConnection, files: Sequence[ExportFile]) -> Landed:
    """Read every line of the files. Lines are counted as `\\n` ends them, and a blank line is a rejected line.

    A part of a file is in memory at a time, but the result is as large as the files: read a large export in several
    calls. The connection's settings (threads) are used; none of its tables are touched.

    Raises:
        ExportError: a file cannot be read or decompressed. What stands in a line never raises.
    """
    return _land(connection, files)


def sample(connection: duckdb.DuckDBPyConnection, files: Sequence[ExportFile], lines: int = 10_000) -> Landed:
    """Read about `lines` lines: the beginnings of up to five files that are spread evenly over the export."""
    spread = sorted({round(place) for place in np.linspace(0, len(files) - 1, num=min(5, len(files)))})
    chosen = [files[place] for place in spread]
    return _land(connection, chosen, limit=-(-lines // max(len(chosen), 1)))


# ---------------------------------------------------------------------------------------------------- the lines


@dataclass(frozen=True)
class _Piece:
    """Some lines of one file. `first_line` is the number of the first, `ends` where each line's end is in `text`."""

    file: int
    first_line: int
    text: bytes
    ends: np.ndarray


@dataclass
class _Group:
    """Lines that one query reads: their keys, as canonical key -> key as written."""

    alias: bool
    server_clock: bool
    keys: dict[str, str]
    shapes: list[int] = field(default_factory=list)

    def takes(self, other: "_Group") -> bool:
        """Whether the other's lines can be read by the same query: no key is written in two ways."""
        return (
            (self.alias, self.server_clock) == (other.alias, other.server_clock)
            and len(self.keys.keys() | other.keys.keys()) <= GROUP_KEYS
            and all(self.keys.get(key, written) == written for key, written in other.keys.items())
        )

    def query(self) -> tuple[str, dict[str, Any]]:
        """The query for the lines, `read_kissmetrics.duckdb.sql`, and its parameters."""
        time = "_server_timestamp" if self.server_clock else "_t"
        columns = {"_p", "_p2", "_n"} if self.server_clock else {"_p", "_p2", "_n", "_t"}
        properties = sorted(key for key in self.keys if not key.startswith("_"))
        system = sorted(key for key in self.keys if key.startswith("_") and key not in columns)
        paths = ["_p", "_p2", time, *properties, *system]
        written = [self.keys.get(key, key) for key in paths]
        pairs = [f"json_pair(found[{n}], $labels[{n}], $written[{n}], line)" for n in range(1, len(paths) + 1)]
        sql = ROWS_SQL.replace("PROPERTIES", ", ".join(pairs[3 : 3 + len(properties)]) or "NULL")
        sql = sql.replace("SYSTEM", ", ".join(pairs[3 + len(properties) :]) or "NULL")
        parameters = {
            "paths": ["/" + key.replace("~", "~0").replace("/", "~1") for key in written],
            "labels": [json_text(key) + ":" for key in paths],
            "written": [json_text(key) + ":" for key in written],
            "alias": self.alias,
        }
        return sql, {name: value for name, value in parameters.items() if f"${name}" in sql}


class _Hashed(io.RawIOBase):
    """A file that is hashed as it is read, so that the hash is of the very bytes that were read."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.sha256 = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        block = self.stream.read(size)
        self.sha256.update(block)
        return block


def _land(connection: duckdb.DuckDBPyConnection, files: Sequence[ExportFile], limit: int | None = None) -> Landed:
    """Read the files, or their first `limit` lines each, two batches at a time.

    DuckDB has threads of its own, but what surrounds its queries has one per batch.
    """
    lines: Counter[int] = Counter()
    sha256: dict[str, str] = {}
    parts: list[tuple[pa.Table, pa.Table]] = [(RECORDS.empty_table(), REJECTED.empty_table())]
    batches: deque[Future[list[tuple[pa.Table, pa.Table]]]] = deque()
    with ThreadPoolExecutor(BATCHES_AT_ONCE) as workers:
        for batch in _batches(files, limit, sha256):
            for piece in batch:
                lines[piece.file] += len(piece.ends)
            batches.append(workers.submit(_read_batch, connection.cursor(), files, batch))
            if len(batches) > BATCHES_AT_ONCE:
                parts += batches.popleft().result()
        for last in batches:
            parts += last.result()
        landed = Landed(
            records=pa.concat_tables(records for records, _ in parts),
            rejected=pa.concat_tables(rejected for _, rejected in parts),
            sha256=sha256 if limit is None else {},
            lines={file.name: lines[number] for number, file in enumerate(files)},
        )
    if landed.records.num_rows + landed.rejected.num_rows != lines.total():
        raise AssertionError(
            f"{lines.total()} lines became {landed.records.num_rows} records and {landed.rejected.num_rows} "
            "rejected lines: the reader lost or doubled lines."
        )
    return landed


def _batches(files: Sequence[ExportFile], limit: int | None, sha256: dict[str, str]) -> Iterator[list[_Piece]]:
    """Pieces of the files in order, as many as are parsed at once. Fills in the hash of each file read to its end."""
    batch: list[_Piece] = []
    size = 0
    for number, file in enumerate(files):
        first_line = 1
        for text in _blocks(file, sha256):
            ends = _line_ends(text)[:limit]
            if limit is not None:
                text = text[: ends[-1] + 1]
            batch.append(_Piece(number, first_line, text, ends))
            first_line += len(ends)
            size += len(text)
            if size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
            if limit is not None:
                break
    if batch:
        yield batch


def _line_ends(text: bytes) -> np.ndarray:
    """Where the line ends are. Slice by slice, as the comparison makes an array as large as what it compares."""
    buffer = np.frombuffer(text, np.uint8)
    slices = range(0, len(buffer), 2**18)
    return np.concatenate([np.flatnonzero(buffer[start : start + 2**18] == ord("\n")) + start for start in slices])


def _blocks(file: ExportFile, sha256: dict[str, str]) -> Iterator[bytes]:
    """The file in blocks of whole lines; a last line without its end is given one. At the end, its hash.

    Whether it is compressed is told by its first bytes, not by its name: copies are compressed and renamed.
    """
    begun: list[bytes] = []  # of a line whose end has not been read
    try:
        with file.path.open("rb") as stored:
            is_gzip = stored.read(2) == b"\x1f\x8b"
            stored.seek(0)
            hashed = _Hashed(stored)
            stream = gzip.GzipFile(fileobj=hashed, mode="rb") if is_gzip else hashed
            while block := stream.read(BATCH_BYTES):
                end = block.rfind(b"\n") + 1
                if end:
                    yield b"".join([*begun, block[:end]])
                    begun = []
                if end < len(block):
                    begun.append(block[end:])
            sha256[file.name] = hashed.sha256.hexdigest()
    except (OSError, EOFError, zlib.error) as error:
        raise ExportError(f"{file.path} cannot be read: {error}. Copy it from the export's bucket again.") from error
    if begun:
        yield b"".join([*begun, b"\n"])


# ---------------------------------------------------------------------------------------------------- the records


@dataclass(frozen=True)
class _Places:
    """Where each row of a batch stands in the export: its file, by number, and its line."""

    files: Sequence[ExportFile]
    file: np.ndarray
    line_number: np.ndarray

    def names(self, rows: np.ndarray) -> pa.Array:
        return pa.array([file.name for file in self.files], pa.string()).take(pa.array(self.file[rows]))

    def records(self, rows: np.ndarray, found: pa.Table) -> pa.Table:
        """The records of the batch's `rows`, whose own columns are `found`."""
        file = pa.array(self.file[rows])
        columns = {
            "file": self.names(rows),
            "revision": pa.array([file.revision for file in self.files], pa.int64()).take(file),
            "line_number": self.line_number[rows],
            "occurred_at": found["occurred_at"].cast(INSTANT),
            "received_at": pa.array([file.received_at for file in self.files], INSTANT).take(file),
            **{name: found[name] for name in TEXTS},
        }
        return pa.table({name: columns[name] for name in RECORDS.names}, schema=RECORDS)

    def rejected(self, rows: np.ndarray, reasons: list[str], lines: list[bytes]) -> pa.Table:
        columns = {"file": self.names(rows), "line_number": self.line_number[rows], "reason": reasons, "line": lines}
        return pa.table(columns, schema=REJECTED)


def _read_batch(
    cursor: duckdb.DuckDBPyConnection, files: Sequence[ExportFile], batch: list[_Piece]
) -> list[tuple[pa.Table, pa.Table]]:
    """The records and rejected lines of one batch, in several parts. Closes the cursor."""
    text = batch[0].text if len(batch) == 1 else b"".join(piece.text for piece in batch)
    before = np.cumsum([0, *(len(piece.text) for piece in batch)])
    ends = np.concatenate([piece.ends + offset for piece, offset in zip(batch, before, strict=False)])
    starts = np.concatenate([[0], ends[:-1] + 1])
    places = _Places(
        files=files,
        file=np.repeat([piece.file for piece in batch], [len(piece.ends) for piece in batch]),
        line_number=np.concatenate([np.arange(len(piece.ends)) + piece.first_line for piece in batch]),
    )

    parts: list[tuple[pa.Table, pa.Table]] = []
    left = np.ones(len(ends), dtype=bool)
    with cursor:
        cursor.execute(MACROS_SQL)
        for group, members in _grouped(cursor, _export_lines(text, starts, ends)):
            found = _query(cursor, *group.query(), members)
            if pc.sum(found["ordinary"]).as_py() != found.num_rows:
                found = found.filter(found["ordinary"])
            rows = found["row"].to_numpy()
            left[rows] = False
            parts.append((places.records(rows, found), REJECTED.empty_table()))

    readable: list[int] = []
    records: list[Record] = []
    unreadable: list[int] = []
    reasons: list[str] = []
    lines: list[bytes] = []
    for row in np.flatnonzero(left).tolist():
        line = text[starts[row] : ends[row]].removesuffix(b"\r")
        try:
            records.append(parse(line))
            readable.append(row)
        except Unreadable as reason:
            unreadable.append(row)
            reasons.append(str(reason))
            lines.append(line)
    columns = {name: pa.array([getattr(record, name) for record in records], pa.string()) for name in TEXTS}
    columns["occurred_at"] = pa.array([record.occurred_at for record in records], pa.int64())
    parts.append(
        (
            places.records(np.array(readable, dtype=np.int64), pa.table(columns)),
            places.rejected(np.array(unreadable, dtype=np.int64), reasons, lines),
        )
    )
    return parts


def _export_lines(text: bytes, starts: np.ndarray, ends: np.ndarray) -> pa.Table:
    """The lines, each with its end, as a column over the text itself: copying them would cost more than parsing.

    A line that is not UTF-8, which DuckDB would refuse the whole column for, stands there as spaces. A line is
    `ordinary` if it ends like a flat object; DuckDB also takes `{"a":1,}` for JSON.
    """
    offsets = pa.py_buffer(np.append(starts, len(text)))
    line = pa.LargeStringArray.from_buffers(len(ends), offsets, pa.py_buffer(text))
    if not text.isascii():
        try:
            line.validate(full=True)
        except pa.ArrowInvalid:
            valid = pa.py_buffer(_without_invalid(text, starts, ends))
            line = pa.LargeStringArray.from_buffers(len(ends), offsets, valid)
    buffer = np.frombuffer(text, np.uint8)
    last = ends - 1  # -1 for a blank first line, and then the line end that comes last in the text
    last = last - (buffer[last] == ord("\r"))
    may_end_a_value = np.zeros(256, dtype=bool)
    may_end_a_value[list(b'"0123456789el')] = True  # a string, a number, true or false, null
    ordinary = (buffer[last] == ord("}")) & may_end_a_value[buffer[np.maximum(last - 1, 0)]]
    table = pa.table({"row": np.arange(len(ends)), "line": line, "ordinary": ordinary})
    return pa.Table.from_batches(table.to_batches(max_chunksize=VECTOR_LINES), table.schema)


def _without_invalid(text: bytes, starts: np.ndarray, ends: np.ndarray) -> bytearray:
    """The text with spaces in place of each line that is not UTF-8."""
    mended = bytearray(text)
    beyond_ascii = np.flatnonzero(np.frombuffer(text, np.uint8) >= 0x80)
    for row in np.unique(np.searchsorted(ends, beyond_ascii)).tolist():
        start, end = int(starts[row]), int(ends[row])
        try:
            text[start:end].decode()
        except UnicodeDecodeError:
            mended[start:end] = b" " * (end - start)
    return mended


def _grouped(cursor: duckdb.DuckDBPyConnection, lines: pa.Table) -> Iterator[tuple[_Group, pa.Table]]:
    """The lines that one query each can read, with their names. Lines in no group are parsed one by one."""
    shapes = _query(cursor, SHAPES_SQL, {}, lines)
    if not shapes.num_rows:
        return
    encoded = pc.dictionary_encode(shapes["shape"]).unify_dictionaries()
    code_of_shape = np.concatenate([chunk.indices.to_numpy() for chunk in encoded.chunks])
    shape_texts = encoded.chunk(0).dictionary.to_pylist()

    names: list[str | None] = []
    groups = _groups(shape_texts, np.bincount(code_of_shape, minlength=len(shape_texts)).tolist(), names)
    group_of_shape = np.full(len(shape_texts), -1)
    for number, group in enumerate(groups):
        group_of_shape[group.shapes] = number
    group_of_line = np.full(lines.num_rows, -1)
    name = np.zeros(lines.num_rows, dtype=np.int32)
    rows = shapes["row"].to_numpy()
    group_of_line[rows] = group_of_shape[code_of_shape]
    name[rows] = code_of_shape
    members = lines.select(["row", "line"]).append_column(
        "name", pa.DictionaryArray.from_arrays(name, pa.array(names, pa.string()))
    )
    for number in range(len(groups)):
        belongs = group_of_line == number
        if np.count_nonzero(belongs) >= GROUP_LINES:
            yield groups[number], members.filter(pa.array(belongs))


def _groups(shapes: list[str], counts: list[int], names: list[str | None]) -> list[_Group]:
    """Put the shapes into groups, and the name that each shape stands for into `names`.

    A common set of keys has a query to itself. Rare ones share queries: a key that a line does not have costs little,
    and an export of many optional properties has more combinations of them than queries would be worth.
    """
    by_keys: dict[tuple[str, ...], tuple[_Group, int]] = {}
    for number, (text, count) in enumerate(zip(shapes, counts, strict=True)):
        if count < SHAPE_LINES:
            names.append(None)
            continue
        keys, end = SHAPE.raw_decode(text)
        group = _group_of(keys)
        is_ordinary, name = _name_of(text[end:])
        names.append(name)
        if group is not None and is_ordinary:
            group, before = by_keys.setdefault(tuple(sorted(keys)), (group, 0))
            group.shapes.append(number)
            by_keys[tuple(sorted(keys))] = (group, before + count)

    common = sum(counts) / GROUPS
    groups: list[_Group] = []
    shared: list[_Group] = []
    for group, count in sorted(by_keys.values(), key=lambda entry: -entry[1]):
        if count >= common:
            groups.append(group)
        elif taker := next((other for other in shared if other.takes(group)), None):
            taker.keys.update(group.keys)
            taker.shapes.extend(group.shapes)
        elif len(shared) < GROUPS:
            shared.append(group)
    return groups + shared


def _group_of(keys: list[str]) -> _Group | None:
    """A group of lines with these keys, or None where one line must be looked at by itself."""
    written: dict[str, str] = {}
    for key in keys:
        canonical = property_name(key)
        is_ordinary = canonical and canonical not in written and not set(key) & set('"\\')
        if not is_ordinary or (canonical.startswith("_") and canonical != key):
            return None
        written[canonical] = key
    server_clock = "_c" in written and "_server_timestamp" in written
    if "_p" not in written or not (server_clock or "_t" in written):
        return None
    return _Group(alias="_p2" in written, server_clock=server_clock, keys=written)


def _name_of(text: str) -> tuple[bool, str | None]:
    """Whether the JSON text of `_n` is ordinary, and the name; text is empty where the key is absent."""
    if text in ("", "null"):
        return True, None
    if text.startswith('"'):
        return True, event_name(json.loads(text)) or None
    return text.isascii() and text.isdigit() and text != "0", text


def _query(cursor: duckdb.DuckDBPyConnection, sql: str, parameters: dict[str, Any], export_lines: pa.Table) -> pa.Table:
    cursor.register("export_lines", export_lines)
    try:
        return cursor.sql(sql, params=parameters).to_arrow_table()
    finally:
        cursor.unregister("export_lines")
