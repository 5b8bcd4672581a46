"""Every `.sql` file but the `.duckdb.sql` ones says the same on Spark as on DuckDB.

Two guards, since each misses what the other sees: constructs known to differ (often silently) are refused by name, and each
file is executed on both engines over the same small random tables. A type that cannot be told is refused where it matters.
"""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
import sqlglot
from sqlglot import exp
from sqlglot.optimizer.annotate_types import annotate_types
from sqlglot.optimizer.qualify import qualify

import analytics_assets
from analytics_assets.definitions import PUBLISHED
from analytics_assets.events.tables import RECORDS
from analytics_assets.retail.segments.assets import SEGMENT_OF_SCORES, segment_of_scores
from analytics_assets.saas.usage.assets import NEWCOMERS, USAGE_DAYS
from analytics_assets.settings import Health, Segments
from analytics_assets.warehouse.engine import engine, run
from analytics_assets.warehouse.tables import Column, Table

ROOT = Path(analytics_assets.__file__).parent
FILES = sorted(file for file in ROOT.rglob("*.sql") if not file.name.endswith(".duckdb.sql"))
TABLES = {table.name: table for table in [RECORDS, *PUBLISHED]}
ROWS = 150
"""Rows drawn for each table; rows that repeat a key are left out."""
PARAMETERS: dict[str, Any] = {
    "as_of": date(2026, 3, 30),
    "first_day": date(2026, 3, 28),
    "last_day": date(2026, 3, 30),
    "start_at": datetime(2026, 3, 28, tzinfo=UTC),
    "end_at": datetime(2026, 3, 30, 12, tzinfo=UTC),
    "window_seconds": 3600,
    "currency": "GBP",
    "until": date(2026, 3, 29),
    "history_half_life": 120.0,
    "trend_half_life": 7.0,
    "basket_cap": 4,
    "minimum_baskets": 1,
    "related_products": 3,
    "buy_again_first": 1,
    "first_id": "",
    "next_first_id": "~",
    "products": 4,
    "block_rows": 3,
    "days_back": 2,
    "most_customers": 5,
    "trait": "trait 1",
    "below": "c",
    "cohort_by": "first order month",
    "cut_off": date(2026, 3, 29),
    "label_until": date(2026, 3, 31),
    "known_before": datetime(2026, 4, 2, tzinfo=UTC),
    "most": 8,
    "trial_days": 1,
    "newest": 2,
    "time_zone": "Europe/London",
    "blocked": ["person 3", "guest"],
    "excluded_products": ["sku 1"],
    "excluded_categories": ["category 2"],
    "feature_events": ["name 1", "name 2"],
    "every_event_is_a_feature": True,
    "not_features": ["name 3", "name 4"],
    "not_usage": ["name 5"],
    "session_seconds": 1200,
    "by_receipt": False,
    "fold_email_case": True,
    "grace_days": 1,
    "people_are_accounts": False,
    "blocks": 70,
    "ends": 70,
    "block": 69,
    "evening": date(2026, 3, 29),
    "stood_on": date(2026, 3, 28),
    "healthy": 60.0,
    "at_risk": 35.0,
    "hysteresis": 2.0,
    "least_coverage": 0.2,
    "falling": 20.0,
    **{f"{component}_weight": weight for component, weight in Health().weights},
}

FLIPPED = {name: not value if isinstance(value, bool) else value for name, value in PARAMETERS.items()}
SWITCHES = [f"${name}" for name, value in PARAMETERS.items() if isinstance(value, bool)]
SWITCHED = [file for file in FILES if any(switch in file.read_text(encoding="utf-8") for switch in SWITCHES)]
"""Files that the settings turn to another branch: those are executed in both ways."""

files = pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))


# --- what is refused -------------------------------------------------------------------------------------------------

Refuses = Callable[[exp.Expression], bool]
_WHOLE = {*exp.DataType.INTEGER_TYPES, exp.DataType.Type.BOOLEAN}
_ORDERED = (exp.RowNumber, exp.Rank, exp.DenseRank, exp.Ntile, exp.Lag, exp.Lead, exp.FirstValue, exp.LastValue, exp.NthValue)


