-- One row per identity of a customer with a named identity, as known at the end of the day.
WITH named AS (
    SELECT DISTINCT customer_id
    FROM identities
    WHERE as_of_date = $as_of AND kind = 'named' AND customer_id IS NOT NULL
)
SELECT i.identity, i.customer_id
FROM identities AS i
INNER JOIN named AS n ON i.customer_id = n.customer_id
WHERE i.as_of_date = $as_of
