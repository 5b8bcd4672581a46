-- One row per customer of a block of ids and place in the e-mail: of the first $buy_again_first of buy_again those that the customer really bought
-- before, then discover, then what is left of buy_again, each product once.
WITH offered AS (
    SELECT
        customer_id,
        product_id,
        list,
        rank,
        CASE WHEN list = 'discover' THEN 1 WHEN rank <= $buy_again_first AND basis = 'history' THEN 0 ELSE 2 END AS turn
    FROM recommendations
    WHERE
        as_of_date = $as_of
        AND rank <= $products
        AND customer_id >= $first_id
        AND (customer_id < $next_first_id OR $next_first_id IS NULL)
),
once AS (
    SELECT
        *,
        ROW_NUMBER() OVER (PARTITION BY customer_id, product_id ORDER BY turn, rank, list) AS mention
    FROM offered
),
placed AS (
    SELECT
        customer_id,
        product_id,
        ROW_NUMBER() OVER (PARTITION BY customer_id ORDER BY turn, rank, list) AS place
    FROM once
    WHERE mention = 1
)
SELECT customer_id, place, product_id
FROM placed
WHERE place <= $products
