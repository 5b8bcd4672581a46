-- One row per product: a line of JSON with the products to show on its page, best first.
-- DuckDB only: the line is JSON, and a list of structs before that.
SELECT
    to_json({
        'product_id': product_id,
        'related': list({'product_id': related_product_id, 'reason': reason} ORDER BY rank)
    }) AS line
FROM product_recommendations
WHERE as_of_date = $as_of
GROUP BY product_id
ORDER BY product_id
