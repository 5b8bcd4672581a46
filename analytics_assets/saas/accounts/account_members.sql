-- One row per identity of a person who had named an account by the end of the day: the account that the person named last.
-- Where people are accounts, one row per identity of everybody who was seen: the person.
WITH seen AS (
    SELECT DISTINCT user_id
    FROM people
    WHERE first_seen_date IS NOT NULL
),
named_last AS (
    SELECT
        p.user_id,
        r.account_id,
        ROW_NUMBER() OVER (PARTITION BY p.user_id ORDER BY r.occurred_second DESC, r.record_id DESC) AS newest
    FROM namings AS r
    INNER JOIN people AS p ON r.identity = p.identity
    WHERE r.event_date <= $as_of
)
SELECT
    CAST($as_of AS DATE) AS as_of_date,
    p.identity,
    p.user_id,
    CASE WHEN $people_are_accounts THEN p.user_id ELSE n.account_id END AS account_id
FROM people AS p
LEFT JOIN named_last AS n ON p.user_id = n.user_id AND n.newest = 1
LEFT JOIN seen AS s ON p.user_id = s.user_id
WHERE CASE WHEN $people_are_accounts THEN s.user_id ELSE n.account_id END IS NOT NULL
