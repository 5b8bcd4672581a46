-- One row per blocked identity, trait and value: when that value was last said by the end of the day. Nobody in particular said it.
SELECT i.identity, t.trait, t.value, MAX(t.last_second) AS said_second
FROM traits AS t
INNER JOIN identities AS i ON t.identity = i.identity AND i.as_of_date = $as_of
WHERE t.event_date <= $as_of AND i.kind = 'blocked'
GROUP BY i.identity, t.trait, t.value
