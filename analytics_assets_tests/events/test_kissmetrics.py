"""Exports from folders to tables: which files, every line accounted for, and in bulk the same as line by line."""

import gzip
import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from analytics_assets.events import kissmetrics
from analytics_assets.events.kissmetrics import RECORDS, REJECTED, Landed, read, sample
from analytics_assets.events.kissmetrics_files import ExportError, list_files
from analytics_assets.events.kissmetrics_line import Unreadable, parse

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared"
SAMPLE = SHARED / "data" / "kissmetrics_sample"
TOOL = SHARED / "tools" / "kissmetrics_export.py"
RETAIL = SHARED / "data" / "online_retail.parquet"
LINE = b'{"_p":"a","_t":1}'


@pytest.fixture(scope="session")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


def export(folder: Path, files: dict[str, bytes]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)
    return folder


def by_line(landed: Landed) -> dict[tuple[str, int], dict[str, Any]]:
    """What became of each line of each file."""
    rows = landed.records.to_pylist() + landed.rejected.to_pylist()
    lines = {(row["file"], row["line_number"]): row for row in rows}
    assert len(lines) == len(rows) == sum(landed.lines.values())
    return lines


def expected(lines: list[bytes]) -> list[dict[str, Any] | str]:
    """What `parse` says of each line."""
    found: list[dict[str, Any] | str] = []
    for line in lines:
        try:
            record = parse(line)
            found.append({name: getattr(record, name) for name in kissmetrics.TEXTS} | {"at": record.occurred_at})
        except Unreadable as reason:
            found.append(str(reason))
    return found


def in_bulk(connection: duckdb.DuckDBPyConnection, folder: Path, lines: list[bytes]) -> list[dict[str, Any] | str]:
    """What `read` says of each line, in the form of `expected`."""
    landed = read(connection, list_files(export(folder, {"1.json": b"\n".join([*lines, b""])})))
    rows = by_line(landed)
    assert landed.lines == {"1.json": len(lines)}
    found: list[dict[str, Any] | str] = []
    for number, line in enumerate(lines, start=1):
        row = rows["1.json", number]
        if "reason" in row:
            assert row["line"] == line
            found.append(row["reason"])
        else:
            at = (row["occurred_at"] - datetime(1970, 1, 1, tzinfo=UTC)) // datetime.resolution
            found.append({name: row[name] for name in kissmetrics.TEXTS} | {"at": at})
    return found


# ---------------------------------------------------------------------------------------------------- the folder


def test_files_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = ["10.json", "9.json", "100.json.gz", "b.json", "a.json"]
    files = list_files(export(tmp_path, {f"revisions/{name}": LINE for name in names}))
    assert [file.name for file in files] == [
        "revisions/9.json", "revisions/10.json", "revisions/100.json.gz", "revisions/a.json", "revisions/b.json",
    ]  # fmt: skip
    assert [file.revision for file in files] == [9, 10, 100, None, None]
    assert {file.size for file in files} == {len(LINE)}
    assert {file.received_at for file in files} == {None}


def test_the_index_says_when_a_file_was_received(tmp_path: Path) -> None:
    index = b"filename,min_timestamp,max_timestamp,min_utc_date,max_utc_date\n"
    index += b"revisions/1.json,1349161501,1349162102,2012-10-02 07:05 GMT,2012-10-02 07:15 GMT\n"
    export(tmp_path, {"index.csv": index, "revisions/1.json.gz": LINE, "revisions/2.json": LINE})
    received = datetime(2012, 10, 2, 7, 15, 2, tzinfo=UTC)
    assert [file.received_at for file in list_files(tmp_path)] == [received, None]
    assert [file.received_at for file in list_files(tmp_path / "revisions")] == [received, None]
    assert [file.name for file in list_files(tmp_path / "revisions")] == ["1.json.gz", "2.json"]


def test_unfinished_and_hidden_files_are_passed_over(tmp_path: Path) -> None:
    names = ["1.json", "2.json.partial", "3.partial.json", ".4.json", "5.tmp", "status.csv"]
    assert [file.name for file in list_files(export(tmp_path, dict.fromkeys(names, LINE)))] == ["1.json"]


