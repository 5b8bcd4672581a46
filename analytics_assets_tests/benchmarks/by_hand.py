"""The batch from records to customers as one script, the way a person would write it for one shop with DuckDB and nothing else.

Same tables, same rows, as zstd Parquet; `test_by_hand.py` holds them against the platform's. No partitions, audits, digests,
versions or publishing: what those cost is what `batch.py` measures. Only the property names of the simulated shop are known.
"""

from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from analytics_assets.settings import Settings

EVENTS = """
CREATE TABLE events AS
WITH firsts AS (
    SELECT *, occurred_at AT TIME ZONE $zone AS local_time FROM records
    WHERE kind = 'event' QUALIFY row_number() OVER (PARTITION BY record_id ORDER BY revision, file, line_number) = 1
),
named AS (
    SELECT *, CASE name WHEN 'purchased' THEN 'order' WHEN 'refunded' THEN 'refund' END AS order_kind FROM firsts
)
SELECT
    CAST(local_time AS DATE) AS event_date, date_trunc('hour', local_time) AT TIME ZONE $zone AS hour, record_id AS event_id,
    identity, name, occurred_at, epoch_us(occurred_at) // 1000000 AS occurred_second, received_at,
    CAST(NULL AS VARCHAR) AS account_id, order_kind,
    CASE WHEN order_kind IS NOT NULL THEN properties ->> '$."order id"' END AS order_id,
    CASE WHEN order_kind IS NOT NULL THEN CAST(properties ->> '$."order total"' AS DECIMAL(18, 2)) END AS revenue,
    CAST(NULL AS VARCHAR) AS currency, CAST(NULL AS VARCHAR) AS product_id, CAST(NULL AS VARCHAR) AS product_name,
    CAST(NULL AS VARCHAR) AS category, CAST(NULL AS DECIMAL(18, 4)) AS price, CAST(NULL AS BIGINT) AS quantity,
    CAST(NULL AS VARCHAR) AS feature, properties
FROM named WHERE event_date BETWEEN $first_day AND $last_day
"""

PROPERTY_SETS = """
CREATE TABLE property_sets AS
WITH firsts AS (
    SELECT *, occurred_at AT TIME ZONE $zone AS local_time,
        properties ->> '$."purchased sku"' AS purchased, properties ->> '$."returned sku"' AS returned
    FROM records
    WHERE kind = 'set' QUALIFY row_number() OVER (PARTITION BY record_id ORDER BY revision, file, line_number) = 1
)
SELECT
    CAST(local_time AS DATE) AS event_date, date_trunc('hour', local_time) AT TIME ZONE $zone AS hour, record_id AS set_id,
    identity, occurred_at, epoch_us(occurred_at) // 1000000 AS occurred_second, received_at, CAST(NULL AS VARCHAR) AS account_id,
    CASE WHEN returned IS NOT NULL THEN 'refund' WHEN purchased IS NOT NULL THEN 'order' END AS item_kind,
    coalesce(returned, purchased) AS product_id,
    coalesce(properties ->> '$."returned product name"', properties ->> '$."purchased product name"') AS product_name,
    properties ->> '$.category' AS category, CAST(properties ->> '$.price' AS DECIMAL(18, 4)) AS price, CAST(properties ->> '$.quantity' AS BIGINT) AS quantity, properties
FROM firsts WHERE event_date BETWEEN $first_day AND $last_day
"""

ORDER_ITEMS = """
CREATE TABLE order_items AS
WITH found AS (
    SELECT s.set_id, s.occurred_second, s.product_id, s.product_name, s.category, s.quantity, s.price,
        max({'second': o.occurred_second, 'event_id': o.event_id}).event_id AS event_id
    FROM property_sets AS s
    JOIN events AS o ON o.identity = s.identity AND s.occurred_second - o.occurred_second BETWEEN 0 AND $window
        AND (s.item_kind = 'order' AND o.order_kind IS NOT NULL OR o.order_kind = 'refund')
    WHERE s.item_kind IS NOT NULL
    GROUP BY ALL
)
SELECT
    event_date AS order_date, event_id, coalesce(o.order_id, event_id) AS order_id, order_kind AS kind,
    row_number() OVER (PARTITION BY event_id ORDER BY found.occurred_second, set_id) AS line,
    found.product_id, found.product_name, found.category,
    CASE order_kind WHEN 'refund' THEN -abs(coalesce(found.quantity, 1)) ELSE coalesce(found.quantity, 1) END AS quantity,
    CASE order_kind WHEN 'refund' THEN abs(found.price) ELSE found.price END AS price
FROM found JOIN events AS o USING (event_id)
"""