def _any_of(*kinds: type[exp.Expression]) -> Refuses:
    return lambda node: isinstance(node, kinds)


def _day_of_week(node: exp.Expression) -> bool:
    return isinstance(node, exp.DayOfWeek | exp.DayOfWeekIso) or (isinstance(node, exp.Extract) and "DOW" in node.name.upper())


def _order_missing(node: exp.Expression) -> bool:
    function = node.this.this if isinstance(node, exp.Window) and isinstance(node.this, exp.IgnoreNulls) else node.this
    return isinstance(node, exp.Window) and isinstance(function, _ORDERED) and not node.args.get("order")


def _type(node: exp.Expression) -> Any:
    return node.type.this if node.type is not None else None


def _cuts_decimals(node: exp.Expression) -> bool:
    if not isinstance(node, exp.Cast) or node.to.this not in exp.DataType.INTEGER_TYPES:
        return False
    return not isinstance(node.this, exp.Floor | exp.Ceil | exp.Round) and _type(node.this) not in _WHOLE


def _counts_boundaries(node: exp.Expression) -> bool:
    if not isinstance(node, exp.DateDiff | exp.TimestampDiff | exp.DatetimeDiff):
        return False
    dates = {_type(node.this), _type(node.expression)} == {exp.DataType.Type.DATE}
    return node.text("unit").upper() != "DAY" or not dates


def _subtracts_dates(node: exp.Expression) -> bool:
    return isinstance(node, exp.Sub) and exp.DataType.Type.DATE in (_type(node.this), _type(node.expression))


REFUSED: dict[str, Refuses] = {
    "interval": _any_of(exp.Interval, exp.ToDays),
    "day of week": _day_of_week,
    "list": _any_of(exp.ArrayAgg),
    "list or struct literal": _any_of(exp.Array, exp.Struct, exp.Bracket),
    "lambda": _any_of(exp.Lambda),
    "ln": _any_of(exp.Ln),
    "json": lambda node: "JSON" in type(node).__name__.upper(),
    "quantile": _any_of(exp.PercentileCont, exp.PercentileDisc, exp.Quantile, exp.Median),
    "time_bucket": _any_of(exp.DateBin),
    "asof join": lambda node: isinstance(node, exp.Join) and node.args.get("method") == "ASOF",
    "epoch_ms": _any_of(exp.UnixToTime),
    # A tie has no winner, and whether the order is total stands in the data: number the rows instead.
    "arg_max": _any_of(exp.ArgMax, exp.ArgMin, exp.First, exp.Last, exp.AnyValue),
    "window without order": _order_missing,
    "filter": _any_of(exp.Filter),
    "qualify": _any_of(exp.Qualify),
    "group by all": lambda node: isinstance(node, exp.Group) and bool(node.args.get("all")),
    "integer division": _any_of(exp.IntDiv),
    # hash, date_sub, date_part, timezone, to_json, ...: what sqlglot does not know it passes on as it is.
    "unknown function": _any_of(exp.Anonymous),
}
"""What is refused wherever it stands."""
REFUSED_FOR_TYPES: dict[str, Refuses] = {
    "cast to integer": _cuts_decimals,
    "date_diff": _counts_boundaries,
    "date minus date": _subtracts_dates,
}
"""What is refused for some types of its operands, or when the type cannot be told."""


def refusals(sql: str) -> set[str]:
    """Names of the refused constructs in a query over declared tables."""
    tree = sqlglot.parse_one(sql, read="duckdb")
    found = {name for name, refuses in REFUSED.items() if any(map(refuses, tree.walk()))}
    schema = {prefix + t.name: {c.name: c.type for c in t.columns} for t in TABLES.values() for prefix in ("", "lake_")}
    qualified = qualify(tree, schema=schema, dialect="duckdb", validate_qualify_columns=False)
    typed = annotate_types(qualified, schema=schema, dialect="duckdb")
    return found | {name for name, refuses in REFUSED_FOR_TYPES.items() if any(map(refuses, typed.walk()))}


