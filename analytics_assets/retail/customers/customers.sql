-- One row per customer with a named identity (and currency): the orders up to the end of the day, refunds taken off.
SELECT
    CAST($as_of AS DATE) AS as_of_date,
    i.customer_id,
    MIN(CASE WHEN o.kind = 'order' THEN o.order_date END) AS first_order_date,
    MAX(CASE WHEN o.kind = 'order' THEN o.order_date END) AS last_order_date,
    COUNT(CASE WHEN o.kind = 'order' THEN 1 END) AS orders,
    COUNT(CASE WHEN o.kind = 'refund' THEN 1 END) AS refunds,
    o.currency,
    SUM(o.net_revenue) AS net_revenue
FROM orders AS o
INNER JOIN identities AS i ON o.identity = i.identity AND i.as_of_date = $as_of
INNER JOIN named_customers AS n ON i.customer_id = n.customer_id
WHERE o.order_date <= $as_of
GROUP BY i.customer_id, o.currency
