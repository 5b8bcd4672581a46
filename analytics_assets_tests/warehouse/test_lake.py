"""Delta tables: replaced in one commit, only inside the predicate, by any number of processes at once."""

import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from analytics_assets.warehouse import lake as lake_module
from analytics_assets.warehouse.engine import attach, engine
from analytics_assets.warehouse.lake import Lake, LakeError, predicate_for

TOGETHER = """
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from analytics_assets.warehouse.lake import Lake, LakeError, predicate_for

spec = spec_from_file_location("shelf", sys.argv[2])
shelf = module_from_spec(spec)
spec.loader.exec_module(shelf)
number = int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
for repetition in range(4):
    rows = shelf.rows_of(shelf.HOURLY, [shelf.tick(number, 100 * number + repetition)])
    Lake(Path(sys.argv[1])).replace(shelf.HOURLY, rows, predicate_for(shelf.HOURLY, shelf.hours(number, number + 1)), {})
"""


def stored(root: Path, table) -> list[tuple]:
    with engine() as connection:
        attach(connection, Lake(root).pin(table))
        return connection.sql(f'FROM "{table.name}" ORDER BY ALL').fetchall()


def ids(root: Path, table) -> list[str]:
    return sorted(row[1] for row in stored(root, table))


def replace(root: Path, shelf, sales: list[dict], first: int, last: int) -> int:
    return Lake(root).replace(
        shelf.daily, shelf.rows_of(shelf.daily, sales), predicate_for(shelf.daily, shelf.days(first, last)), {}
    )


def test_a_table_that_was_never_written_is_empty_with_its_columns(shelf, tmp_path) -> None:
    pin = Lake(tmp_path).pin(shelf.daily)
    assert pin.version is None and pin.files() == []
    assert stored(tmp_path, shelf.daily) == []


def test_a_home_may_have_any_letters_in_its_path(shelf, tmp_path) -> None:
    root = tmp_path / "my dätä #1"
    replace(root, shelf, [shelf.sale("a", 1), shelf.sale("b", 2)], 1, 2)
    assert ids(root, shelf.daily) == ["a", "b"]


def test_a_replacement_clears_its_days_and_leaves_the_others(shelf, tmp_path) -> None:
    replace(tmp_path, shelf, [shelf.sale("a", 1), shelf.sale("b", 2), shelf.sale("c", 3)], 1, 3)
    replace(tmp_path, shelf, [shelf.sale("d", 2)], 2, 2)
    assert ids(tmp_path, shelf.daily) == ["a", "c", "d"]


def test_a_replacement_is_one_commit_that_carries_its_note(shelf, tmp_path) -> None:
    before = replace(tmp_path, shelf, [shelf.sale("a", 1)], 1, 1)
    rows = shelf.rows_of(shelf.daily, [shelf.sale("b", 1)])
    after = Lake(tmp_path).replace(shelf.daily, rows, predicate_for(shelf.daily, shelf.days(1, 1)), {"run_id": "r1"})
    assert after == before + 1
    assert DeltaTable(str(tmp_path / "sales")).history(1)[0]["run_id"] == "r1"


def test_rows_outside_the_predicate_are_refused_and_nothing_changes(shelf, tmp_path) -> None:
    version = replace(tmp_path, shelf, [shelf.sale("a", 1)], 1, 1)
    with pytest.raises(DeltaError):
        replace(tmp_path, shelf, [shelf.sale("b", 1), shelf.sale("c", 2)], 1, 1)
    assert ids(tmp_path, shelf.daily) == ["a"]
    assert Lake(tmp_path).pin(shelf.daily).version == version


def test_rows_of_another_hour_of_the_same_day_are_refused(shelf, tmp_path) -> None:
    predicate = predicate_for(shelf.hourly, shelf.hours(3, 4))
    with pytest.raises(DeltaError):
        Lake(tmp_path).replace(shelf.hourly, shelf.rows_of(shelf.hourly, [shelf.tick(4, 1)]), predicate, {})
    assert stored(tmp_path, shelf.hourly) == []