@pytest.mark.parametrize(
    ("refusal", "sql"),
    [
        ("interval", "SELECT order_date + INTERVAL 1 DAY FROM orders"),
        ("interval", "SELECT ordered_at - INTERVAL '2 hours' FROM orders"),
        ("day of week", "SELECT dayofweek(order_date) FROM orders"),
        ("day of week", "SELECT isodow(order_date) FROM orders"),
        ("day of week", "SELECT EXTRACT(dow FROM order_date) FROM orders"),
        ("list", "SELECT list(product_id ORDER BY line) FROM order_items"),
        ("list", "SELECT array_agg(product_id) FROM order_items"),
        ("list or struct literal", "SELECT [1, 2]"),
        ("list or struct literal", "SELECT {'a': 1}"),
        ("list or struct literal", "SELECT struct_pack(a := 1)"),
        ("lambda", "SELECT list_filter(l, lambda v: v > 1) FROM t"),
        ("lambda", "SELECT list_transform(l, v -> v + 1) FROM t"),
        ("ln", "SELECT ln(units) FROM orders"),
        ("json", "SELECT properties ->> 'order id' FROM events"),
        ("json", "SELECT properties -> 'order id' FROM events"),
        ("json", "SELECT json_extract_string(properties, '$.a') FROM events"),
        ("unknown function", "SELECT to_json(name) FROM events"),
        ("quantile", "SELECT quantile_cont(price, 0.5) FROM order_items"),
        ("quantile", "SELECT median(price) FROM order_items"),
        ("time_bucket", "SELECT time_bucket(INTERVAL 1 HOUR, ordered_at) FROM orders"),
        ("asof join", "SELECT * FROM orders AS a ASOF JOIN orders AS b ON a.ordered_at >= b.ordered_at"),
        ("epoch_ms", "SELECT epoch_ms(ordered_at) FROM orders"),
        ("unknown function", "SELECT timezone('UTC', ordered_at) FROM orders"),
        ("unknown function", "SELECT hash(identity) FROM orders"),
        ("unknown function", "SELECT date_sub('hour', ordered_at, ordered_at) FROM orders"),
        ("interval", "SELECT order_date + to_days(1) FROM orders"),
        ("arg_max", "SELECT max_by(order_id, ordered_at) FROM orders"),
        ("arg_max", "SELECT arg_min(order_id, ordered_at) FROM orders"),
        ("arg_max", "SELECT any_value(order_id) FROM orders"),
        ("window without order", "SELECT row_number() OVER (PARTITION BY identity) FROM orders"),
        ("window without order", "SELECT lag(units) OVER () FROM orders"),
        ("window without order", "SELECT first_value(units IGNORE NULLS) OVER (PARTITION BY identity) FROM orders"),
        ("filter", "SELECT count(*) FILTER (WHERE kind = 'order') FROM orders"),
        ("qualify", "SELECT * FROM orders QUALIFY row_number() OVER (ORDER BY event_id) = 1"),
        ("group by all", "SELECT kind, count(*) FROM orders GROUP BY ALL"),
        ("integer division", "SELECT units // 2 FROM orders"),
        ("cast to integer", "SELECT CAST(price AS INT) FROM order_items"),
        ("cast to integer", "SELECT CAST(SUM(price) AS BIGINT) FROM order_items"),
        ("cast to integer", "SELECT probability_alive::INT FROM customer_ltv"),
        ("cast to integer", "SELECT TRY_CAST(quantity * 0.5 AS BIGINT) FROM order_items"),
        ("cast to integer", "SELECT CAST(unheard_of AS INT) FROM t"),
        ("date_diff", "SELECT date_diff('hour', ordered_at, ordered_at) FROM orders"),
        ("date_diff", "SELECT date_diff('day', ordered_at, ordered_at) FROM orders"),
        ("date_diff", "SELECT date_diff('month', order_date, order_date) FROM orders"),
        ("date minus date", "SELECT MAX(order_date) - MIN(order_date) FROM orders"),
    ],
)
def test_what_differs_on_spark_is_refused(refusal: str, sql: str):
    assert refusal in refusals(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT CAST(SUM(quantity) AS BIGINT), CAST(FLOOR(price) AS BIGINT) FROM order_items GROUP BY price",
        "SELECT date_diff('day', MIN(order_date), CAST($as_of AS DATE)) FROM orders",
        "SELECT SUM(net_revenue) OVER (PARTITION BY identity), row_number() OVER (ORDER BY event_id) FROM orders",
    ],
)
def test_what_agrees_is_not_refused(sql: str):
    assert not refusals(sql)


