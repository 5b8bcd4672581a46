-- One row per record that tells of an account, happened by the end of the day and was known before $end_at.
-- The account is the one that the record names, else the one that its person had named last at that second.
-- A bill pays through the same day of the month, so many months on (the 31st of a shorter month is its last day); a part of a
-- month counts in thirtieths, and a bill that does not say how long is for one month. One below zero is a credit note and no bill.
WITH filled AS (
    SELECT
        r.*,
        w.user_id,
        LAST_VALUE(r.account_id IGNORE NULLS) OVER (
            PARTITION BY COALESCE(w.user_id, r.record_id)
            ORDER BY r.occurred_second, CASE WHEN r.account_id IS NULL THEN 1 ELSE 0 END, r.record_id
            ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ) AS account_named
    FROM account_records AS r
    LEFT JOIN users AS w ON r.identity = w.identity
    WHERE r.event_date <= $as_of AND COALESCE(r.received_at, r.occurred_at) < $end_at
),
attributed AS (
    SELECT
        CASE WHEN $people_are_accounts THEN user_id ELSE account_named END AS account_id,
        event_date,
        occurred_second,
        record_id,
        CASE WHEN kind = 'billed' AND amount < 0 THEN 'credit note' ELSE kind END AS kind,
        plan,
        seats,
        amount,
        months,
        12 * EXTRACT(YEAR FROM event_date) + EXTRACT(MONTH FROM event_date) - 1 + FLOOR(COALESCE(months, 1)) AS due_month,
        ROUND(30 * (COALESCE(months, 1) - FLOOR(COALESCE(months, 1)))) AS due_days
    FROM filled
),
months_due AS (
    SELECT
        *,
        MAKE_DATE(
            CAST(FLOOR(due_month / 12) AS INTEGER), CAST(ROUND(due_month - 12 * FLOOR(due_month / 12)) AS INTEGER) + 1, 1
        ) AS month_due
    FROM attributed
    WHERE account_id IS NOT NULL
)
SELECT
    account_id,
    event_date,
    occurred_second,
    record_id,
    kind,
    plan,
    seats,
    amount,
    months,
    CASE
        WHEN kind = 'billed'
            THEN month_due + CAST(
                ROUND(LEAST(EXTRACT(DAY FROM event_date), EXTRACT(DAY FROM LAST_DAY(month_due))) - 1 + due_days) AS INTEGER
            )
    END AS paid_through
FROM months_due
