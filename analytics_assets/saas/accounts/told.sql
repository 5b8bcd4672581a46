-- One row per record that tells of an account by the end of the day, numbered by account in the order of time.
-- The account is the one that the record names, else the one that its person had named last at that second.
WITH filled AS (
    SELECT
        r.*,
        p.user_id,
        LAST_VALUE(r.account_id IGNORE NULLS) OVER (
            PARTITION BY COALESCE(p.user_id, r.record_id)
            ORDER BY r.occurred_second, CASE WHEN r.account_id IS NULL THEN 1 ELSE 0 END, r.record_id
            ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ) AS account_named
    FROM account_records AS r
    LEFT JOIN people AS p ON r.identity = p.identity
    WHERE r.event_date <= $as_of
),
attributed AS (
    SELECT
        CASE WHEN $people_are_accounts THEN user_id ELSE account_named END AS account_id,
        event_date,
        occurred_second,
        record_id,
        kind,
        plan,
        seats,
        amount,
        COALESCE(months, 1) AS months,
        months AS months_named,
        currency
    FROM filled
)
SELECT
    *,
    ROW_NUMBER() OVER (PARTITION BY account_id ORDER BY occurred_second, record_id) AS place
FROM attributed
WHERE account_id IS NOT NULL
