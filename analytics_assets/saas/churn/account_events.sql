-- One row per account of whose people somebody did one of the named events in the days after the cut-off, as known before $known_before.
-- An event belongs to the account that it names, else to the one that its person had named last at that second.
-- Who is one person with whom, and who named what, is what was known by then, not at the cut-off. Where people are accounts, the person.
WITH did AS (
    SELECT e.event_id AS record_id, e.occurred_second, e.account_id, p.user_id
    FROM label_events AS e
    LEFT JOIN people AS p ON e.identity = p.identity
    WHERE
        e.event_date > $cut_off
        AND e.event_date <= $label_until
        AND COALESCE(e.received_at, e.occurred_at) < $known_before
),
who_leaves_it_unsaid AS (
    SELECT DISTINCT user_id
    FROM did
    WHERE account_id IS NULL
),
moments AS (
    SELECT record_id, occurred_second, account_id, user_id, 1 AS is_event
    FROM did
    UNION ALL
    SELECT r.record_id, r.occurred_second, r.account_id, p.user_id, 0 AS is_event
    FROM account_records AS r
    INNER JOIN people AS p ON r.identity = p.identity
    INNER JOIN who_leaves_it_unsaid AS w ON p.user_id = w.user_id
    WHERE r.account_id IS NOT NULL AND r.event_date <= $label_until AND COALESCE(r.received_at, r.occurred_at) < $known_before
),
named_last AS (
    SELECT
        *,
        LAST_VALUE(account_id IGNORE NULLS) OVER (
            PARTITION BY user_id
            ORDER BY occurred_second, CASE WHEN account_id IS NULL THEN 1 ELSE 0 END, record_id, is_event
            ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ) AS last_account
    FROM moments
)
SELECT DISTINCT
    CASE
        WHEN $people_are_accounts THEN user_id
        WHEN account_id IS NOT NULL THEN account_id
        WHEN user_id IS NOT NULL THEN last_account
    END AS account_id
FROM named_last
WHERE is_event = 1
