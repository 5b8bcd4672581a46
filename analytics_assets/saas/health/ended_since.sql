-- One row per account that stood in a band at the end of $stood_on and was known by the evening before: whether its contract has
-- ended since, up to the end of $as_of. What had ended by $stood_on already, though it was known only later, is left out.
SELECT
    h.account_id,
    h.band,
    h.score,
    h.trend,
    CASE WHEN a.ended_on IS NULL THEN 0 ELSE 1 END AS ended
FROM account_health AS h
INNER JOIN accounts AS k ON h.account_id = k.account_id AND k.as_of_date = $evening
INNER JOIN accounts AS a ON h.account_id = a.account_id AND a.as_of_date = $as_of
WHERE h.band IS NOT NULL AND (a.ended_on IS NULL OR a.ended_on > CAST($stood_on AS DATE))
