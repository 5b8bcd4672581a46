"""Product affinity beside the bare self-join that anyone would write in DuckDB, both with two gigabytes of memory."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import duckdb

from analytics_assets.retail.affinity import assets
from analytics_assets.settings import Affinity
from analytics_assets.warehouse.engine import engine, run
from analytics_assets_tests.benchmarks.comparison import Comparison, seconds_of, taking_turns

LINES = 10_000_000
MEMORY = "2GB"
FIRST_DAY, LAST_DAY = date(2025, 4, 1), date(2026, 3, 31)

# Zipf-like products, 2.8 lines an order, ids as exports have them.
ORDER_ITEMS = """
CREATE TABLE order_items AS
SELECT
    DATE '2025-04-01' + CAST(hash(number) % 365 AS INTEGER) AS order_date, md5(CAST(number AS VARCHAR)) AS event_id, 'order' AS kind,
    'sku-' || CAST(floor(50000 * pow((hash(i) % 1000003) / 1000003, 2.2)) AS BIGINT) AS product_id, CAST(1 AS BIGINT) AS quantity
FROM (SELECT i, CAST(hash(i * 31) % ($lines * 10 // 28) AS BIGINT) AS number FROM range($lines) AS t(i))
"""

BARE = """
WITH lines AS (SELECT DISTINCT event_id, product_id FROM order_items WHERE kind = 'order'),
alone AS (SELECT product_id, count(*) AS baskets FROM lines GROUP BY product_id),
pairs AS (
    SELECT a.product_id AS one, b.product_id AS other, count(*) AS baskets
    FROM lines AS a JOIN lines AS b ON a.event_id = b.event_id AND a.product_id < b.product_id
    GROUP BY ALL HAVING count(*) >= $minimum
)
SELECT one, other, p.baskets, p.baskets * (SELECT count(DISTINCT event_id) FROM lines) / (a.baskets * b.baskets) AS lift
FROM pairs AS p JOIN alone AS a ON a.product_id = one JOIN alone AS b ON b.product_id = other
"""


def measure(repetitions: int, folder: Path) -> Iterator[Comparison]:
    """Run the asset's SQL file and the bare query over the same lines; what does not fit in memory goes to `folder`."""
    settings = Affinity()
    with engine() as connection:
        connection.execute(f"SET memory_limit = '{MEMORY}'")
        connection.execute(f"SET temp_directory = '{folder}'")
        connection.execute(ORDER_ITEMS, {"lines": LINES})
        limits = settings.model_dump(include={"basket_cap", "minimum_baskets", "related_products"})
        file = Path(assets.__file__).parent / "product_affinity.sql"

        def ours(_: int) -> float:
            days = {"first_day": FIRST_DAY, "as_of": LAST_DAY}
            return seconds_of(lambda: run(connection, file, {**days, **limits}).to_arrow_table())

        def bare(_: int) -> float:
            return seconds_of(lambda: _bare(connection, settings.minimum_baskets))

        what = f"affinity of {LINES:,} lines in {MEMORY}"
        yield Comparison(what, "both directions, ranked", "bare self-join", *taking_turns(ours, bare, repetitions), 1.1)


def _bare(connection: duckdb.DuckDBPyConnection, minimum: int) -> None:
    connection.sql(BARE, params={"minimum": minimum}).to_arrow_table()
