-- One row per order line of a customer up to the day `until`: the product that was bought or returned, and how many days before;
-- customers as the day `as_of` knows them. What days, weights and purchases come of it is reckoned where they are many
-- (`Histories.of_lines`): grouping ten million lines here, by day and then by product, took two gigabytes.
WITH mine AS (
    SELECT o.event_id, p.customer
    FROM orders AS o
    INNER JOIN identities AS i ON o.identity = i.identity AND i.as_of_date = $as_of
    INNER JOIN listed_customers AS p ON i.customer_id = p.customer_id
    WHERE o.order_date <= $until
)
SELECT
    m.customer,
    c.product,
    DATE_DIFF('day', i.order_date, CAST($until AS DATE)) AS age,
    CASE WHEN i.kind = 'refund' THEN 1 ELSE 0 END AS returned
FROM order_items AS i
INNER JOIN mine AS m ON i.event_id = m.event_id
INNER JOIN catalogue AS c ON i.product_id = c.product_id
WHERE i.order_date <= $until AND (i.kind = 'refund' OR i.quantity > 0)