def test_replacing_by_nothing_clears_the_window_only(shelf, tmp_path) -> None:
    replace(tmp_path, shelf, [shelf.sale("a", 1), shelf.sale("b", 2)], 1, 2)
    replace(tmp_path, shelf, [], 2, 2)
    assert ids(tmp_path, shelf.daily) == ["a"]


def test_an_hour_is_replaced_without_the_hours_beside_it(shelf, tmp_path) -> None:
    lake = Lake(tmp_path)
    for window, ticks in (
        (shelf.hours(0, 24), [shelf.tick(hour, hour) for hour in range(24)]),
        (shelf.hours(5, 7), [shelf.tick(6, 60)]),
    ):
        lake.replace(shelf.hourly, shelf.rows_of(shelf.hourly, ticks), predicate_for(shelf.hourly, window), {})
    assert [row[2] for row in stored(tmp_path, shelf.hourly)] == [0, 1, 2, 3, 4, 60, *range(7, 24)]


def test_a_pin_keeps_reading_the_version_that_it_took(shelf, tmp_path) -> None:
    replace(tmp_path, shelf, [shelf.sale("old", 1)], 1, 1)
    pin = Lake(tmp_path).pin(shelf.daily)
    replace(tmp_path, shelf, [shelf.sale("new", 1)], 1, 1)
    with engine() as connection:
        attach(connection, pin)
        assert connection.sql("SELECT sale_id FROM sales").fetchall() == [("old",)]
    assert ids(tmp_path, shelf.daily) == ["new"]


def test_pruning_leaves_out_the_files_of_other_days(shelf, tmp_path) -> None:
    replace(tmp_path, shelf, [shelf.sale("a", 1), shelf.sale("b", 2)], 1, 2)
    assert len(Lake(tmp_path).pin(shelf.daily).files()) == 2
    (file,) = Lake(tmp_path).pin(shelf.daily).files("day >= '2011-11-02'")
    assert "day=2011-11-02" in file


def test_values_come_back_as_they_went_in_also_null_and_odd_text(shelf, tmp_path) -> None:
    sales = [shelf.sale("'\"\\ é\n", 1, shop=None, till="", amount=None), shelf.sale("b", 1, amount=-3)]
    replace(tmp_path, shelf, sales, 1, 1)
    assert [row[1:5] for row in stored(tmp_path, shelf.daily)] == [("'\"\\ é\n", None, "", None), ("b", "north", "1", -3)]


def stage(root: Path, shelf, *parts: list[dict]):
    staged = Lake(root).stage(shelf.daily)
    for part in parts:
        staged.append(shelf.rows_of(shelf.daily, part))
    return staged


def files_of(root: Path) -> list[Path]:
    return sorted((root / "sales").rglob("*.parquet"))


def test_staged_rows_are_seen_by_nobody_until_adopted_and_replace_the_days_of_the_window(shelf, tmp_path) -> None:
    before = replace(tmp_path, shelf, [shelf.sale("a", 1), shelf.sale("b", 2), shelf.sale("c", 3), shelf.sale("d", 4)], 1, 4)
    staged = stage(tmp_path, shelf, [shelf.sale("n", 2)], [shelf.sale("o", 2)], [], [shelf.sale("p", 3)])
    assert len(staged.files()) == 2
    assert ids(tmp_path, shelf.daily) == ["a", "b", "c", "d"]
    assert Lake(tmp_path).adopt(staged, shelf.days(2, 3), {"run_id": "r1"}) == before + 1
    staged.close()
    assert ids(tmp_path, shelf.daily) == ["a", "d", "n", "o", "p"]
    assert DeltaTable(str(tmp_path / "sales")).history(1)[0]["run_id"] == "r1"
    replace(tmp_path, shelf, [shelf.sale("q", 2)], 2, 2)
    assert ids(tmp_path, shelf.daily) == ["a", "d", "p", "q"]


