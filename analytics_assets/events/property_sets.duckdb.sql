-- One row per property set of the window: repeated lines dropped, item properties made into columns.
-- DuckDB only: this is where JSON ends, so that every later statement can do without.
WITH first_lines AS (
    SELECT *, epoch_us(occurred_at) // 1000000 AS occurred_second, occurred_at AT TIME ZONE $time_zone AS local_time
    FROM records
    WHERE kind = 'set' AND occurred_at >= $start_at AND occurred_at < $end_at
    QUALIFY row_number() OVER (PARTITION BY record_id ORDER BY revision, file, line_number) = 1
),
named AS (
    SELECT
        *,
        list_filter(
            [trim(v) FOR v IN json_extract_string(properties, $account_id)], lambda v: v <> '' AND NOT list_contains($blocked, lower(v))
        )[1] AS account_id,
        list_filter(json_extract_string(properties, $purchased_product_id), lambda v: v <> '')[1] AS purchased_id,
        list_filter(json_extract_string(properties, $returned_product_id), lambda v: v <> '')[1] AS returned_id,
        list_filter(json_extract_string(properties, $any_product_name), lambda v: v IS NOT NULL)[1] AS any_name,
        list_filter(json_extract_string(properties, $product_category), lambda v: v <> '')[1] AS category,
        list_filter(json_extract_string(properties, $price), lambda v: v <> '')[1] AS price_text,
        list_filter(json_extract_string(properties, $quantity), lambda v: v <> '')[1] AS quantity_text
    FROM first_lines
)
SELECT
    CAST(local_time AS DATE) AS event_date,
    to_timestamp(occurred_second - (epoch_us(local_time) // 1000000) % 3600) AS hour,
    record_id AS set_id,
    identity,
    occurred_at,
    occurred_second,
    received_at,
    account_id,
    CASE WHEN returned_id IS NOT NULL THEN 'refund' WHEN purchased_id IS NOT NULL THEN 'order' END AS item_kind,
    coalesce(returned_id, purchased_id) AS product_id,
    CASE WHEN coalesce(returned_id, purchased_id) IS NOT NULL THEN any_name END AS product_name,
    CASE WHEN coalesce(returned_id, purchased_id) IS NOT NULL THEN category END AS category,
    try_cast(amount_text(price_text) AS DECIMAL(18, 4)) AS price,
    try_cast(quantity_text AS BIGINT) AS quantity,
    properties
FROM named
