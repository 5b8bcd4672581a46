-- One row per customer with a named identity and an order (and currency), and calendar month with an order or a refund up to the
-- end of the day. Months are 12 * year + month; `period` counts them from the month of the first order in that currency.
-- A refund before the first order (of something bought before the first day) is put down in period 0.
WITH named AS (
    SELECT DISTINCT customer_id
    FROM identities
    WHERE as_of_date = $as_of AND kind = 'named' AND customer_id IS NOT NULL
),
months AS (
    SELECT
        i.customer_id,
        o.currency,
        12 * EXTRACT(YEAR FROM o.order_date) + EXTRACT(MONTH FROM o.order_date) AS order_month,
        COUNT(CASE WHEN o.kind = 'order' THEN 1 END) AS orders,
        SUM(o.net_revenue) AS net_revenue
    FROM orders AS o
    INNER JOIN identities AS i ON o.identity = i.identity AND i.as_of_date = $as_of
    INNER JOIN named AS n ON i.customer_id = n.customer_id
    WHERE o.order_date <= $as_of
    GROUP BY i.customer_id, o.currency, 12 * EXTRACT(YEAR FROM o.order_date) + EXTRACT(MONTH FROM o.order_date)
),
first_orders AS (
    SELECT customer_id, currency, MIN(order_month) AS first_month
    FROM months
    WHERE orders > 0
    GROUP BY customer_id, currency
)
SELECT
    m.customer_id,
    m.currency,
    f.first_month,
    CASE WHEN m.order_month < f.first_month THEN 0 ELSE m.order_month - f.first_month END AS period,
    CASE WHEN m.orders > 0 THEN 1 ELSE 0 END AS active,
    m.net_revenue
FROM months AS m
INNER JOIN first_orders AS f ON m.customer_id = f.customer_id AND m.currency = f.currency
