-- One row per identity of a customer with at least one named identity, as of the end of the day.
SELECT
    identity,
    customer_id
FROM identities
WHERE
    as_of_date = $as_of
    AND customer_id IN (SELECT customer_id FROM identities WHERE as_of_date = $as_of AND kind = 'named')
