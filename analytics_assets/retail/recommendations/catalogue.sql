-- One row per product that was ever ordered up to the day `until`: what it is called, and how well it sells of late.
-- Sales are weighed by age, in whole millionths: these add up to the same sum in any order. The lines are read once.
WITH lines AS (
    SELECT product_id, product_name, category, order_date, DATE_DIFF('day', order_date, CAST($until AS DATE)) AS age
    FROM order_items
    WHERE kind = 'order' AND quantity > 0 AND order_date <= $until
),
weighed AS (
    SELECT
        product_id,
        product_name,
        category,
        order_date,
        CASE
            WHEN order_date >= $first_day
                THEN CAST(FLOOR(1000000 * POWER(0.5, CAST(age AS DOUBLE) / $history_half_life)) AS BIGINT)
            ELSE 0
        END AS sold,
        CASE
            WHEN order_date >= $first_day
                THEN CAST(FLOOR(1000000 * POWER(0.5, CAST(age AS DOUBLE) / $trend_half_life)) AS BIGINT)
            ELSE 0
        END AS sold_lately
    FROM lines
),
called AS (
    SELECT
        product_id,
        product_name,
        category,
        MAX(order_date) AS last_date,
        SUM(sold) AS sold,
        SUM(sold_lately) AS sold_lately
    FROM weighed
    GROUP BY product_id, product_name, category
),
sales AS (
    SELECT
        product_id,
        MAX(last_date) AS last_date,
        CAST(SUM(sold) AS BIGINT) AS sold,
        CAST(SUM(sold_lately) AS BIGINT) AS sold_lately
    FROM called
    GROUP BY product_id
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
    ROW_NUMBER() OVER (ORDER BY s.product_id) - 1 AS product,
    s.product_id,
    COALESCE(n.product_name, s.product_id) AS name,
    c.category,
    s.last_date,
    s.sold,
    s.sold_lately
FROM sales AS s
LEFT JOIN names AS n ON s.product_id = n.product_id AND n.preference = 1
LEFT JOIN categories AS c ON s.product_id = c.product_id AND c.preference = 1
