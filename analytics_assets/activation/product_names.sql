-- One row per product with a name: the one on its latest line by the end of the day (of one day: the first in the alphabet).
WITH names AS (
    SELECT product_id, product_name, MAX(order_date) AS last_date
    FROM order_items
    WHERE order_date <= $as_of AND product_name IS NOT NULL
    GROUP BY product_id, product_name
),
latest AS (
    SELECT
        product_id,
        product_name,
        ROW_NUMBER() OVER (PARTITION BY product_id ORDER BY last_date DESC, product_name) AS preference
    FROM names
)
SELECT product_id, product_name
FROM latest
WHERE preference = 1
