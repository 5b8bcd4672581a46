-- The rows of at most $most_customers customers of each currency, evenly spread over the list of customers.
WITH customers_of_currency AS (
    SELECT DISTINCT customer_id, currency
    FROM order_changes
),
numbered AS (
    SELECT
        customer_id,
        currency,
        ROW_NUMBER() OVER (PARTITION BY currency ORDER BY customer_id) AS number,
        CEIL(COUNT(*) OVER (PARTITION BY currency) / $most_customers) AS step
    FROM customers_of_currency
)
SELECT c.customer_id, c.currency, c.changed_on, c.last_order_date, c.orders, c.net_revenue
FROM order_changes AS c
INNER JOIN numbered AS n ON c.customer_id = n.customer_id AND c.currency = n.currency
WHERE n.number % n.step = 0
