-- One row per turn of a contract: what it says of the time that is paid for, and the instant by which it was known.
-- A month is a twelfth of 365.25 days, rounded up to whole days; a bill that does not say how long is for one month.
SELECT
    account_id,
    event_date AS turn_date,
    occurred_second,
    record_id,
    kind,
    amount,
    months,
    CASE
        WHEN kind = 'billed'
            THEN event_date + CAST(CEIL(CAST(COALESCE(months, 1) AS DOUBLE) * 30.4375) AS INTEGER)
    END AS paid_through,
    COALESCE(received_at, occurred_at) AS known_at
FROM account_records
WHERE kind IS NOT NULL AND account_id IS NOT NULL AND event_date <= $as_of