@files
def test_file_stays_in_the_portable_subset(file: Path):
    assert not refusals(file.read_text(encoding="utf-8"))


# --- what is executed ------------------------------------------------------------------------------------------------

_DRAW = "CAST(md5_number('{column} ' || i) % 1000003 AS BIGINT)"
"""A number below a million for each row, the same on every machine."""
_KINDS = {
    "records": "['event', 'event', 'set', 'alias']",
    "identities": "['named', 'named', 'anonymous', 'blocked']",
    "account_records": "['billed', 'billed', 'trial', 'canceled', 'upgraded']",
}
_KINDS_OF_ORDERS = "['order', 'order', 'order', 'refund']"
# Small pools, so that joins find partners, keys repeat across tables, and times tie.
_POOLS = {
    "identity": "'person ' || {r} % 12",
    "account_records.identity": "'person ' || {r} % 24",
    "other_identity": "'person ' || {r} % 12",
    "customer_id": "'person ' || {r} % 12",
    "event_id": "'event ' || {r} % 120",
    "record_id": "'record ' || {r} % 1000",
    "product_id": "'sku ' || {r} % 5",
    "list": "['buy_again', 'discover'][1 + {r} % 2]",
    "model": "['ease', 'popular'][1 + {r} % 2]",
    "trait": "'trait ' || {r} % 2",
    "order_date": "DATE '2026-03-28' + CAST({r} % 4 - {r} // 4 % 4 // 3 * 31 AS INTEGER)",
    "currency": "['EUR', 'GBP', 'JPY'][1 + {r} % 3]",
    "order_kind": "['order', 'order', 'refund'][1 + {r} % 3]",
    "item_kind": "['order', 'order', 'refund'][1 + {r} % 3]",
    "partition": "DATE '2026-03-28' + CAST({r} % 9 AS INTEGER)",
    "status": "['success', 'success', 'failure'][1 + {r} % 3]",
    "accounts.status": "['active', 'trial', 'unbilled'][1 + {r} % 3]",
    "partitions": "1 + {r} % 5 // 4",
    "occurred_second": "1774656000 + {r} % 40 * 600",
    "user_id": "'person ' || {r} % 12",
    "months": "(1 + {r} % 60) / 40",
    "account_id": "'account ' || {r} % 29",
    "account_usage.hour": "to_timestamp(1768824000 + {r} % 1680 * 3600)",
    "account_usage.events": "1 + {r} % 50",
    "account_usage.active_users": "{r} % 6",
    "account_usage.features_used": "{r} % 5",
    "account_usage.seats": "1 + {r} % 9",
}
_OF_TYPE = {
    "VARCHAR": "'{name} ' || {r} % 40",
    "BLOB": "CAST('line ' || {r} AS BLOB)",
    "BOOLEAN": "{r} % 2 = 0",
    "BIGINT": "{r} % 9 - 2",
    "DOUBLE": "({r} % 2001 - 1000) / 8",
    "DECIMAL(4,1)": "{r} % 1001 / 10",
    "DECIMAL(4,3)": "{r} % 1001 / 1000",
    "DECIMAL(18,2)": "({r} % 20001 - 5000) / 100",
    "DECIMAL(9,4)": "{r} % 5 / 30",
    "DECIMAL(18,4)": "({r} % 40001 - 10000) / 1000",
    "DECIMAL(18,6)": "{r} % 40001 / 100000",
    "DATE": "DATE '2026-03-28' + CAST({r} % 4 AS INTEGER)",
    "TIMESTAMPTZ": "to_timestamp(1774656000 + {r} % 100 * 3000)",
}


