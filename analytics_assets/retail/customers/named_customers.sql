-- One row per customer of the day with at least one named identity.
SELECT DISTINCT customer_id
FROM identities
WHERE as_of_date = $as_of AND kind = 'named' AND customer_id IS NOT NULL
