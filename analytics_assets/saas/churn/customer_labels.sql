-- One row per customer of the cut-off: whether they bought nothing in the days after it, up to $until, as known before $known_before.
-- Purchases of any identity count that was known to be theirs by then, also those joined to them after the cut-off.
WITH purchases AS (
    SELECT DISTINCT l.customer_id
    FROM known_orders AS o
    INNER JOIN later_people AS l ON o.identity = l.identity
    WHERE
        o.kind = 'order'
        AND o.net_revenue > 0
        AND o.order_date > $cut_off
        AND o.order_date <= $until
        AND o.known_at < $known_before
)
SELECT
    p.customer_id AS subject_id,
    MAX(CASE WHEN b.customer_id IS NULL THEN 0 ELSE 1 END) = 0 AS churned
FROM people AS p
LEFT JOIN later_people AS l ON p.identity = l.identity
LEFT JOIN purchases AS b ON l.customer_id = b.customer_id
GROUP BY p.customer_id
