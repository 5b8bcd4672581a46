-- One row per customer, currency and day on which they bought or returned something, up to the end of the day.
-- Customers are a sample: those whose MD5 digest begins with digits that sort before $below; 'g' takes all.
WITH sampled AS (
    SELECT identity, customer_id
    FROM customer_identities
    WHERE MD5(customer_id) < $below
)
SELECT
    s.customer_id,
    o.currency,
    o.order_date AS day,
    MAX(CASE WHEN o.kind = 'order' AND o.net_revenue > 0 THEN 1 ELSE 0 END) = 1 AS purchase,
    SUM(o.net_revenue) AS net_revenue
FROM orders AS o
INNER JOIN sampled AS s ON o.identity = s.identity
WHERE o.order_date <= $as_of
GROUP BY s.customer_id, o.currency, o.order_date
