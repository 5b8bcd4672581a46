-- One row per order or refund, on the business day on which it happened. A refund is negative, whatever sign the export gives it.
-- An event without an amount is worth what its lines add up to.
WITH item_totals AS (
    SELECT
        event_id,
        COUNT(*) AS item_lines,
        CAST(SUM(quantity) AS BIGINT) AS units,
        CAST(ROUND(SUM(CAST(quantity AS DECIMAL(18, 0)) * price), 2) AS DECIMAL(18, 2)) AS items_revenue
    FROM order_items
    GROUP BY event_id
)
SELECT
    e.event_date AS order_date,
    e.event_id,
    COALESCE(e.order_id, e.event_id) AS order_id,
    e.order_kind AS kind,
    e.identity,
    e.occurred_at AS ordered_at,
    e.received_at,
    COALESCE(e.currency, $currency) AS currency,
    CASE
        WHEN e.order_kind = 'refund' THEN -ABS(COALESCE(e.revenue, i.items_revenue, 0))
        ELSE COALESCE(e.revenue, i.items_revenue, 0)
    END AS net_revenue,
    COALESCE(i.item_lines, 0) AS item_lines,
    COALESCE(i.units, 0) AS units
FROM events AS e
LEFT JOIN item_totals AS i ON e.event_id = i.event_id
WHERE e.order_kind IS NOT NULL AND e.event_date >= $first_day AND e.event_date <= $last_day
