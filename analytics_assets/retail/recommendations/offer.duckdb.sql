-- One row per day and product that may be listed: sold within the days of the assortment and not excluded, nor its category.
-- What is excluded is given as it is written on the order lines.
WITH sales AS (
    SELECT product_id, order_date, MAX(category) AS category
    FROM order_items
    WHERE kind = 'order' AND quantity > 0 AND order_date <= $last_day
    GROUP BY product_id, order_date
),
known AS (
    SELECT
        d.as_of_date,
        s.product_id,
        MAX(s.order_date) AS last_sold,
        ARG_MAX(s.category, s.order_date) FILTER (s.category IS NOT NULL) AS category
    FROM (SELECT DISTINCT as_of_date FROM customers WHERE as_of_date BETWEEN $first_day AND $last_day) AS d
    JOIN sales AS s ON s.order_date <= d.as_of_date
    GROUP BY d.as_of_date, s.product_id
)
SELECT as_of_date, product_id
FROM known
WHERE last_sold > as_of_date - CAST($assortment_days AS INTEGER)
    AND NOT LIST_CONTAINS(CAST($excluded_products AS VARCHAR[]), product_id)
    AND NOT COALESCE(LIST_CONTAINS(CAST($excluded_categories AS VARCHAR[]), category), false)