def _drawn(table: Table, column: Column) -> str:
    r = _DRAW.format(column=f"{table.name}.{column.name}")
    if column.name == "kind":
        value = f"{_KINDS.get(table.name, _KINDS_OF_ORDERS)}[1 + {r} % 4]"
    else:
        value = _POOLS.get(f"{table.name}.{column.name}", _POOLS.get(column.name, _OF_TYPE[column.type])).format(
            r=r, name=column.name
        )
    value = f"CAST({value} AS {column.type})"
    return f'CASE WHEN {r} // 7 % 5 > 0 THEN {value} END AS "{column.name}"' if column.nullable else f'{value} AS "{column.name}"'


@pytest.fixture(scope="session")
def tables() -> Iterator[duckdb.DuckDBPyConnection]:
    """Small random tables as declared, each under its own name and as `lake_...`."""
    with engine() as connection:
        for table in TABLES.values():
            columns = ", ".join(_drawn(table, column) for column in table.columns)
            key = ", ".join(table.key)
            connection.execute(
                f"""CREATE TABLE {table.name} AS SELECT * EXCLUDE (i) FROM (SELECT i, {columns} FROM range({ROWS}) AS t(i))
                QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY i) = 1"""
            )
            connection.execute(f"CREATE VIEW lake_{table.name} AS FROM {table.name}")
        yield connection


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One Spark session on two local threads, in UTC."""
    java = Path(os.environ.get("JAVA_HOME", "/no java home")) / "bin" / "java"
    if not java.exists() and not shutil.which("java"):
        pytest.skip("Spark needs Java 17 or newer, and there is no java on this machine")
    from pyspark.sql import SparkSession

    folder = tmp_path_factory.mktemp("spark")
    session = (
        SparkSession.builder.master("local[2]")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.shuffle.partitions", "2")
        .config("spark.sql.adaptive.enabled", "false")
        .config("spark.sql.warehouse.dir", str(folder))
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.ui.enabled", "false")
        .getOrCreate()
    )
    yield session
    session.stop()


def _table_names(tree: exp.Expression) -> set[str]:
    made_inside = {cte.alias for cte in tree.find_all(exp.CTE)}
    return {table.name for table in tree.find_all(exp.Table)} - made_inside


def _literal(value: Any) -> exp.Expression:
    if isinstance(value, datetime):
        return exp.cast(exp.Literal.string(value.isoformat()), "TIMESTAMPTZ")
    if isinstance(value, date):
        return exp.cast(exp.Literal.string(value.isoformat()), "DATE")
    return exp.convert(value)


def _for_spark(tree: exp.Expression, parameters: dict[str, Any]) -> str:
    bound = tree.transform(lambda node: _literal(parameters[node.name]) if isinstance(node, exp.Placeholder) else node)
    return bound.sql("spark")


def _rows(table: pa.Table) -> Counter[tuple[Any, ...]]:
    """The multiset of rows. Python's numbers compare by value, its dates and instants do not compare with one another."""
    return Counter(zip(*(column.to_pylist() for column in table.columns), strict=True))


