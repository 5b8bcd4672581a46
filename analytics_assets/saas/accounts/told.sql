-- One row per record that tells of an account's plan, seats or contract, happened by the end of the day and was received before
-- $known_before, numbered by account in the order of time.
-- The account is the one that the record names, else the one that its person had named last at that second.
WITH known AS (
    SELECT r.*, p.user_id
    FROM account_records AS r
    LEFT JOIN people AS p ON r.identity = p.identity
    WHERE r.event_date <= $as_of AND COALESCE(r.received_at, r.occurred_at) < $known_before
),
who_leaves_it_unsaid AS (
    SELECT DISTINCT user_id
    FROM known
    WHERE account_id IS NULL AND user_id IS NOT NULL
),
named_last AS (
    SELECT
        k.record_id,
        LAST_VALUE(k.account_id IGNORE NULLS) OVER (
            PARTITION BY k.user_id
            ORDER BY k.occurred_second, CASE WHEN k.account_id IS NULL THEN 1 ELSE 0 END, k.record_id
            ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ) AS account_id
    FROM known AS k
    INNER JOIN who_leaves_it_unsaid AS w ON k.user_id = w.user_id
),
attributed AS (
    SELECT
        CASE WHEN $people_are_accounts THEN k.user_id ELSE COALESCE(k.account_id, n.account_id) END AS account_id,
        k.event_date,
        k.occurred_second,
        k.record_id,
        k.kind,
        k.plan,
        k.seats,
        k.amount,
        COALESCE(k.months, 1) AS months,
        k.months AS months_named,
        k.currency
    FROM known AS k
    LEFT JOIN named_last AS n ON k.record_id = n.record_id
    WHERE k.kind IS NOT NULL OR k.plan IS NOT NULL OR k.seats IS NOT NULL
)
SELECT
    *,
    ROW_NUMBER() OVER (PARTITION BY account_id ORDER BY occurred_second, record_id) AS place
FROM attributed
WHERE account_id IS NOT NULL
