"""A declared table: its digest tells rows apart and nothing else; what it says of itself is complete."""

import random

import duckdb
import pyarrow as pa
import pytest

from analytics_assets.warehouse.engine import declared, engine


def digests(shelf, rows: list[dict]) -> dict:
    with engine() as connection:
        connection.register("found", shelf.rows_of(shelf.daily, rows))
        return {part: (count, digest) for part, count, digest in connection.sql(shelf.daily.digest_select("found")).fetchall()}


def instant(text: str):
    from datetime import datetime

    return datetime.fromisoformat(text)


def test_the_digest_does_not_depend_on_the_order_of_rows(shelf) -> None:
    rows = [shelf.sale(str(number), day=1 + number % 2, amount=number) for number in range(50)]
    shuffled = random.Random(1).sample(rows, len(rows))
    assert digests(shelf, rows) == digests(shelf, shuffled)
    assert {count for count, _ in digests(shelf, rows).values()} == {25}


def test_the_digest_does_not_depend_on_threads(shelf) -> None:
    with engine() as connection:
        connection.register("found", shelf.rows_of(shelf.daily, [shelf.sale(str(number)) for number in range(5_000)]))
        several = connection.sql(shelf.daily.digest_select("found")).fetchall()
        connection.execute("SET threads = 1")
        assert connection.sql(shelf.daily.digest_select("found")).fetchall() == several


def test_the_digest_does_not_depend_on_when_rows_were_loaded(shelf) -> None:
    one = [shelf.sale("1", loaded_at=instant("2011-11-01T00:00+00:00"))]
    other = [shelf.sale("1", loaded_at=instant("2026-11-01T00:00+00:00"))]
    assert digests(shelf, one) == digests(shelf, other)


@pytest.mark.parametrize(
    "other",
    [
        {"sale_id": "2"},
        {"shop": "south"},
        {"shop": "North"},
        {"shop": "north "},
        {"shop": ""},
        {"shop": None},
        {"till": "2"},
        {"amount": 2},
        {"amount": None},
        {"sold_at": "2011-11-01T00:00:00.000001+00:00"},
    ],
    ids=str,
)
def test_the_digest_differs_when_any_value_differs(shelf, other: dict) -> None:
    base = {"sale_id": "1", "sold_at": instant("2011-11-01T00:00+00:00")}
    changed = base | {name: instant(value) if name == "sold_at" else value for name, value in other.items()}
    assert digests(shelf, [shelf.sale(**base)]) != digests(shelf, [shelf.sale(**changed)])


def test_the_digest_tells_null_from_any_text(shelf) -> None:
    """A row whose digest stays the same is not written: the change would be lost."""
    for text in ("\\N", "NULL", ""):
        assert digests(shelf, [shelf.sale("1", shop=None)]) != digests(shelf, [shelf.sale("1", shop=text)]), text


def test_the_digest_tells_where_one_value_ends_and_the_next_begins(shelf) -> None:
    for separator in (chr(31), ",", "|", "\n"):
        one = shelf.sale("1", shop=f"a{separator}b", till="c")
        other = shelf.sale("1", shop="a", till=f"b{separator}c")
        assert digests(shelf, [one]) != digests(shelf, [other]), repr(separator)


def test_the_digest_counts_a_row_as_often_as_it_is_there(shelf) -> None:
    rows = [shelf.sale("1"), shelf.sale("2")]
    assert digests(shelf, rows) != digests(shelf, [*rows, *rows, *rows])
    assert digests(shelf, [shelf.sale("1", amount=1), shelf.sale("2", amount=2)]) != digests(
        shelf, [shelf.sale("1", amount=2), shelf.sale("2", amount=1)]
    )


def test_the_digest_tells_which_values_stand_in_one_row(shelf) -> None:
    """The hash of a row is an XOR of its values' hashes: without more mixing, exchanged values often add up to the same."""
    rows = [shelf.sale(str(number), shop=f"shop {number}") for number in range(200)]
    found = {str(digests(shelf, rows))}
    for one in range(0, 200, 2):
        exchanged = list(rows)
        exchanged[one] = shelf.sale(str(one), shop=f"shop {one + 1}")
        exchanged[one + 1] = shelf.sale(str(one + 1), shop=f"shop {one}")
        found.add(str(digests(shelf, exchanged)))
    assert len(found) == 101


def test_the_digest_is_of_the_declared_types_whatever_the_rows_come_in(shelf) -> None:
    rows = shelf.rows_of(shelf.daily, [shelf.sale(str(number), shop=None if number % 3 else "north") for number in range(9)])
    encoded = rows.set_column(2, "shop", rows["shop"].dictionary_encode()).set_column(4, "amount", rows["amount"].cast("double"))
    with engine() as connection:
        connection.register("plain", rows)
        connection.register("otherwise", encoded)
        plain, otherwise = (connection.sql(shelf.daily.digest_select(name)).fetchall() for name in ("plain", "otherwise"))
    assert plain == otherwise


def test_an_hourly_table_has_a_digest_for_each_hour(shelf) -> None:
    with engine() as connection:
        connection.register("found", shelf.rows_of(shelf.hourly, [shelf.tick(3, 1), shelf.tick(3, 2), shelf.tick(4, 1)]))
        found = connection.sql(shelf.hourly.digest_select("found")).fetchall()
    assert sorted((hour.hour, count) for hour, count, _ in found) == [(3, 2), (4, 1)]


def test_a_result_must_have_exactly_the_declared_columns(shelf) -> None:
    with (
        engine() as connection,
        pytest.raises(
            ValueError,
            match=r"sales: columns missing: \['amount', 'day', 'loaded_at', 'sold_at', 'till'\], not declared: \['colour'\]",
        ),
    ):
        declared(connection, shelf.daily, connection.sql("SELECT '1' AS sale_id, 'x' AS shop, 1 AS colour"))


def test_columns_are_put_in_order_and_cast_and_a_value_that_does_not_fit_is_an_error(shelf) -> None:
    with engine() as connection:
        found = declared(
            connection,
            shelf.hourly,
            connection.sql("SELECT 7 AS tick, TIMESTAMPTZ '2011-11-01 03:00Z' AS hour, '2011-11-01' AS day"),
        )
        assert found.schema == shelf.hourly.arrow_schema()
        assert found.to_pylist() == [shelf.tick(3, 7)]
        with pytest.raises(duckdb.ConversionException):
            declared(connection, shelf.hourly, connection.sql("SELECT 'seven' AS tick, now() AS hour, '2011-11-01' AS day"))


def test_empty_and_arrow_and_select_agree_on_names_and_types(shelf) -> None:
    for table in (shelf.daily, shelf.hourly):
        with engine() as connection:
            empty = connection.sql(table.empty_select()).to_arrow_table().cast(table.arrow_schema())
        assert empty.num_rows == 0
        assert empty.column_names == table.column_names
    assert shelf.daily.arrow_schema().field("amount").type == pa.decimal128(18, 2)
    assert shelf.daily.arrow_schema().field("sold_at").type == pa.timestamp("us", "UTC")


def test_dagster_shows_every_column_with_meaning_and_unit(shelf) -> None:
    columns = {column.name: column for column in shelf.daily.dagster_schema().columns}
    assert list(columns) == shelf.daily.column_names
    assert columns["amount"].description == "What was paid. Unit: currency."
    assert not columns["sale_id"].constraints.nullable and columns["sale_id"].constraints.unique
    assert columns["shop"].constraints.nullable
