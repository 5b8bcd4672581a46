"""A table that an earlier version made is brought to its declaration, whole or not at all, and earlier versions stay readable."""

import dataclasses
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError
from deltalake.table import TableAlterer

from analytics_assets.warehouse.engine import attach, engine
from analytics_assets.warehouse.lake import Lake, LakeError, predicate_for
from analytics_assets.warehouse.tables import Column


@pytest.fixture
def lake(shelf, tmp_path) -> Lake:
    """Three days of sales as the first declaration has them."""
    lake = Lake(tmp_path)
    sales = [shelf.sale("a", 1, amount="1.25"), shelf.sale("b", 2, amount="2.5"), shelf.sale("c", 3, amount=None)]
    lake.replace(shelf.daily, shelf.rows_of(shelf.daily, sales), predicate_for(shelf.daily, shelf.days(1, 3)), {})
    return lake


def declared_anew(table, version: int = 2, without: tuple[str, ...] = (), types: dict[str, str] | None = None, **changes):
    """The next declaration of a table."""
    columns = changes.pop("columns", table.columns)
    columns = tuple(dataclasses.replace(c, type=(types or {}).get(c.name, c.type)) for c in columns if c.name not in without)
    return dataclasses.replace(table, columns=columns, schema_version=version, **changes)


def with_voucher(table):
    """The next declaration with a column more, in the midst."""
    before, after = table.columns[:3], table.columns[3:]
    return declared_anew(table, columns=(*before, Column("voucher", "VARCHAR", "Voucher.", nullable=True), *after))


def stored(lake: Lake, table, columns: str) -> list[tuple]:
    with engine() as connection:
        attach(connection, lake.pin(table))
        return connection.sql(f'SELECT {columns} FROM "{table.name}" ORDER BY sale_id').fetchall()


def replace_day(lake: Lake, shelf, table, day: int, *sales: dict) -> int:
    return lake.replace(table, shelf.rows_of(table, list(sales)), predicate_for(table, shelf.days(day, day)), {})


def digest(lake: Lake, table) -> list[tuple]:
    with engine() as connection:
        attach(connection, lake.pin(table))
        return connection.sql(table.digest_select(f'"{table.name}"')).order("1").fetchall()


def test_a_column_more_is_null_in_the_rows_that_are_there_and_no_file_is_written_again(lake, shelf) -> None:
    wider, files = with_voucher(shelf.daily), lake.pin(shelf.daily).files()
    expected = [("a", None, Decimal("1.25")), ("b", None, Decimal("2.50")), ("c", None, None)]
    assert stored(lake, wider, "sale_id, voucher, amount") == expected, "read before it is migrated"
    assert lake.migrate(wider)
    assert stored(lake, wider, "sale_id, voucher, amount") == expected
    assert lake.pin(wider).files() == files
    replace_day(lake, shelf, wider, 3, shelf.sale("d", 3, voucher="spring"))
    assert stored(lake, wider, "sale_id, voucher") == [("a", None), ("b", None), ("d", "spring")]
    with engine() as connection:
        attach(connection, lake.pin(wider), "day = '2011-11-01'")
        assert connection.sql("SELECT sale_id, voucher FROM sales").fetchall() == [("a", None)], "files that all lack it"
    assert not lake.migrate(wider)


def test_the_first_write_migrates_too(lake, shelf) -> None:
    wider = with_voucher(shelf.daily)
    staged = lake.stage(wider)
    staged.append(shelf.rows_of(wider, [shelf.sale("e", 2, voucher="x")]))
    lake.adopt(staged, shelf.days(2, 2), {})
    assert stored(lake, wider, "sale_id, voucher") == [("a", None), ("c", None), ("e", "x")]


@pytest.mark.parametrize(
    ("change", "columns", "expected"),
    [
        ({"without": ("till",)}, "sale_id, shop", [("a", "north"), ("b", "north"), ("c", "north")]),
        (
            {"types": {"amount": "DECIMAL(20,4)"}},
            "sale_id, amount",
            [("a", Decimal("1.2500")), ("b", Decimal("2.5000")), ("c", None)],
        ),
        ({"types": {"amount": "VARCHAR"}}, "sale_id, amount", [("a", "1.25"), ("b", "2.50"), ("c", None)]),
        ({"types": {"amount": "BIGINT"}, "without": ("loaded_at",)}, "sale_id, amount", [("a", 1), ("b", 3), ("c", None)]),
        ({"partition_column": None, "grain": None}, "sale_id, day", None),
    ],
    ids=["removed", "wider", "text", "narrower", "unpartitioned"],
)  # fmt: skip
def test_any_other_change_writes_the_rows_anew_in_one_commit(lake, shelf, change, columns, expected) -> None:
    other, before = declared_anew(shelf.daily, **change), lake.pin(shelf.daily)
    expected = expected or stored(lake, shelf.daily, columns)
    assert stored(lake, other, columns) == expected, "read before it is migrated"
    assert lake.migrate(other)
    now = lake.pin(other)
    assert stored(lake, other, columns) == expected
    assert now.version == before.version + 2, "one commit with all rows, and the mark"
    assert sorted(f.name for f in now.delta.schema().fields) == sorted(other.column_names)
    assert now.laid_out_by == ([other.partition_column] if other.partition_column else [])
    assert all(Path(file).exists() for file in before.files()), "the earlier version is still there"
    days = predicate_for(other, shelf.days(2, 2)) if other.partition_column else "sale_id IN ('b', 'z')"
    lake.replace(other, shelf.rows_of(other, [{"day": shelf.days(2, 2).first_day, "sale_id": "z"}]), days, {})
    assert [row[0] for row in stored(lake, other, "sale_id")] == ["a", "c", "z"]