def test_rows_that_were_staged_apart_follow_one_another_and_none_is_left_to_whoever_staged_them(shelf, tmp_path) -> None:
    staged, later = stage(tmp_path, shelf, [shelf.sale("n", 2)]), stage(tmp_path, shelf, [shelf.sale("o", 2)])
    staged.extend(later)
    later.close()
    staged.append(shelf.rows_of(shelf.daily, [shelf.sale("p", 2)]))
    with engine() as connection:
        assert [sale for (sale,) in connection.sql(f"SELECT sale_id FROM ({staged.select()})").fetchall()] == ["n", "o", "p"]
    staged.close()
    assert not list(tmp_path.rglob("*.parquet"))


def test_staged_rows_come_back_as_they_went_in_also_encoded_null_and_odd_text(shelf, tmp_path) -> None:
    sales = [shelf.sale("'\"\\ é\n", 1, shop=None, till="", amount=None), shelf.sale("b", 1, amount=-3)]
    part = shelf.rows_of(shelf.daily, sales)
    staged = Lake(tmp_path).stage(shelf.daily)
    staged.append(part.set_column(1, "sale_id", part["sale_id"].dictionary_encode()))
    Lake(tmp_path).adopt(staged, shelf.days(1, 1), {})
    assert [row[1:5] for row in stored(tmp_path, shelf.daily)] == [("'\"\\ é\n", None, "", None), ("b", "north", "1", -3)]


def test_staging_nothing_clears_the_window_only(shelf, tmp_path) -> None:
    replace(tmp_path, shelf, [shelf.sale("a", 1), shelf.sale("b", 2)], 1, 2)
    Lake(tmp_path).adopt(stage(tmp_path, shelf), shelf.days(2, 2), {})
    assert ids(tmp_path, shelf.daily) == ["a"]


def test_what_was_staged_and_not_adopted_is_deleted(shelf, tmp_path) -> None:
    staged = stage(tmp_path, shelf, [shelf.sale("a", 1)], [shelf.sale("b", 2)])
    assert len(files_of(tmp_path)) == 2
    staged.close()
    assert files_of(tmp_path) == []


def test_staged_rows_must_be_of_one_day_a_part_and_as_declared(shelf, tmp_path) -> None:
    staged = Lake(tmp_path).stage(shelf.daily)
    with pytest.raises(ValueError, match="rows of 2011-11-01 and of 2011-11-02"):
        staged.append(shelf.rows_of(shelf.daily, [shelf.sale("a", 1), shelf.sale("b", 2)]))
    part = shelf.rows_of(shelf.daily, [shelf.sale("a", 1)])
    with pytest.raises(ValueError, match="sales: columns staged"):
        staged.append(part.drop_columns("shop"))
    with pytest.raises(ValueError, match="sales: columns staged"):
        staged.append(part.set_column(4, "amount", part["amount"].cast("double")))
    assert files_of(tmp_path) == []


def hourly(root: Path, shelf, *ticks: dict):
    staged = Lake(root).stage(shelf.hourly)
    for tick in ticks:
        staged.append(shelf.rows_of(shelf.hourly, [tick]))
    return staged


def test_hours_of_several_days_may_be_staged_in_any_order_and_fill_one_file_a_day(shelf, tmp_path) -> None:
    tomorrow = {"day": date(2011, 11, 2), "hour": datetime(2011, 11, 2, 5, tzinfo=UTC), "tick": 205}
    staged = hourly(tmp_path, shelf, shelf.tick(5, 105), tomorrow, shelf.tick(3, 103))
    assert len(staged.files()) == 2
    Lake(tmp_path).adopt(staged, shelf.days(1, 2), {})
    staged.close()
    assert [row[2] for row in stored(tmp_path, shelf.hourly)] == [103, 105, 205]
    more = hourly(tmp_path, shelf, shelf.tick(4, 104))
    more.files()
    more.append(shelf.rows_of(shelf.hourly, [shelf.tick(6, 106)]))
    assert more.reader().read_all()["tick"].to_pylist() == [104, 106]


