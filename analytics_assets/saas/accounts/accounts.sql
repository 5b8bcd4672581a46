-- One row per account that had been named by the end of the day: its plan and seats, and where its contract stands.
WITH known AS (
    SELECT account_id, MIN(event_date) AS first_seen_date
    FROM account_records
    WHERE account_id IS NOT NULL AND event_date <= $as_of AND NOT $people_are_accounts
    GROUP BY account_id
    UNION ALL
    SELECT p.user_id AS account_id, MIN(p.first_seen_date) AS first_seen_date
    FROM people AS p
    WHERE p.first_seen_date <= $as_of AND $people_are_accounts
    GROUP BY p.user_id
)
SELECT
    CAST($as_of AS DATE) AS as_of_date,
    k.account_id,
    k.first_seen_date,
    COALESCE(s.status, 'unbilled') AS status,
    s.plan,
    s.seats,
    s.currency,
    s.mrr,
    s.billed_since,
    COALESCE(s.renewals, 0) AS renewals,
    s.paid_through,
    s.ended_on
FROM known AS k
LEFT JOIN standing AS s ON k.account_id = s.account_id
