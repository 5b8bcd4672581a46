-- One row per customer and product: what was bought and returned up to the day `until`, by customers as the day `as_of` knows them.
-- A purchase is a day on which the product was ordered; its weight, in millionths, halves with age and is 0 before `first_day`.
WITH mine AS (
    SELECT o.event_id, p.customer
    FROM orders AS o
    INNER JOIN identities AS i ON o.identity = i.identity AND i.as_of_date = $as_of
    INNER JOIN listed_customers AS p ON i.customer_id = p.customer_id
    WHERE o.order_date <= $until
),
days AS (
    SELECT
        m.customer,
        c.product,
        i.order_date,
        MAX(CASE WHEN i.kind = 'order' AND i.quantity > 0 THEN 1 ELSE 0 END) AS bought,
        MAX(CASE WHEN i.kind = 'refund' THEN 1 ELSE 0 END) AS returned
    FROM order_items AS i
    INNER JOIN mine AS m ON i.event_id = m.event_id
    INNER JOIN catalogue AS c ON i.product_id = c.product_id
    WHERE i.order_date <= $until AND (i.kind = 'refund' OR i.quantity > 0)
    GROUP BY m.customer, c.product, i.order_date
),
aged AS (
    SELECT *, DATE_DIFF('day', order_date, CAST($until AS DATE)) AS age
    FROM days
),
weighed AS (
    SELECT
        customer,
        product,
        bought,
        returned,
        CASE WHEN bought = 1 THEN order_date END AS bought_on,
        CASE
            WHEN bought = 1 AND order_date >= $first_day
                THEN CAST(FLOOR(1000000 * POWER(0.5, CAST(age AS DOUBLE) / $history_half_life)) AS BIGINT)
            ELSE 0
        END AS weight
    FROM aged
)
SELECT
    customer,
    product,
    CAST(SUM(bought) AS BIGINT) AS purchases,
    MAX(bought_on) AS last_date,
    MAX(returned) AS returned,
    CAST(SUM(weight) AS BIGINT) AS weight
FROM weighed
GROUP BY customer, product
