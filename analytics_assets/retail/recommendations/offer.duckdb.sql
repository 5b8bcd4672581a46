-- One row per day and product that may be listed: sold within the days of the assortment and not excluded, nor its category.
-- What is excluded is given as it is written on the order lines.
WITH days AS (
    SELECT DISTINCT as_of_date FROM customers WHERE as_of_date BETWEEN $first_day AND $last_day
),
lines AS (
    SELECT product_id, order_date, category
    FROM order_items
    WHERE kind = 'order' AND quantity > 0 AND order_date <= $last_day
),
-- Of what was sold up to the first day the newest sale tells: it is the last to fall out of the assortment.
sales AS (
    SELECT product_id, MAX(order_date) AS order_date
    FROM lines
    WHERE order_date > CAST($first_day AS DATE) - CAST($assortment_days AS INTEGER)
    GROUP BY product_id, GREATEST(order_date, CAST($first_day AS DATE))
),
suspects AS (
    SELECT DISTINCT product_id FROM lines WHERE LIST_CONTAINS(CAST($excluded_categories AS VARCHAR[]), category)
),
-- The category of the day is that of the newest line that has one.
excluded AS (
    SELECT d.as_of_date, l.product_id
    FROM days AS d
    JOIN (FROM lines SEMI JOIN suspects USING (product_id) WHERE category IS NOT NULL) AS l ON l.order_date <= d.as_of_date
    GROUP BY d.as_of_date, l.product_id
    HAVING LIST_CONTAINS(CAST($excluded_categories AS VARCHAR[]), ARG_MAX(l.category, (l.order_date, l.category)))
)
SELECT DISTINCT d.as_of_date, s.product_id
FROM days AS d
JOIN sales AS s ON s.order_date <= d.as_of_date AND s.order_date > d.as_of_date - CAST($assortment_days AS INTEGER)
ANTI JOIN excluded AS e ON e.as_of_date = d.as_of_date AND e.product_id = s.product_id
WHERE NOT LIST_CONTAINS(CAST($excluded_products AS VARCHAR[]), s.product_id)
