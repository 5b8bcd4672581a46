-- One row per identity, day on which it named an account, and business day by whose end that had been received: the last that it named.
WITH received AS (
    SELECT *, CAST(COALESCE(received_at, occurred_at) AT TIME ZONE $time_zone AS DATE) AS received_date
    FROM account_records
    WHERE account_id IS NOT NULL
),
placed AS (
    SELECT
        identity,
        event_date,
        received_date,
        occurred_second,
        record_id,
        account_id,
        ROW_NUMBER() OVER (
            PARTITION BY identity, event_date, received_date ORDER BY occurred_second DESC, record_id DESC
        ) AS newest
    FROM received
)
SELECT identity, event_date, received_date, occurred_second, record_id, account_id
FROM placed
WHERE newest = 1
