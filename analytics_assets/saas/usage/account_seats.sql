-- One row per account and hour in which its seats were named: the number named last, from that hour until before `until_hour`.
-- A record that names no account belongs to the one that its person named last at that second.
WITH people AS (
    SELECT
        r.*,
        COALESCE(j.user_id, k.user_id, r.identity) AS user_id,
        k.account_id AS evening_account,
        LIST_CONTAINS($blocked, LOWER(TRIM(r.identity))) AS is_shared
    FROM account_records AS r
    INNER JOIN usage_days AS d ON r.event_date = d.event_date
    LEFT JOIN joined_identities AS j ON d.evening_before = j.as_of_date AND r.identity = j.identity
    LEFT JOIN account_members AS k
        ON d.evening_before = k.as_of_date AND r.identity = k.identity AND k.superseded_date IS NULL
    WHERE r.occurred_second < d.end_second
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
        event_date,
        hour,
        occurred_second,
        record_id,
        seats,
        CASE
            WHEN NOT $people_are_accounts AND account_id IS NOT NULL THEN account_id
            WHEN is_shared THEN NULL
            WHEN $people_are_accounts THEN user_id
            ELSE COALESCE(named_account, evening_account)
        END AS account_id
    FROM in_order
    WHERE seats IS NOT NULL
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