def test_staged_hours_leave_the_other_hours_of_a_day_that_the_window_cuts(shelf, tmp_path) -> None:
    lake = Lake(tmp_path)
    lake.adopt(hourly(tmp_path, shelf, *(shelf.tick(hour, hour) for hour in range(6))), shelf.days(1, 1), {})
    staged = hourly(tmp_path, shelf, shelf.tick(3, 103), shelf.tick(2, 102))
    before = lake.pin(shelf.hourly).version
    assert lake.adopt(staged, shelf.hours(2, 4), {"run_id": "r2"}) == before + 1
    staged.close()
    assert [row[2] for row in stored(tmp_path, shelf.hourly)] == [0, 1, 102, 103, 4, 5]
    lake.adopt(hourly(tmp_path, shelf), shelf.hours(0, 3), {})
    assert [row[2] for row in stored(tmp_path, shelf.hourly)] == [103, 4, 5]


def test_staged_hours_outside_the_window_are_refused_and_nothing_changes(shelf, tmp_path) -> None:
    lake = Lake(tmp_path)
    lake.adopt(hourly(tmp_path, shelf, shelf.tick(1, 1), shelf.tick(2, 2)), shelf.days(1, 1), {})
    with pytest.raises(DeltaError):
        lake.adopt(hourly(tmp_path, shelf, shelf.tick(2, 102), shelf.tick(1, 101)), shelf.hours(2, 3), {})
    assert [row[2] for row in stored(tmp_path, shelf.hourly)] == [1, 2]


def test_a_commit_that_comes_between_does_not_leave_a_day_twice(shelf, tmp_path, monkeypatch) -> None:
    """Delta alone would let both in: it is told of the files to take out, not of the days."""
    staged = stage(tmp_path, shelf, [shelf.sale("a", 1)])
    lake = Lake(tmp_path)
    replace(tmp_path, shelf, [shelf.sale("x", 4)], 4, 4)
    commit, between = DeltaTable.create_write_transaction, [[shelf.sale("b", 1)], [shelf.sale("c", 1)]]

    def late(table, *arguments, **properties) -> None:
        if between:
            replace(tmp_path, shelf, between.pop(), 1, 1)
        commit(table, *arguments, **properties)

    monkeypatch.setattr(DeltaTable, "create_write_transaction", late)
    assert lake.adopt(staged, shelf.days(1, 1), {}) == lake.pin(shelf.daily).version
    assert not between and ids(tmp_path, shelf.daily) == ["a", "x"]


@pytest.mark.parametrize("staged", [True, False])
def test_a_checkpoint_that_fails_harms_no_commit(shelf, tmp_path, monkeypatch, staged: bool) -> None:
    """It did: on a full disk the commit stood and said that it had failed, and its staged files were deleted as not adopted."""
    monkeypatch.setattr(lake_module, "VERSIONS_A_CHECKPOINT", 2)
    lake = Lake(tmp_path)
    replace(tmp_path, shelf, [shelf.sale("a")], 1, 1)
    log = tmp_path / shelf.daily.name / "_delta_log"
    no_room = log / f"{2:020}.checkpoint.parquet"
    no_room.mkdir()
    if staged:
        rows = lake.stage(shelf.daily)
        rows.append(shelf.rows_of(shelf.daily, [shelf.sale("b")]))
        assert lake.adopt(rows, shelf.days(1, 1), {}) == 2
        rows.close()
    else:
        replace(tmp_path, shelf, [shelf.sale("b")], 1, 1)
    assert ids(tmp_path, shelf.daily) == ["b"]
    no_room.rmdir()
    for name in ("c", "d"):
        replace(tmp_path, shelf, [shelf.sale(name)], 1, 1)
    assert [path.name for path in log.glob("*.checkpoint.parquet")] == [f"{4:020}.checkpoint.parquet"]
    assert ids(tmp_path, shelf.daily) == ["d"]


def test_staged_files_of_a_commit_that_stands_are_kept_whatever_it_said(shelf, tmp_path, monkeypatch) -> None:
    lake, commit = Lake(tmp_path), DeltaTable.create_write_transaction

    def says_that_it_failed(*arguments, **properties) -> None:
        commit(*arguments, **properties)
        raise OSError("the disk went away")

    monkeypatch.setattr(DeltaTable, "create_write_transaction", says_that_it_failed)
    rows = lake.stage(shelf.daily)
    rows.append(shelf.rows_of(shelf.daily, [shelf.sale("a")]))
    with pytest.raises(OSError, match="went away"):
        lake.adopt(rows, shelf.days(1, 1), {})
    rows.close()
    assert ids(tmp_path, shelf.daily) == ["a"]


