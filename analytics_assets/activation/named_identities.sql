-- One row per named identity of the day: in many shops people are named by their e-mail address.
SELECT customer_id, identity
FROM identities
WHERE as_of_date = $as_of AND kind = 'named' AND customer_id IS NOT NULL
