-- One row per day and order line that closes a product to a customer: returned or bought, and then whether it is at rest as well,
-- which closes it to `buy_again` too; what was returned no reason may name.
-- Straight from orders and identities. Customers, products and events are hashes of their ids, a quarter of the memory: should forty
-- million places of lists meet one of ten million closed ones by chance (2 in 10**5), the checks would be too strict, never too lax.
WITH mine AS (
    SELECT i.as_of_date, HASH(o.event_id) AS event, i.customer
    FROM (SELECT as_of_date, identity, HASH(customer_id) AS customer FROM identities) AS i
    JOIN orders AS o ON o.identity = i.identity AND o.order_date <= i.as_of_date
    WHERE i.as_of_date BETWEEN $first_day AND $last_day
),
lines AS (
    SELECT HASH(event_id) AS event, HASH(product_id) AS product, kind = 'refund' AS returned, order_date
    FROM order_items
    WHERE kind = 'refund' OR (kind = 'order' AND quantity > 0)
)
SELECT
    m.as_of_date,
    m.customer,
    l.product,
    l.returned,
    l.returned OR l.order_date > m.as_of_date - CAST($rest_days AS INTEGER) AS at_rest
FROM mine AS m
JOIN lines AS l ON l.event = m.event
