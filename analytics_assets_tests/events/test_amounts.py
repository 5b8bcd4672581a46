"""Amounts as shops write them: read where there is one reading, and unreadable where there is none."""

from pathlib import Path

import duckdb
import pytest

from analytics_assets.events import events

MACROS = (Path(events.__file__).parent / "amounts.duckdb.sql").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def connection():
    with duckdb.connect() as connection:
        connection.execute(MACROS)
        yield connection


def read(connection: duckdb.DuckDBPyConnection, text: str) -> str | None:
    query = "SELECT CAST(try_cast(amount_text($text) AS DECIMAL(18, 2)) AS VARCHAR)"
    return connection.sql(query, params={"text": text}).fetchall()[0][0]


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("12.50", "12.50"),
        ("-12.5", "-12.50"),
        ("12,50", "12.50"),
        ("EUR 12,50", "12.50"),
        ("12.50 USD", "12.50"),
        ("Rs. 500", "500.00"),
        ("$1,234.50", "1234.50"),
        ("-£5.00", "-5.00"),
        ("£-5", "-5.00"),
        ("1.250,00", "1250.00"),
        ("1.234.567", "1234567.00"),
        ("1 234,50", "1234.50"),
        ("1\u202f234,50 €", "1234.50"),
        ("1'234.50", "1234.50"),
        ("(20.00)", "-20.00"),
        ("12,500", "12500.00"),
        ("1.250", "1.25"),
        ("1e3", "1000.00"),
        (".5", "0.50"),
    ],
)
def test_an_amount_is_read_as_it_is_meant(connection, text: str, amount: str) -> None:
    assert read(connection, text) == amount


@pytest.mark.parametrize("text", ["", "NaN", "null", "abc", "0x10", "[1]", "--5", "1,2,3", "1.2.3", "12,5000", "1,23,456.00"])
def test_what_cannot_be_read_without_guessing_is_no_amount(connection, text: str) -> None:
    assert read(connection, text) is None
