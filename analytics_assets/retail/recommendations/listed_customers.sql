-- One row per customer of the day, numbered by id.
SELECT ROW_NUMBER() OVER (ORDER BY customer_id) - 1 AS customer, customer_id
FROM customers
WHERE as_of_date = $as_of
GROUP BY customer_id
