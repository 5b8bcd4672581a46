-- One row per day, list, customer and product that may not stand in it: returned, bought before, or still at rest.
-- Straight from orders and identities. Customers and products are hashes of their ids, a quarter of the memory: should two of a
-- million customers share one (a chance of 3 in 10**8), the checks would be too strict, and never too lax.
WITH mine AS (
    SELECT
        i.as_of_date,
        HASH(i.customer_id) AS customer,
        HASH(t.product_id) AS product,
        MAX(t.order_date) FILTER (t.kind = 'order' AND t.quantity > 0) AS last_bought,
        BOOL_OR(t.kind = 'refund') AS returned
    FROM identities AS i
    JOIN orders AS o ON o.identity = i.identity AND o.order_date <= i.as_of_date
    JOIN order_items AS t ON t.event_id = o.event_id
    WHERE i.as_of_date BETWEEN $first_day AND $last_day
    GROUP BY ALL
)
SELECT as_of_date, list, customer, product
FROM mine, (VALUES ('buy_again'), ('discover')) AS k (list)
WHERE returned
    OR (list = 'discover' AND last_bought IS NOT NULL)
    OR (list = 'buy_again' AND last_bought > as_of_date - CAST($rest_days AS INTEGER))
