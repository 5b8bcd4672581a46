-- One row per identity first seen before the end of the day: when it was first seen.
SELECT identity, min(occurred_at) AS first_seen_at
FROM records
WHERE occurred_at >= $start_at AND occurred_at < $end_at
GROUP BY identity
