-- One row per identity and day on which it named an account: the last that it named.
WITH placed AS (
    SELECT
        identity,
        event_date,
        occurred_second,
        record_id,
        account_id,
        ROW_NUMBER() OVER (PARTITION BY identity, event_date ORDER BY occurred_second DESC, record_id DESC) AS newest
    FROM account_records
    WHERE account_id IS NOT NULL
)
SELECT identity, event_date, occurred_second, record_id, account_id
FROM placed
WHERE newest = 1
