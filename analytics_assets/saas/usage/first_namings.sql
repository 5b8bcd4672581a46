-- One row per identity that names an account in the window and is of nobody who had named one by the evening before it: the first day.
SELECT r.identity, MIN(r.event_date) AS event_date
FROM account_records AS r
LEFT JOIN account_members AS k ON r.identity = k.identity AND k.as_of_date = $evening
WHERE r.account_id IS NOT NULL AND k.identity IS NULL
GROUP BY r.identity
