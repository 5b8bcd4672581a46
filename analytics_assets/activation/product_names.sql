-- One row per product with a name: the one on its latest sold line by the end of the day (of one day: the last in the alphabet),
-- as in the reasons of recommendations. What stands on returns and stock corrections ("damages", or nothing) is no name.
WITH names AS (
    SELECT product_id, product_name, MAX(order_date) AS last_date
    FROM order_items
    WHERE kind = 'order' AND quantity > 0 AND order_date <= $as_of AND TRIM(product_name) <> ''
    GROUP BY product_id, product_name
),
latest AS (
    SELECT
        product_id,
        product_name,
        ROW_NUMBER() OVER (PARTITION BY product_id ORDER BY last_date DESC, product_name DESC) AS preference
    FROM names
)
SELECT product_id, product_name
FROM latest
WHERE preference = 1