def test_staged_files_of_a_version_are_kept_when_another_commit_replaces_them_at_once(shelf, tmp_path, monkeypatch) -> None:
    """They were taken for not adopted: whoever read the version between the two lost its files."""
    lake, commit = Lake(tmp_path), DeltaTable.create_write_transaction

    def followed(table, *arguments, **properties) -> None:
        commit(table, *arguments, **properties)
        replace(tmp_path, shelf, [shelf.sale("b", 1)], 1, 1)

    monkeypatch.setattr(DeltaTable, "create_write_transaction", followed)
    staged = stage(tmp_path, shelf, [shelf.sale("a", 1)])
    version = lake.adopt(staged, shelf.days(1, 1), {})
    staged.close()
    assert ids(tmp_path, shelf.daily) == ["b"]
    lake.restore(shelf.daily, version)
    assert ids(tmp_path, shelf.daily) == ["a"]


@pytest.mark.parametrize("exists", [True, False], ids=["table-exists", "both-create-it"])
def test_processes_that_replace_different_hours_of_one_day_lose_nothing(shelf, tmp_path, exists: bool) -> None:
    if exists:
        Lake(tmp_path).replace(
            shelf.hourly, shelf.rows_of(shelf.hourly, [shelf.tick(9, 9)]), predicate_for(shelf.hourly, shelf.hours(9, 10)), {}
        )
    arguments = [sys.executable, "-c", TOGETHER, str(tmp_path), str(Path(__file__).with_name("conftest.py"))]
    writers = [
        subprocess.Popen([*arguments, str(hour)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for hour in (3, 4)
    ]
    for writer in writers:
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
    assert [writer.wait() for writer in writers] == [0, 0]
    for writer in writers:
        writer.communicate()
    assert [row[2] for row in stored(tmp_path, shelf.hourly)] == [303, 403] + [9] * exists


def test_versions_are_listed_and_an_earlier_one_comes_back_as_a_new_one(shelf, tmp_path) -> None:
    lake = Lake(tmp_path)
    first = replace(tmp_path, shelf, [shelf.sale("a", 1), shelf.sale("b", 2)], 1, 2)
    rows = shelf.rows_of(shelf.daily, [shelf.sale("wrong", 2)])
    second = lake.replace(shelf.daily, rows, predicate_for(shelf.daily, shelf.days(2, 2)), {"run_id": "r1", "partitions": "2nd"})
    newest, before = lake.versions(shelf.daily, 2)
    assert (newest.number, newest.operation, newest.note, before.number) == (second, "write", "partitions 2nd; run_id r1", first)
    assert newest.at >= before.at
    assert lake.restore(shelf.daily, first) == second + 1
    assert lake.versions(shelf.daily, 1)[0].note == f"restored_version {first}"
    assert ids(tmp_path, shelf.daily) == ["a", "b"]
    lake.restore(shelf.daily, second)
    assert ids(tmp_path, shelf.daily) == ["a", "wrong"], "back to what it was"


def test_a_version_that_is_not_there_is_told_and_nothing_changes(shelf, tmp_path) -> None:
    lake = Lake(tmp_path)
    with pytest.raises(LakeError, match="sales: there is no table yet"):
        lake.restore(shelf.daily, 0)
    first = replace(tmp_path, shelf, [shelf.sale("a", 1)], 1, 1)
    second = replace(tmp_path, shelf, [shelf.sale("b", 1)], 1, 1)
    for version in (-1, second + 1):
        with pytest.raises(LakeError, match=rf"sales has no version {version}: the versions are 0 to {second}"):
            lake.restore(shelf.daily, version)
    lake.pin(shelf.daily).delta.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    with pytest.raises(LakeError, match=f"version {first} can be restored no more.* Nothing was changed"):
        lake.restore(shelf.daily, first)
    assert ids(tmp_path, shelf.daily) == ["b"] and lake.pin(shelf.daily).version in (second, second + 1, second + 2)
