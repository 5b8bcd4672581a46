-- One row per identity that names an account in the days of the window and is of nobody who had named one by the evening before them:
-- when it first does.
SELECT r.identity, MIN(r.occurred_at) AS first_seen_at
FROM account_records AS r
LEFT JOIN account_members AS k ON r.identity = k.identity AND k.as_of_date = $evening
WHERE r.account_id IS NOT NULL AND k.identity IS NULL
GROUP BY r.identity
