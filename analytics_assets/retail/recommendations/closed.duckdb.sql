-- One row per day and order line that closes a product to a customer: returned or bought, and then whether it is at rest as well,
-- which closes it to `buy_again` too; what was returned no reason may name.
-- Straight from orders and identities. Customers and products are hashes of their ids, a quarter of the memory: should forty
-- million places of lists meet one of ten million closed ones by chance (2 in 10**5), the checks would be too strict, never too lax.
WITH mine AS (
    SELECT i.as_of_date, o.event_id, i.customer
    FROM (SELECT as_of_date, identity, HASH(customer_id) AS customer FROM identities) AS i
    JOIN orders AS o ON o.identity = i.identity AND o.order_date <= i.as_of_date
    WHERE i.as_of_date BETWEEN $first_day AND $last_day
)
SELECT
    m.as_of_date,
    m.customer,
    HASH(t.product_id) AS product,
    t.kind = 'refund' AS returned,
    t.kind = 'refund' OR t.order_date > m.as_of_date - CAST($rest_days AS INTEGER) AS at_rest
FROM mine AS m
JOIN order_items AS t ON t.event_id = m.event_id
WHERE t.kind = 'refund' OR (t.kind = 'order' AND t.quantity > 0)
