-- One row per customer with a named identity (and currency), and calendar month (12 * year + month) with an order or a refund up to
-- the end of the day. Days count from 2000-01-01.
SELECT
    i.customer_id,
    o.currency,
    12 * EXTRACT(YEAR FROM o.order_date) + EXTRACT(MONTH FROM o.order_date) AS month,
    MAX(CASE WHEN o.kind = 'order' THEN DATE_DIFF('day', DATE '2000-01-01', o.order_date) END) AS last_order_day,
    COUNT(CASE WHEN o.kind = 'order' THEN 1 END) AS orders,
    SUM(o.net_revenue) AS net_revenue
FROM orders AS o
INNER JOIN customer_identities AS i ON o.identity = i.identity
WHERE o.order_date <= $as_of
GROUP BY i.customer_id, o.currency, 12 * EXTRACT(YEAR FROM o.order_date) + EXTRACT(MONTH FROM o.order_date)
