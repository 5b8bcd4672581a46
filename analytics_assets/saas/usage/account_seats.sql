-- One row per account and hour in which its seats were named: the number named last, from that hour until before `until_hour`.
-- A record that names no account belongs to the one that its person named last at that second.
WITH spelt AS (
    SELECT
        r.*,
        d.evening_before,
        CASE WHEN $fold_email_case AND r.identity LIKE '%@%' THEN LOWER(r.identity) ELSE r.identity END AS spelling
    FROM account_records AS r
    INNER JOIN usage_days AS d ON r.event_date = d.event_date
    WHERE r.occurred_second < d.end_second
),
people AS (
    SELECT
        r.*,
        COALESCE(k.user_id, r.spelling) AS user_id,
        LIST_CONTAINS($blocked, LOWER(TRIM(r.identity))) AS is_shared
    FROM spelt AS r
    LEFT JOIN known_names AS k ON r.evening_before = k.as_of_date AND r.spelling = k.name
),
memberships AS (
    SELECT DISTINCT as_of_date, user_id, account_id
    FROM account_members
    WHERE superseded_date IS NULL
),
in_order AS (
    SELECT
        *,
        LAST_VALUE(CASE WHEN NOT is_shared THEN account_id END IGNORE NULLS) OVER (
            PARTITION BY event_date, user_id
            ORDER BY occurred_second, CASE WHEN account_id IS NULL THEN 1 ELSE 0 END, record_id
            ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ) AS named_account
    FROM people
),
attributed AS (
    SELECT
        o.event_date,
        o.hour,
        o.occurred_second,
        o.record_id,
        o.seats,
        CASE
            WHEN NOT $people_are_accounts AND o.account_id IS NOT NULL THEN o.account_id
            WHEN o.is_shared THEN NULL
            WHEN $people_are_accounts THEN o.user_id
            ELSE COALESCE(o.named_account, k.account_id)
        END AS account_id
    FROM in_order AS o
    LEFT JOIN memberships AS k ON o.evening_before = k.as_of_date AND o.user_id = k.user_id
    WHERE o.seats IS NOT NULL
),
numbered AS (
    SELECT
        event_date,
        hour,
        account_id,
        seats,
        ROW_NUMBER() OVER (PARTITION BY account_id, hour ORDER BY occurred_second DESC, record_id DESC) AS newest
    FROM attributed
    WHERE account_id IS NOT NULL
)
SELECT
    event_date,
    hour,
    account_id,
    seats,
    LEAD(hour) OVER (PARTITION BY event_date, account_id ORDER BY hour) AS until_hour
FROM numbered
WHERE newest = 1
