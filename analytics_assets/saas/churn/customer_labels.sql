-- One row per customer of the cut-off who bought in the days after it, up to $label_until, as known before $known_before.
-- Purchases of any identity count that was known to be theirs by then, also those joined to them after the cut-off.
WITH buyers AS (
    SELECT DISTINCT l.customer_id
    FROM orders AS o
    INNER JOIN customers_later AS l ON o.identity = l.identity
    WHERE
        o.kind = 'order'
        AND o.net_revenue > 0
        AND o.order_date > $cut_off
        AND o.order_date <= $label_until
        AND COALESCE(o.received_at, o.ordered_at) < $known_before
)
SELECT DISTINCT p.customer_id AS subject_id
FROM customers_then AS p
INNER JOIN customers_later AS l ON p.identity = l.identity
INNER JOIN buyers AS b ON l.customer_id = b.customer_id