ORDERS = """
CREATE TABLE orders AS
WITH totals AS (
    SELECT event_id, count(*) AS item_lines, CAST(sum(quantity) AS BIGINT) AS units,
        CAST(round(sum(quantity * price), 2) AS DECIMAL(18, 2)) AS revenue
    FROM order_items GROUP BY event_id
)
SELECT
    event_date AS order_date, e.event_id, coalesce(order_id, e.event_id) AS order_id, order_kind AS kind, identity,
    occurred_at AS ordered_at, received_at, coalesce(e.currency, $currency) AS currency,
    if(order_kind = 'refund', -abs(coalesce(e.revenue, t.revenue, 0)), coalesce(e.revenue, t.revenue, 0)) AS net_revenue,
    coalesce(item_lines, 0) AS item_lines, coalesce(units, 0) AS units
FROM events AS e LEFT JOIN totals AS t ON e.event_id = t.event_id
WHERE order_kind IS NOT NULL
"""

CUSTOMERS = """
CREATE TABLE customers AS
WITH people AS (
    SELECT *, bool_or(kind = 'named') OVER (PARTITION BY as_of_date, customer_id) AS is_named FROM identities
)
SELECT
    as_of_date, customer_id,
    min(order_date) FILTER (o.kind = 'order') AS first_order_date, max(order_date) FILTER (o.kind = 'order') AS last_order_date,
    count(*) FILTER (o.kind = 'order') AS orders, count(*) FILTER (o.kind = 'refund') AS refunds, currency,
    sum(net_revenue) AS net_revenue
FROM people JOIN orders AS o USING (identity)
WHERE is_named AND order_date <= as_of_date
GROUP BY as_of_date, customer_id, currency
"""

TABLES = ("events", "property_sets", "order_items", "orders", "identities", "customers")
ANONYMOUS = "^[A-Za-z0-9+/]{27}=$"


def write_tables(records: Sequence[str], settings: Settings, first_day: date, last_day: date, as_of_days: int, out: Path) -> None:
    """Make every table of the batch of the Parquet files of `records`, one file each in the folder `out`."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.from_parquet(list(records)).create_view("records")
        span = {"zone": settings.business.time_zone, "first_day": first_day, "last_day": last_day}
        connection.execute(EVENTS, span)
        connection.execute(PROPERTY_SETS, span)
        connection.execute(ORDER_ITEMS, {"window": settings.items.window_minutes * 60})
        connection.execute(ORDERS, {"currency": settings.business.currency})
        days = [last_day - timedelta(days=n) for n in reversed(range(as_of_days))]
        write_identities(connection, settings, first_day, days)
        connection.execute(CUSTOMERS)
        for table in TABLES:
            connection.sql(f"FROM {table}").write_parquet(str(out / f"{table}.parquet"), compression="zstd")


def write_identities(connection: duckdb.DuckDBPyConnection, settings: Settings, first_day: date, days: Sequence[date]) -> None:
    """Make `identities`: the connected components of the aliases known by the end of each day."""
    connection.execute(
        """CREATE TABLE seen AS SELECT row_number() OVER (ORDER BY identity) - 1 AS node, identity, min(first_seen) AS first_seen,
            min(known_at) AS known_at, regexp_full_match(identity, $anonymous) AS anonymous
        FROM (
            SELECT identity, occurred_at AS first_seen, occurred_at AS known_at FROM records
            WHERE (occurred_at AT TIME ZONE $zone) >= CAST($first_day AS DATE)
            UNION ALL SELECT identity, NULL, coalesce(received_at, occurred_at) FROM records WHERE kind = 'alias'
            UNION ALL SELECT other_identity, NULL, coalesce(received_at, occurred_at) FROM records WHERE kind = 'alias'
        ) GROUP BY identity""",
        {"anonymous": ANONYMOUS, "zone": settings.business.time_zone, "first_day": first_day},
    )
    pairs = connection.sql(
        """SELECT a.node AS a, b.node AS b, coalesce(received_at, occurred_at) AS known_at FROM records
        JOIN seen AS a USING (identity) JOIN seen AS b ON b.identity = other_identity WHERE kind = 'alias'"""
    ).fetchnumpy()
    nodes = connection.sql("SELECT count(*) FROM seen").fetchall()[0][0]
    connection.execute("CREATE TABLE identities (as_of_date DATE, identity VARCHAR, kind VARCHAR, customer_id VARCHAR)")
    for day in days:
        [(end,)] = connection.sql(
            "SELECT (CAST($day AS DATE) + INTERVAL 1 DAY) AT TIME ZONE $zone AT TIME ZONE 'UTC'",
            params={"day": day, "zone": settings.business.time_zone},
        ).fetchall()
        known = pairs["known_at"] < np.datetime64(end)
        links = coo_array((np.ones(known.sum(), np.int8), (pairs["a"][known], pairs["b"][known])), shape=(nodes, nodes))
        component = connected_components(links, directed=False)[1]
        connection.register("components", pl.DataFrame({"node": np.arange(nodes), "component": component}).to_arrow())
        connection.execute(
            """INSERT INTO identities
            SELECT $day, identity, if(anonymous, 'anonymous', 'named'),
                first(identity) OVER (
                    PARTITION BY component ORDER BY anonymous, if(anonymous, NULL, first_at) NULLS LAST, identity
                )
            FROM (SELECT *, CASE WHEN first_seen < $end THEN first_seen END AS first_at FROM seen)
            JOIN components USING (node)
            WHERE known_at < $end""",
            {"day": day, "end": end.replace(tzinfo=None)},
        )