def test_rows_that_do_not_fit_are_told_and_nothing_changes(lake, shelf) -> None:
    before = digest(lake, shelf.daily)
    with pytest.raises(
        LakeError, match=r"sales: rows that .* cannot be brought to the declaration .*'north'.* Nothing was changed"
    ):
        lake.migrate(declared_anew(shelf.daily, types={"shop": "BIGINT"}))
    assert digest(lake, shelf.daily) == before, "the earlier version of the code goes on with it"


def test_who_dies_before_the_mark_is_followed_by_one_who_sets_it(lake, shelf, monkeypatch) -> None:
    wider = with_voucher(shelf.daily)

    def killed(*_, **__) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(TableAlterer, "set_table_properties", killed)
        with pytest.raises(KeyboardInterrupt):
            lake.migrate(wider)
    assert stored(lake, wider, "sale_id, voucher") == [("a", None), ("b", None), ("c", None)]
    replace_day(lake, shelf, wider, 1, shelf.sale("n", 1, voucher="x"))
    assert stored(lake, wider, "sale_id, voucher") == [("b", None), ("c", None), ("n", "x")]
    with pytest.raises(LakeError, match="newer version"):
        lake.pin(shelf.daily)


def test_an_earlier_version_can_be_read_and_restored_and_is_migrated_again(lake, shelf) -> None:
    wider, old = declared_anew(shelf.daily, types={"amount": "VARCHAR"}), lake.pin(shelf.daily)
    lake.migrate(wider)
    replace_day(lake, shelf, wider, 3)
    with engine() as connection:
        attach(connection, old)
        assert len(connection.sql("FROM sales").fetchall()) == 3
    DeltaTable(str(lake.root / "sales")).restore(old.version)
    assert stored(lake, wider, "sale_id, amount") == [("a", "1.25"), ("b", "2.50"), ("c", None)]
    replace_day(lake, shelf, wider, 2)
    assert stored(lake, wider, "sale_id, amount") == [("a", "1.25"), ("c", None)]


def test_a_table_of_a_newer_version_is_neither_read_nor_written(lake, shelf) -> None:
    wider = with_voucher(shelf.daily)
    replace_day(lake, shelf, wider, 1, shelf.sale("n", 1, voucher="new"))
    before = digest(lake, wider)
    for use in (
        lambda: lake.pin(shelf.daily),
        lambda: replace_day(lake, shelf, shelf.daily, 1),
        lambda: lake.migrate(shelf.daily),
    ):
        with pytest.raises(
            LakeError, match=r"sales was written by a newer version .*schema version 2 of sales; this one knows 1"
        ):
            use()
    assert digest(lake, wider) == before


def test_a_write_of_an_older_version_that_began_before_is_refused(lake, shelf) -> None:
    begun = lake.pin(shelf.daily).delta
    lake.migrate(with_voucher(shelf.daily))
    rows = shelf.rows_of(shelf.daily, [shelf.sale("late", 1)])
    with pytest.raises(CommitFailedError):
        write_deltalake(begun, rows, mode="overwrite", predicate=predicate_for(shelf.daily, shelf.days(1, 1)))


MIGRATE = """
import dataclasses, sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from analytics_assets.warehouse.lake import Lake, predicate_for

spec = spec_from_file_location("shelf", sys.argv[2])
shelf = module_from_spec(spec)
spec.loader.exec_module(shelf)
columns = tuple(dataclasses.replace(c, type="VARCHAR") if c.name == "amount" else c for c in shelf.DAILY.columns)
table = dataclasses.replace(shelf.DAILY, columns=columns, schema_version=2)
day = int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
rows = shelf.rows_of(table, [shelf.sale(f"new{day}", day) | {"amount": "9"}])
Lake(Path(sys.argv[1])).replace(table, rows, predicate_for(table, shelf.days(day, day)), {})
"""


def test_processes_that_start_at_once_migrate_once_and_lose_nothing(lake, shelf) -> None:
    source = [sys.executable, "-c", MIGRATE, str(lake.root), str(Path(__file__).with_name("conftest.py"))]
    started = [
        subprocess.Popen([*source, str(day)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for day in (4, 5, 6)
    ]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    for process in started:
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.wait() for process in started] == [0, 0, 0]
    table = declared_anew(shelf.daily, types={"amount": "VARCHAR"})
    found = dict(stored(lake, table, "sale_id, amount"))
    assert found == {"a": "1.25", "b": "2.50", "c": None, "new4": "9", "new5": "9", "new6": "9"}
    operations = [c["operation"] for c in lake.pin(table).delta.history()]
    assert operations.count("SET TBLPROPERTIES") == 1
