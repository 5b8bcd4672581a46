-- One row per event of the window: repeated lines dropped, and the properties that the settings name made into columns.
-- DuckDB only: this is where JSON ends, so that every later statement can do without.
WITH first_lines AS (
    SELECT *, epoch_us(occurred_at) // 1000000 AS occurred_second, occurred_at AT TIME ZONE $time_zone AS local_time
    FROM records
    WHERE kind = 'event' AND occurred_at >= $start_at AND occurred_at < $end_at
    QUALIFY row_number() OVER (PARTITION BY record_id ORDER BY revision, file, line_number) = 1
),
kinds AS (
    SELECT
        *,
        CASE WHEN list_contains($purchase, name) THEN 'order' WHEN list_contains($refund, name) THEN 'refund' END AS order_kind
    FROM first_lines
),
named AS (
    SELECT
        *,
        CASE
            WHEN properties <> '{}'
                THEN list_filter(
                    [trim(v) FOR v IN json_extract_string(properties, $account_id)],
                    lambda v: v <> '' AND NOT list_contains($blocked, lower(v))
                )[1]
        END AS account_id,
        CASE WHEN properties <> '{}' THEN list_filter(json_extract_string(properties, $feature), lambda v: v <> '')[1] END AS feature,
        CASE WHEN order_kind IS NOT NULL THEN list_filter(json_extract_string(properties, $order_id), lambda v: v <> '')[1] END AS order_id,
        CASE WHEN order_kind IS NOT NULL THEN list_filter(json_extract_string(properties, $revenue), lambda v: v <> '')[1] END AS revenue_text,
        CASE WHEN order_kind IS NOT NULL THEN list_filter(json_extract_string(properties, $currency), lambda v: v <> '')[1] END AS currency,
        CASE
            WHEN order_kind = 'order' THEN list_filter(json_extract_string(properties, $purchased_product_id), lambda v: v <> '')[1]
            WHEN order_kind = 'refund' THEN list_filter(json_extract_string(properties, $any_product_id), lambda v: v <> '')[1]
        END AS product_id,
        CASE
            WHEN order_kind = 'order' THEN list_filter(json_extract_string(properties, $purchased_product_name), lambda v: v IS NOT NULL)[1]
            WHEN order_kind = 'refund' THEN list_filter(json_extract_string(properties, $any_product_name), lambda v: v IS NOT NULL)[1]
        END AS product_name,
        CASE WHEN order_kind IS NOT NULL THEN list_filter(json_extract_string(properties, $product_category), lambda v: v <> '')[1] END AS category,
        CASE WHEN order_kind IS NOT NULL THEN list_filter(json_extract_string(properties, $price), lambda v: v <> '')[1] END AS price_text,
        CASE WHEN order_kind IS NOT NULL THEN list_filter(json_extract_string(properties, $quantity), lambda v: v <> '')[1] END AS quantity_text
    FROM kinds
)
SELECT
    CAST(local_time AS DATE) AS event_date,
    to_timestamp(occurred_second - (epoch_us(local_time) // 1000000) % 3600) AS hour,
    record_id AS event_id,
    identity,
    name,
    occurred_at,
    occurred_second,
    received_at,
    account_id,
    order_kind,
    order_id,
    try_cast(amount_text(revenue_text) AS DECIMAL(18, 2)) AS revenue,
    upper(currency) AS currency,
    product_id,
    product_name,
    category,
    try_cast(amount_text(price_text) AS DECIMAL(18, 4)) AS price,
    try_cast(quantity_text AS BIGINT) AS quantity,
    feature,
    properties
FROM named
