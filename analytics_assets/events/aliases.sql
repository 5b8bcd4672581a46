-- One row per alias: the pair, and when it was known (received, or else said to have happened).
SELECT identity, other_identity, min(coalesce(received_at, occurred_at)) AS known_at
FROM records
WHERE kind = 'alias'
GROUP BY identity, other_identity
