-- One row per customer with an order (and currency): what the models know of them at the end of the day.
-- A purchase is a day with an order of more than zero. The spend is net: refunds up to the day are taken off all of it.
WITH purchase_days AS (
    SELECT i.customer_id, o.currency, o.order_date
    FROM orders AS o
    INNER JOIN identities AS i ON o.identity = i.identity AND i.as_of_date = $as_of
    WHERE o.kind = 'order' AND o.net_revenue > 0 AND o.order_date <= $as_of
    GROUP BY i.customer_id, o.currency, o.order_date
),
habits AS (
    SELECT
        customer_id,
        currency,
        COUNT(*) AS purchase_days,
        MIN(order_date) AS first_date,
        MAX(order_date) AS last_date
    FROM purchase_days
    GROUP BY customer_id, currency
)
SELECT
    c.customer_id,
    c.currency,
    c.orders,
    c.net_revenue,
    h.purchase_days,
    DATE_DIFF('day', h.first_date, h.last_date) AS recency_days,
    DATE_DIFF('day', h.first_date, CAST($as_of AS DATE)) AS age_days
FROM customers AS c
LEFT JOIN habits AS h ON c.customer_id = h.customer_id AND c.currency = h.currency
WHERE c.as_of_date = $as_of
ORDER BY c.customer_id, c.currency
