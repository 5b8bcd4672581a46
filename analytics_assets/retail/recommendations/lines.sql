-- One row per order line up to the day `until`: whose it is as the day `as_of` knows customers (-1: of nobody who is listed), the
-- number of the product, the day, and whether it was returned. What days, weights and purchases come of it is reckoned
-- where they are many (`Lines`, `Histories`): grouping ten million lines here, by day and then by product, took two gigabytes.
WITH mine AS (
    SELECT o.event_id, p.customer
    FROM orders AS o
    INNER JOIN identities AS i ON o.identity = i.identity AND i.as_of_date = $as_of
    INNER JOIN listed_customers AS p ON i.customer_id = p.customer_id
    WHERE o.order_date <= $until
)
SELECT
    COALESCE(m.customer, -1) AS customer,
    c.product,
    i.order_date,
    i.kind = 'refund' AS returned
FROM order_items AS i
LEFT JOIN mine AS m ON i.event_id = m.event_id
INNER JOIN catalogue AS c ON i.product_id = c.product_id
WHERE i.order_date <= $until AND (i.kind = 'refund' OR i.quantity > 0)