_GIVEN = {
    "customers_then": "SELECT DISTINCT identity, customer_id FROM identities WHERE as_of_date = DATE '2026-03-30'",
    "customers_later": "SELECT DISTINCT identity, customer_id FROM identities WHERE as_of_date = DATE '2026-03-31'",
    "named_events": "SELECT DISTINCT name FROM events",
    # The drawn seconds lie in a few hours whatever the drawn day: so do these days, with some seconds before and after.
    USAGE_DAYS: """SELECT CAST(DATE '2026-03-28' + CAST(i AS INTEGER) AS DATE) AS event_date,
        CAST(DATE '2026-03-27' + CAST(i AS INTEGER) AS DATE) AS evening_before,
        CAST(1774659600 AS BIGINT) AS start_second, CAST(1774677600 AS BIGINT) AS end_second FROM range(4) AS t(i)""",
    NEWCOMERS: """SELECT as_of_date, identity, max(customer_id) AS user_id FROM identities
        WHERE customer_id IS NOT NULL GROUP BY ALL""",
    "health_hours": """SELECT CAST(68 + i AS BIGINT) AS block, to_timestamp(1774782000 + 86400 * i) AS hour,
        CAST(DATE '2026-03-29' + CAST(i AS INTEGER) AS DATE) AS event_date, CAST(11 AS BIGINT) AS hour_of_day,
        CAST(DATE '2026-03-28' + CAST(i AS INTEGER) AS DATE) AS judged_on,
        CAST(DATE '2026-03-28' + CAST(i AS INTEGER) AS DATE) AS evening,
        CAST(DATE '2026-02-15' + CAST(i AS INTEGER) AS DATE) AS known_since FROM range(2) AS t(i)""",
    # Accounts are drawn to be named on the last days: these days are later, so that some are known for weeks.
    "health_blocks": """SELECT CAST(i AS BIGINT) AS block, CAST(DATE '2026-03-01' + CAST(i AS INTEGER) AS DATE) AS event_date,
        CAST(24 * i + 23 AS BIGINT) AS last_hour FROM range(70) AS t(i)""",
    "block_hours": """SELECT to_timestamp(1768824000 + 3600 * i) AS hour, CAST(i AS BIGINT) AS hour_number,
        CAST(i // 24 AS BIGINT) AS block FROM range(1680) AS t(i)""",
    "spoken": """SELECT CAST(DATE '2026-03-29' + CAST(i % 2 AS INTEGER) AS DATE) AS as_of_date, 'sku ' || i % 5 AS product_id,
        CASE WHEN i % 4 > 0 THEN 'category ' || i % 4 END AS category, 'goes with ' || i % 5 AS reason FROM range(10) AS t(i)""",
    "health_evenings": """SELECT CAST(68 + i AS BIGINT) AS block,
        CAST(DATE '2026-03-28' + CAST(i AS INTEGER) AS DATE) AS as_of_date FROM range(2) AS t(i)""",
}
"""What code hands to a file, as a query."""


def _register_intermediates(file: Path, tables: duckdb.DuckDBPyConnection, parameters: dict[str, Any]) -> None:
    """Make what a file reads beside stored tables: the rows of the file of that name in its folder."""
    tables.register(SEGMENT_OF_SCORES.name, segment_of_scores(Segments().rules))
    for name in _table_names(sqlglot.parse_one(file.read_text(encoding="utf-8"), read="duckdb")):
        if name in _GIVEN:
            tables.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS {_GIVEN[name]}")
        elif name.removeprefix("lake_") not in TABLES and name != SEGMENT_OF_SCORES.name:
            near = lambda other: (other.parent != file.parent, other.parent.parent != file.parent.parent)  # noqa: E731
            intermediate = min((other for other in FILES if other.stem == name), key=near)
            _register_intermediates(intermediate, tables, parameters)
            tables.register(name, run(tables, intermediate, parameters).to_arrow_table())


@pytest.mark.parametrize(
    ("file", "parameters"),
    [pytest.param(file, PARAMETERS, id=str(file.relative_to(ROOT))) for file in FILES]
    + [pytest.param(file, FLIPPED, id=f"{file.relative_to(ROOT)} switched") for file in SWITCHED],
)
def test_file_gives_the_same_rows_on_spark(
    file: Path, parameters: dict[str, Any], tables: duckdb.DuckDBPyConnection, spark: Any, tmp_path: Path
):
    tree = sqlglot.parse_one(file.read_text(encoding="utf-8"), read="duckdb")
    _register_intermediates(file, tables, parameters)
    for name in _table_names(tree):
        path = tmp_path / f"{name}.parquet"
        tables.sql(f"FROM {name}").write_parquet(str(path))
        spark.read.parquet(str(path)).createOrReplaceTempView(name)
    ours = run(tables, file, parameters).to_arrow_table()
    theirs = spark.sql(_for_spark(tree, parameters)).toArrow()
    assert ours.num_rows > 3, "too few rows to tell the engines apart: draw better tables"
    assert theirs.column_names == ours.column_names
    assert _rows(theirs) == _rows(ours)
