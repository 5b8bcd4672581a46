-- One row per product that was ever ordered up to the day `until`, numbered by id, with what it is called and of which category it is.
WITH called AS (
    SELECT product_id, product_name, category, MAX(order_date) AS last_date
    FROM order_items
    WHERE kind = 'order' AND quantity > 0 AND order_date <= $until
    GROUP BY product_id, product_name, category
),
products AS (
    SELECT DISTINCT product_id FROM called
),
names AS (
    SELECT
        product_id,
        product_name,
        ROW_NUMBER() OVER (PARTITION BY product_id ORDER BY MAX(last_date) DESC, product_name DESC) AS preference
    FROM called
    WHERE TRIM(product_name) <> ''
    GROUP BY product_id, product_name
),
categories AS (
    SELECT
        product_id,
        category,
        ROW_NUMBER() OVER (PARTITION BY product_id ORDER BY MAX(last_date) DESC, category DESC) AS preference
    FROM called
    WHERE category IS NOT NULL
    GROUP BY product_id, category
)
SELECT
    ROW_NUMBER() OVER (ORDER BY p.product_id) - 1 AS product,
    p.product_id,
    COALESCE(n.product_name, p.product_id) AS name,
    c.category
FROM products AS p
LEFT JOIN names AS n ON p.product_id = n.product_id AND n.preference = 1
LEFT JOIN categories AS c ON p.product_id = c.product_id AND c.preference = 1
