-- One row per account that stood in a band at the end of $stood_on and, by the evening before, was known to pay or to be on trial: whether
-- its contract or trial has ended since, up to the end of $as_of. What had ended by $stood_on already, though it was known only later, is
-- left out. A person who is an account may have got another name since, by a merger, and another person's name of then: what became of the
-- account is what became of whom its names belong to now.
WITH became AS (
    SELECT t.account_id, MIN(n.account_id) AS account_id_now
    FROM account_members AS t
    INNER JOIN account_members AS n ON t.identity = n.identity AND n.as_of_date = $as_of
    WHERE $people_are_accounts AND t.as_of_date = $evening
    GROUP BY t.account_id
)
SELECT
    h.account_id,
    h.band,
    h.score,
    h.trend,
    CASE WHEN a.ended_on IS NULL THEN 0 ELSE 1 END AS ended
FROM account_health AS h
INNER JOIN accounts AS k ON h.account_id = k.account_id AND k.as_of_date = $evening
LEFT JOIN became AS b ON h.account_id = b.account_id
INNER JOIN accounts AS a ON COALESCE(b.account_id_now, h.account_id) = a.account_id AND a.as_of_date = $as_of
WHERE h.band IS NOT NULL AND k.status IN ('active', 'trial') AND (a.ended_on IS NULL OR a.ended_on > CAST($stood_on AS DATE))
