-- One row per line of an order or refund, on the business day of the order.
-- A line belongs to the person's latest order at or before it, at most $window_seconds back; a returned line to a refund.
-- Order events are read from the day's first second to the end of the window after midnight, so that a line after midnight
-- finds the order of the day before, and not an earlier one when the new day has an order of its own.
WITH order_events AS (
    SELECT event_id, event_date, identity, order_kind, order_id, occurred_second, product_id, product_name, category, price, quantity
    FROM events
    WHERE order_kind IS NOT NULL
),
candidates AS (
    SELECT
        s.set_id,
        s.product_id,
        s.product_name,
        s.category,
        s.price,
        s.quantity,
        s.occurred_second AS line_second,
        o.event_id,
        ROW_NUMBER() OVER (PARTITION BY s.set_id ORDER BY o.occurred_second DESC, o.event_id DESC) AS preference
    FROM property_sets AS s
    INNER JOIN order_events AS o
        ON s.identity = o.identity
        AND o.occurred_second <= s.occurred_second
        AND o.occurred_second >= s.occurred_second - $window_seconds
        AND (s.item_kind = 'order' OR o.order_kind = 'refund')
    WHERE s.item_kind IS NOT NULL
),
lines AS (
    SELECT event_id, line_second, 1 AS source, set_id AS line_id, product_id, product_name, category, price, quantity
    FROM candidates
    WHERE preference = 1
    UNION ALL
    SELECT event_id, occurred_second AS line_second, 0 AS source, event_id AS line_id, product_id, product_name, category, price, quantity
    FROM order_events
    WHERE product_id IS NOT NULL
)
SELECT
    o.event_date AS order_date,
    o.event_id,
    COALESCE(o.order_id, o.event_id) AS order_id,
    o.order_kind AS kind,
    ROW_NUMBER() OVER (PARTITION BY o.event_id ORDER BY l.line_second, l.source, l.line_id) AS line,
    l.product_id,
    l.product_name,
    l.category,
    CASE WHEN o.order_kind = 'refund' THEN -ABS(COALESCE(l.quantity, 1)) ELSE COALESCE(l.quantity, 1) END AS quantity,
    CASE WHEN o.order_kind = 'refund' THEN ABS(l.price) ELSE l.price END AS price
FROM lines AS l
INNER JOIN order_events AS o ON l.event_id = o.event_id
WHERE o.event_date >= $first_day AND o.event_date <= $last_day
