-- One row per block of at most $block_rows customers with recommendations, by id: the first id of each block.
WITH customers AS (
    SELECT DISTINCT customer_id
    FROM recommendations
    WHERE as_of_date = $as_of
),
numbered AS (
    SELECT customer_id, ROW_NUMBER() OVER (ORDER BY customer_id) - 1 AS number
    FROM customers
)
SELECT customer_id AS first_id
FROM numbered
WHERE number % $block_rows = 0
ORDER BY customer_id