def test_the_files_beside_revisions_are_not_of_the_export(tmp_path: Path) -> None:
    export(tmp_path, {"revisions/1.json": LINE, "truth.json": b"{}"})
    assert [file.name for file in list_files(tmp_path)] == ["revisions/1.json"]


@pytest.mark.parametrize(
    ("files", "folder", "message"),
    [
        ({}, "missing", "there is no such folder"),
        ({"file": b""}, "file", "is a file"),
        ({}, ".", "is empty"),
        ({"orders.csv": b"", "notes/a.txt": b""}, ".", "found notes/, orders.csv"),
        ({"revisions/1.json.partial": b""}, ".", "found revisions/1.json.partial"),
        ({"1.json": LINE, "1.json.gz": LINE}, ".", "1.json and 1.json.gz are both revision 1"),
        ({"1.json": LINE, "01.json": LINE}, ".", "01.json and 1.json are both revision 1"),
        ({"1.json": LINE, "index.csv": b""}, ".", "index.csv, line 1: the header"),
        ({"1.json": LINE, "index.csv": b"a,b\n"}, ".", "index.csv, line 1: the header"),
        ({"1.json": LINE, "index.csv": b"filename,max_timestamp\n1.json,1\n2.json\n"}, ".", "index.csv, line 3: there"),
        ({"1.json": LINE, "index.csv": b"filename,max_timestamp\n1.json,soon\n"}, ".", "index.csv, line 2: max_timest"),
        ({"1.json": LINE, "index.csv": b"filename,max_timestamp\n1.json,9999999999999\n"}, ".", "index.csv, line 2: m"),
        ({"1.json": LINE, "index.csv": b"filename,max_timestamp\n1.json,\xff\n"}, ".", "not UTF-8"),
    ],
)
def test_a_folder_that_is_no_export_is_refused(tmp_path: Path, files: dict[str, bytes], folder: str, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        list_files(export(tmp_path, files) / folder)


def test_an_empty_revisions_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "revisions").mkdir()
    with pytest.raises(ExportError, match="revisions is empty"):
        list_files(tmp_path)


# ---------------------------------------------------------------------------------------------------- the lines


