-- One row per customer, trait and value: when that value was last said by the end of the day, over all of the customer's identities.
SELECT i.customer_id, t.trait, t.value, MAX(t.last_second) AS said_second
FROM traits AS t
INNER JOIN identities AS i ON t.identity = i.identity AND i.as_of_date = $as_of
WHERE t.event_date <= $as_of AND i.customer_id IS NOT NULL
GROUP BY i.customer_id, t.trait, t.value
