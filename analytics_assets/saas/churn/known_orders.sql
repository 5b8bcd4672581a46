-- One row per order or refund up to the end of the day, with the instant by which it was known: received, or else said to have happened.
WITH receipts AS (
    SELECT event_id, received_at
    FROM events
    WHERE order_kind IS NOT NULL AND event_date <= $as_of
)
SELECT
    o.event_id,
    o.order_date,
    o.kind,
    o.identity,
    o.currency,
    o.net_revenue,
    COALESCE(r.received_at, o.ordered_at) AS known_at
FROM orders AS o
LEFT JOIN receipts AS r ON o.event_id = r.event_id
WHERE o.order_date <= $as_of