def test_every_line_is_a_record_or_rejected(connection: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    first = b'\xef\xbb\xbf{"_p":"a","_t":1}\r\n\r\n[1]\r\n{"_n":"b","_p":"c\xe9","_t":2}'
    files = list_files(export(tmp_path, {"1.json": first, "2.json": b"", "3.json": b"\n\n" + LINE + b"\n"}))
    landed = read(connection, files)
    assert landed.records.schema == RECORDS
    assert landed.rejected.schema == REJECTED
    assert landed.lines == {"1.json": 4, "2.json": 0, "3.json": 3}
    assert landed.sha256["1.json"] == hashlib.sha256(first).hexdigest()
    lines = by_line(landed)
    assert (lines["1.json", 1]["identity"], lines["1.json", 1]["revision"]) == ("a", 1)
    assert (lines["1.json", 2]["reason"], lines["1.json", 2]["line"]) == ("blank line", b"")
    assert (lines["1.json", 3]["reason"], lines["1.json", 3]["line"]) == ("not a JSON object", b"[1]")
    assert (lines["1.json", 4]["identity"], lines["1.json", 4]["name"]) == ("cé", "b")
    assert [lines["3.json", number].get("reason") for number in (1, 2, 3)] == ["blank line", "blank line", None]


def test_no_files_and_empty_files_are_no_lines(connection: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    assert read(connection, []).records.num_rows == 0
    landed = read(connection, list_files(export(tmp_path, {"1.json": b""})))
    assert (landed.records.num_rows, landed.rejected.num_rows, landed.lines) == (0, 0, {"1.json": 0})


def test_a_compressed_file_reads_like_the_plain_one(connection: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    text = b"\n".join(b'{"_p":"a","_t":%d}' % second for second in range(5_000))
    packed = gzip.compress(text)
    names = {"plain/1.json": text, "packed/1.json.gz": packed, "misnamed/1.json": packed}
    export(tmp_path, names)
    landed = [read(connection, list_files(tmp_path / name)) for name in ("plain", "packed", "misnamed")]
    ids = [sorted(one.records["record_id"].to_pylist()) for one in landed]
    assert ids[0] == ids[1] == ids[2]
    assert landed[1].sha256["1.json.gz"] == hashlib.sha256(packed).hexdigest()


def test_a_damaged_compressed_file_is_named(connection: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    export(tmp_path, {"1.json.gz": gzip.compress(LINE * 1_000)[:-20]})
    with pytest.raises(ExportError, match=r"1\.json\.gz cannot be read.*bucket again"):
        read(connection, list_files(tmp_path))


def test_a_file_that_went_away_is_named(connection: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    files = list_files(export(tmp_path, {"1.json": LINE}))
    files[0].path.unlink()
    with pytest.raises(ExportError, match=r"1\.json cannot be read"):
        read(connection, files)


def test_a_file_of_many_blocks_reads_the_same(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [b'{"_p":"a","_t":%d,"v":"%s"}' % (second, b"x" * (second % 300)) for second in range(5_000)]
    export(tmp_path, {"1.json": b"\n".join(lines), "2.json": b"\n".join(lines[:7])})
    whole = by_line(read(connection, list_files(tmp_path)))
    monkeypatch.setattr(kissmetrics, "BATCH_BYTES", 1_000)
    assert by_line(read(connection, list_files(tmp_path))) == whole


def test_a_sample_is_of_files_all_over_the_export(connection: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    export(tmp_path, {f"{number}.json": b"\n".join([LINE] * 50) for number in range(1, 101)})
    landed = sample(connection, list_files(tmp_path), lines=50)
    assert landed.lines == dict.fromkeys(["1.json", "26.json", "51.json", "75.json", "100.json"], 10)
    assert landed.sha256 == {}
    assert len(by_line(landed)) == 50


def test_the_callers_connection_is_left_as_it_was(connection: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    before = connection.execute("SELECT table_name FROM information_schema.tables").fetchall()
    for _ in range(2):
        read(connection, list_files(export(tmp_path, {"1.json": (LINE + b"\n") * 1_000})))
    assert connection.execute("SELECT table_name FROM information_schema.tables").fetchall() == before


# ------------------------------------------------------------------------------------- in bulk, as line by line


ODD = [
    b'{"_p":"a","_t":1,"v":1.10}',
    b'{"_p":"a","_t":1,"v" : 1.10}',
    b'{"_p":"a","_t":1,"V":1.10,"w":-0}',
    b'{"_p":"a","_t":1,"v":-0.0,"w":0,"x":1E5,"y":true,"z":null}',
    b'{"_p":"a","_t":1,"v":{"w":1},"w":2.0}',
    b'{"_p":"a","_t":1,"v":"\\"w\\":9.9","w":2.0}',
    b'{"_p":"a","_t":1,"v":[1]}',
    b'{"_p":"a","_t":1,"v":NaN}',
    b'{"_p":"a","_t":1,"v":1,}',
    b'{"_p":"a","_t":1,"v":1, }',
    b'{"_p":"a","_t":1,"a":1,"A":2}',
    b'{"_p":"a","_t":1,"v":"1","v":"2"}',
    b'{"_p":12,"_t":"1","v":"\\u0000"}',
    b'{"_p":1.50,"_t":1}',
    b'{"_p":true,"_t":1}',
    b'{"_p":null,"_t":1}',
    b'{"_p":"\\t","_t":1}',
    '{"_p":"\u00a0","_t":1}'.encode(),
    '{"_p":"é","_t":1}'.encode(),
    b'{"_p":"a","_p2":12,"_t":1}',
    b'{"_p":"a","_p2":" ","_t":1}',
    b'{"_p":"a","_p2":null,"_t":1}',
    b'{"_p":"a","_p2":null,"_n":"x","_t":1}',
    b'{"_p":"a","_p2":"b","_n":"x","_t":1}',
    b'{"_p":"a","_n":12,"_t":1}',
    b'{"_p":"a","_n":-0,"_t":1}',
    b'{"_p":"a","_n":true,"_t":1}',
    b'{"_p":"a","_n":" A, B: ","_t":1}',
    '{"_p":"a","_n":"ÉTÉ İ ß","_t":1,"ÉTÉ İ ß":"x"}'.encode(),
    b'{"_p":"a","_\\u006e":"x","_t":1}',
    b'{"_P":"a","_T":1}',
    b'{"_p":"a","_t":1.5}',
    b'{"_p":"a","_t":"01"}',
    b'{"_p":"a","_t":"1.0"}',
    b'{"_p":"a","_t":4294967295}',
    b'{"_p":"a","_t":4294967296}',
    b'{"_p":"a","_t":-1}',
    b'{"_p":"a","_t":" 1"}',
    b'{"_p":"a","_t":5,"_c":"mobile_app","_server_timestamp":7}',
    b'{"_p":"a","_t":5,"_c":"mobile_app","_server_timestamp":"x"}',
    b'{"_p":"a","_t":5,"_c":"mobile_app","_server_timestamp":null}',
    b'{"_p":"a","_c":null,"_server_timestamp":9}',
    b'{"_p":"a","_t":5,"_server_timestamp":9,"_u":{"x":1}}',
    b'{"_p":"a","_t":1,"a/b":"1","c~d":"2","e\\"f":"3","g\\\\h":"4","":"5","*":"6","$.x":"7","0":"8","\\u001b":"9"}',
    b'{"_p":"a\\u001f\\u007f\\n","_t":1,"v":"\\u001f\\/\\u2028\\ud83d\\ude00"}',
    b'  {"_p":"a","_t":1}  ',
    b'{"_p":"a","_t":1}\t',
    b"}",
    b'"}',
    b"{}",
    b"1}",
]


def test_odd_lines_mean_in_bulk_what_they_mean_alone(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kissmetrics, "GROUP_LINES", 1)
    monkeypatch.setattr(kissmetrics, "SHAPE_LINES", 1)
    assert in_bulk(connection, tmp_path, ODD) == expected(ODD)


def _line(record: dict[str, Any], properties: dict[str, Any], ascii_only: bool, spaces: bool, shuffle: random.Random) -> bytes:
    pairs = list((properties | record).items())
    shuffle.shuffle(pairs)
    text = json.dumps(dict(pairs), ensure_ascii=ascii_only, separators=(", ", ": ") if spaces else (",", ":"))
    return text.encode("utf-8", "surrogatepass")


SCALARS = st.one_of(
    st.text(max_size=6), st.text("\0\t\n\"'\\/,:{}[] aé\x1b\x7f\u2028", max_size=6), st.integers(), st.booleans(),
    st.none(), st.floats(allow_nan=False, allow_infinity=False), st.just([1, {"a": 2.50}]),
)  # fmt: skip
KEYS = st.one_of(st.sampled_from(["a", "A", "b c", "_c", "_server_timestamp", "_u", "é", "x/y~z"]), st.text(max_size=4))
RECORD_LINES = st.builds(
    _line,
    st.fixed_dictionaries(
        {"_p": st.one_of(st.text(max_size=4), SCALARS), "_t": st.one_of(st.integers(0, 2**33), SCALARS)},
        optional={"_n": SCALARS, "_p2": SCALARS},
    ),
    st.dictionaries(KEYS, SCALARS, max_size=4),
    st.booleans(),
    st.booleans(),
    st.randoms(),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(RECORD_LINES, min_size=1, max_size=30))
def test_records_mean_in_bulk_what_they_mean_alone(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path, lines: list[bytes]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kissmetrics, "GROUP_LINES", 1)
        patch.setattr(kissmetrics, "SHAPE_LINES", 1)
        assert in_bulk(connection, tmp_path, lines) == expected(lines)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(st.binary(), RECORD_LINES, st.sampled_from(ODD)), min_size=1), st.data())
def test_any_bytes_are_accounted_for(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path, pieces: list[bytes], data: st.DataObject
) -> None:
    text = b"\n".join(piece[: data.draw(st.integers(0, len(piece)))] if len(piece) % 2 else piece for piece in pieces)
    assume(not text.startswith(b"\x1f\x8b"))  # a compressed file
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kissmetrics, "GROUP_LINES", 1)
        patch.setattr(kissmetrics, "SHAPE_LINES", 1)
        landed = read(connection, list_files(export(tmp_path, {"1.json": text})))
    lines = text.split(b"\n")[: -1 if text.endswith(b"\n") or not text else None]
    assert landed.lines == {"1.json": len(lines)}
    assert {number for _, number in by_line(landed)} == set(range(1, len(lines) + 1))


def test_more_shapes_than_queries_are_read(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kissmetrics, "GROUP_LINES", 5)
    monkeypatch.setattr(kissmetrics, "SHAPE_LINES", 1)
    chance = random.Random(1)
    keys = [f"{'Kk'[number % 2]}ey {number}" for number in range(2_000)]
    rows = [
        {"_p": "a", "_t": second, **{key: str(second) for key in chance.sample(keys[: 20 + second], 5)}}
        for second in range(1_500)
    ]
    lines = [json.dumps(row).encode() for row in rows]
    assert in_bulk(connection, tmp_path, lines) == expected(lines)


def test_what_is_read_can_be_written_as_parquet(connection: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    lines = [rb'{"_p":"a\u0000b","_t":1,"v":"\u0000"}', LINE]
    records = read(connection, list_files(export(tmp_path, {"1.json": b"\n".join(lines)}))).records
    connection.register("landed_records", records)
    connection.execute("COPY landed_records TO ? (FORMAT parquet)", [str(tmp_path / "records.parquet")])
    connection.unregister("landed_records")
    found = connection.execute("SELECT identity FROM read_parquet(?) ORDER BY 1 DESC", [str(tmp_path / "*.parquet")])
    assert found.fetchall() == [("a\ufffdb",), ("a",)]


# ---------------------------------------------------------------------------------------------------- real exports


@pytest.mark.skipif(not SAMPLE.exists(), reason="the vendor's sample is not beside the project")
def test_the_vendors_sample_is_read_whole(connection: duckdb.DuckDBPyConnection) -> None:
    landed = read(connection, list_files(SAMPLE))
    assert (landed.records.num_rows, landed.rejected.num_rows) == (6_354, 0)
    assert set(landed.records["kind"].to_pylist()) == {"event"}
    assert len(set(landed.records["record_id"].to_pylist())) == 6_354


@pytest.fixture(scope="module")
def retail_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three months of Online Retail as an export with faults."""
    if not (TOOL.exists() and RETAIL.exists()):
        pytest.skip("the tool that writes Online Retail as an export is not beside the project")
    out = tmp_path_factory.mktemp("retail")
    arguments = ["--source", str(RETAIL), "--out", str(out), "--to", "2011-03-01"]
    subprocess.run([sys.executable, str(TOOL), *arguments], check=True, capture_output=True)
    return out


def test_the_retail_export_has_its_true_counts(connection: duckdb.DuckDBPyConnection, retail_export: Path) -> None:
    truth = json.loads((retail_export / "truth.json").read_text())
    landed = read(connection, list_files(retail_export))
    assert sum(landed.lines.values()) == truth["lines"]
    assert landed.rejected.num_rows == truth["broken_lines"]
    ids = {(row["record_id"], row["kind"]) for row in landed.records.select(["record_id", "kind"]).to_pylist()}
    kinds = [kind for _, kind in ids]
    found = {"events": kinds.count("event"), "property_sets": kinds.count("set"), "aliases": kinds.count("alias")}
    assert found == {name: truth[name] for name in found}
    assert landed.records.num_rows - len(ids) == truth["repeated_lines"]
    assert pa.compute.min(landed.records["received_at"]).as_py() is not None


def test_the_retail_export_reads_as_json_loads_reads_it(connection: duckdb.DuckDBPyConnection, retail_export: Path) -> None:
    """A brute-force oracle: plain json.loads over the lines that it takes, with nothing of ours in it."""
    rows = by_line(read(connection, list_files(retail_export)))
    compared = 0
    for path in (retail_export / "revisions").iterdir():
        for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
            row = rows[f"revisions/{path.name}", number]
            if "reason" in row:
                assert row["line"] == line
                continue
            try:
                plain = json.loads(line)
            except ValueError:
                continue
            assert row["identity"] == plain["_p"]
            assert row["other_identity"] == plain.get("_p2")
            assert row["name"] == plain.get("_n")
            assert row["occurred_at"].timestamp() == plain["_t"]
            assert json.loads(row["properties"]) == {key: plain[key] for key in plain if key[0] != "_"}
            compared += 1
    assert compared > 0.99 * len(rows)
