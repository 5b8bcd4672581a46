-- One row per customer with a named identity (and currency), and day on which they ordered or sent back: from $first_day up to
-- the end of the day, with everything before $first_day put down on that day.
SELECT
    i.customer_id,
    o.currency,
    CASE WHEN o.order_date < $first_day THEN CAST($first_day AS DATE) ELSE o.order_date END AS changed_on,
    MAX(CASE WHEN o.kind = 'order' THEN o.order_date END) AS last_order_date,
    COUNT(CASE WHEN o.kind = 'order' THEN 1 END) AS orders,
    SUM(o.net_revenue) AS net_revenue
FROM orders AS o
INNER JOIN customer_identities AS i ON o.identity = i.identity
WHERE o.order_date <= $as_of
GROUP BY i.customer_id, o.currency, CASE WHEN o.order_date < $first_day THEN CAST($first_day AS DATE) ELSE o.order_date END
