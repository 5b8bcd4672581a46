-- One row per paid contract that had begun by the end of the day, as it was known before $end_at.
-- It ends on the day on which it is cancelled, or grace days after the time that was paid for unless it is billed again.
WITH known AS (
    SELECT
        account_id,
        turn_date,
        occurred_second,
        record_id,
        kind,
        months,
        paid_through,
        LAG(kind) OVER (PARTITION BY account_id ORDER BY occurred_second, record_id) AS kind_before,
        LAG(paid_through) OVER (PARTITION BY account_id ORDER BY occurred_second, record_id) AS paid_before
    FROM turns
    WHERE kind IN ('billed', 'canceled') AND turn_date <= $as_of AND known_at < $end_at
),
numbered AS (
    SELECT
        account_id,
        turn_date,
        occurred_second,
        record_id,
        kind,
        months,
        paid_through,
        SUM(
            CASE
                WHEN kind = 'billed'
                    AND (COALESCE(kind_before, 'canceled') = 'canceled' OR turn_date > paid_before + CAST($grace_days AS INTEGER))
                    THEN 1
                ELSE 0
            END
        ) OVER (PARTITION BY account_id ORDER BY occurred_second, record_id) AS contract
    FROM known
),
latest_bill AS (
    SELECT
        account_id,
        contract,
        months,
        paid_through,
        ROW_NUMBER() OVER (PARTITION BY account_id, contract ORDER BY occurred_second DESC, record_id DESC) AS place
    FROM numbered
    WHERE kind = 'billed'
),
spans AS (
    SELECT
        account_id,
        contract,
        MIN(CASE WHEN kind = 'billed' THEN turn_date END) AS billed_since,
        SUM(CASE WHEN kind = 'billed' THEN 1 ELSE 0 END) AS bills,
        MIN(CASE WHEN kind = 'canceled' THEN turn_date END) AS canceled_on
    FROM numbered
    WHERE contract > 0
    GROUP BY account_id, contract
)
SELECT
    s.account_id,
    s.contract,
    s.billed_since,
    s.bills,
    COALESCE(b.months, 1) AS months,
    b.paid_through,
    CASE
        WHEN s.canceled_on <= b.paid_through + CAST($grace_days AS INTEGER) THEN s.canceled_on
        WHEN b.paid_through + CAST($grace_days AS INTEGER) <= $as_of THEN b.paid_through + CAST($grace_days AS INTEGER)
    END AS ended_on
FROM spans AS s
INNER JOIN latest_bill AS b ON s.account_id = b.account_id AND s.contract = b.contract AND b.place = 1
