"""`analytics.duckdb`: a reader never waits, never sees half of anything, and cannot harm what comes next."""

import contextlib
import os
import subprocess
import sys

import duckdb
import pytest

from analytics_assets.home import Home
from analytics_assets.warehouse import publishing
from analytics_assets.warehouse.lake import Lake, predicate_for
from analytics_assets.warehouse.publishing import VERSIONS_KEPT, is_behind, publish
from analytics_assets.warehouse.tables import Publication, Table


@pytest.fixture
def home(tmp_path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def store(home, shelf):
    """Replace the first of November and publish."""

    def store(*sale_ids: str) -> None:
        rows = shelf.rows_of(shelf.daily, [shelf.sale(sale_id) for sale_id in sale_ids])
        Lake(home.lake).replace(shelf.daily, rows, predicate_for(shelf.daily, shelf.days(1, 1)), {})
        assert publish(home, [shelf.daily, shelf.hourly])

    return store


def read(home: Home, sql: str = "SELECT sale_id FROM sales ORDER BY 1") -> list:
    with contextlib.closing(duckdb.connect(str(home.database), read_only=True)) as connection:
        return [row[0] if len(row) == 1 else row for row in connection.sql(sql).fetchall()]


def versions(home: Home) -> list[str]:
    return sorted(path.name for path in home.published.glob("analytics-*.duckdb"))


def test_the_link_switches_to_the_version_of_the_newest_commit(home, store) -> None:
    store("a")
    first = os.readlink(home.database)
    assert read(home) == ["a"]
    store("b", "c")
    assert os.readlink(home.database) != first
    assert not os.path.isabs(first), "the home may be moved"
    assert read(home) == ["b", "c"]


def test_a_reader_keeps_the_version_that_it_opened_however_many_follow(home, store) -> None:
    store("a")
    with contextlib.closing(duckdb.connect(str(home.database), read_only=True)) as reader:
        for number in range(VERSIONS_KEPT + 2):
            store(f"b{number}")
        assert reader.sql("SELECT sale_id FROM sales").fetchall() == [("a",)]
    assert read(home) == [f"b{VERSIONS_KEPT + 1}"]


def test_only_the_newest_versions_are_kept(home, store) -> None:
    for number in range(VERSIONS_KEPT + 2):
        store(str(number))
    assert VERSIONS_KEPT == 3
    assert versions(home) == ["analytics-000003.duckdb", "analytics-000004.duckdb", "analytics-000005.duckdb"]
    assert os.readlink(home.database).endswith("analytics-000005.duckdb")
    assert not list(home.published.glob("building*"))


def test_a_careless_writers_wal_goes_with_its_version(home, store) -> None:
    store("0")
    wal = home.database.resolve().with_suffix(".duckdb.wal")
    wal.write_bytes(b"of who died")
    for number in range(VERSIONS_KEPT):
        assert wal.exists()
        store(str(number + 1))
    assert not wal.exists() and len(versions(home)) == VERSIONS_KEPT


def test_a_published_version_is_not_writable(home, store) -> None:
    store("a")
    assert home.database.stat().st_mode & 0o222 == 0


CARELESS = """
import duckdb, os, sys
path = sys.argv[1]
try:
    connection = duckdb.connect(path)
    connection.execute("CREATE TABLE notes AS SELECT 1 AS mine")
    connection.execute("DELETE FROM sales")
    print("wrote", flush=True)
    if sys.argv[2] == "die":
        os._exit(9)
    sys.stdin.readline()
except duckdb.Error as error:
    print("refused", flush=True)
    if sys.argv[2] != "die":
        sys.stdin.readline()
"""


@pytest.mark.parametrize("end", ["die", "stay"])
@pytest.mark.parametrize("writable", [False, True], ids=["as-published", "made-writable"])
def test_a_careless_writer_harms_neither_the_pipeline_nor_the_next_version(home, store, end: str, writable: bool) -> None:
    """The superuser, or who made the file writable, gets to write: an own WAL beside the link or the version."""
    store("a")
    if writable:
        home.database.chmod(0o666)
    careless = subprocess.Popen(
        [sys.executable, "-c", CARELESS, str(home.database), end], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert careless.stdout is not None
    said = careless.stdout.readline()
    assert said == ("wrote\n" if writable or os.geteuid() == 0 else "refused\n")
    if end == "die":
        careless.wait()
    store("b")
    assert read(home) == ["b"]
    assert read(
        home, "SELECT table_name FROM duckdb_tables() UNION SELECT view_name FROM duckdb_views() WHERE NOT internal ORDER BY 1"
    ) == ["sales", "ticks"]
    careless.communicate("\n")
    store("c")
    assert read(home) == ["c"]


def test_every_table_and_column_says_what_it_means(home, store, shelf) -> None:
    store("a")
    assert read(home, "SELECT table_name, comment FROM duckdb_tables() ORDER BY 1") == [
        ("sales", "One row per sale."),
        ("ticks", "One row per tick."),
    ]
    found = read(home, "SELECT column_name, comment FROM duckdb_columns() WHERE table_name = 'sales' ORDER BY column_index")
    assert [name for name, _ in found] == shelf.daily.column_names
    assert dict(found)["amount"] == "What was paid. Unit: currency."
    assert dict(found)["shop"] == "Where; it's optional."


def test_columns_have_the_declared_types_also_of_an_empty_table(home, store, shelf) -> None:
    store("a")
    for table in (shelf.daily, shelf.hourly):
        found = read(
            home, f"SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = '{table.name}' ORDER BY column_index"
        )
        kinds = {"TIMESTAMPTZ": "TIMESTAMP WITH TIME ZONE"}
        assert found == [(column.name, kinds.get(column.type, column.type)) for column in table.columns]
    assert read(home, "SELECT * FROM ticks") == []


def test_a_view_reads_the_files_of_the_version_that_was_published(home, shelf) -> None:
    view = Table(**{**shelf.daily.__dict__, "publication": Publication(as_view=True)})
    lake, predicate = Lake(home.lake), predicate_for(view, shelf.days(1, 1))
    lake.replace(view, shelf.rows_of(view, [shelf.sale("a")]), predicate, {})
    publish(home, [view])
    lake.replace(view, shelf.rows_of(view, [shelf.sale("b")]), predicate, {})
    assert read(home) == ["a"]
    publish(home, [view])
    assert read(home) == ["b"]
    assert read(home, "SELECT comment FROM duckdb_views() WHERE view_name = 'sales'") == ["One row per sale."]


def test_a_commit_while_a_version_is_built_shows_in_the_end(home, shelf, monkeypatch) -> None:
    """The caller that finds the lock busy leaves; whoever holds it goes round again."""
    lake, predicate = Lake(home.lake), predicate_for(shelf.daily, shelf.days(1, 1))
    build, built = publishing._build, []

    def slow_build(home: Home, tables) -> None:
        build(home, tables)
        built.append(read(home))
        if len(built) == 1:
            lake.replace(shelf.daily, shelf.rows_of(shelf.daily, [shelf.sale("late")]), predicate, {})
            assert publish(home, tables) is False

    monkeypatch.setattr(publishing, "_build", slow_build)
    lake.replace(shelf.daily, shelf.rows_of(shelf.daily, [shelf.sale("early")]), predicate, {})
    assert publish(home, [shelf.daily]) is True
    assert built == [["early"], ["late"]]
    assert read(home) == ["late"] and not is_behind(home, [shelf.daily])


def test_a_publisher_that_dies_leaves_the_old_version_and_is_found_and_made_up_for(home, store, shelf, monkeypatch) -> None:
    store("a")
    tables = [shelf.daily, shelf.hourly]
    publish(home, tables)
    rows = shelf.rows_of(shelf.daily, [shelf.sale("b")])
    Lake(home.lake).replace(shelf.daily, rows, predicate_for(shelf.daily, shelf.days(1, 1)), {})

    def dies(*arguments) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(publishing, "_publish_table", dies)
        with pytest.raises(KeyboardInterrupt):
            publish(home, tables)
    assert read(home) == ["a"] and is_behind(home, tables)
    publish(home, tables)
    assert read(home) == ["b"] and not is_behind(home, tables)


def test_a_commit_whose_writer_died_before_it_published_is_published_by_the_next_caller(home, store, shelf) -> None:
    store("a")
    rows = shelf.rows_of(shelf.daily, [shelf.sale("b")])
    Lake(home.lake).replace(shelf.daily, rows, predicate_for(shelf.daily, shelf.days(1, 1)), {})
    assert read(home) == ["a"]
    assert publish(home, [shelf.daily]) is True
    assert read(home) == ["b"]


def test_publishing_what_is_published_builds_nothing(home, store, shelf) -> None:
    store("a")
    publish(home, [shelf.daily])
    version = home.database.resolve()
    assert publish(home, [shelf.daily]) is False
    assert home.database.resolve() == version
