-- One row per customer of a block of ids: a line of JSON with both lists, best first.
-- DuckDB only: the line is JSON, and a list of structs before that.
SELECT
    to_json({
        'customer_id': customer_id,
        'buy_again': coalesce(list({'product_id': product_id, 'basis': basis, 'reason': reason} ORDER BY rank) FILTER (list = 'buy_again'), []),
        'discover': coalesce(list({'product_id': product_id, 'basis': basis, 'reason': reason} ORDER BY rank) FILTER (list = 'discover'), [])
    }) AS line
FROM recommendations
WHERE as_of_date = $as_of AND customer_id >= $first_id AND (customer_id < $next_first_id OR $next_first_id IS NULL)
GROUP BY customer_id
ORDER BY customer_id
