-- One row per paid contract that had begun by the end of the day.
-- It ends on the day on which it is cancelled, or grace days after the time that was paid for unless it is billed again.
WITH turns AS (
    SELECT
        *,
        COUNT(CASE WHEN kind = 'canceled' THEN 1 END) OVER (
            PARTITION BY account_id ORDER BY occurred_second, record_id ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ) AS cancellations
    FROM told
    WHERE kind IN ('billed', 'canceled')
),
bills AS (
    SELECT
        *,
        MAX(paid_through) OVER (
            PARTITION BY account_id, cancellations
            ORDER BY occurred_second, record_id
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) AS paid_before
    FROM turns
    WHERE kind = 'billed'
),
numbered AS (
    SELECT
        *,
        SUM(CASE WHEN paid_before IS NULL OR event_date > paid_before + CAST(ROUND($grace_days) AS INTEGER) THEN 1 ELSE 0 END) OVER (
            PARTITION BY account_id ORDER BY occurred_second, record_id ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ) AS contract,
        ROW_NUMBER() OVER (PARTITION BY account_id ORDER BY occurred_second, record_id) AS place
    FROM bills
),
spans AS (
    SELECT
        account_id,
        contract,
        cancellations,
        MIN(event_date) AS billed_since,
        COUNT(*) AS bills,
        MAX(place) AS last_place,
        MAX(paid_through) AS paid_through
    FROM numbered
    GROUP BY account_id, contract, cancellations
),
cancellations AS (
    SELECT account_id, cancellations - 1 AS cancellations, event_date AS canceled_on
    FROM turns
    WHERE kind = 'canceled'
),
last_spans AS (
    SELECT account_id, cancellations, MAX(contract) AS contract
    FROM spans
    GROUP BY account_id, cancellations
)
SELECT
    s.account_id,
    s.contract,
    s.billed_since,
    s.bills,
    COALESCE(n.months, 1) AS months,
    s.paid_through,
    CASE
        WHEN c.canceled_on <= s.paid_through + CAST(ROUND($grace_days) AS INTEGER) THEN c.canceled_on
        WHEN s.paid_through + CAST(ROUND($grace_days) AS INTEGER) <= $as_of THEN s.paid_through + CAST(ROUND($grace_days) AS INTEGER)
    END AS ended_on
FROM spans AS s
INNER JOIN numbered AS n ON s.account_id = n.account_id AND s.last_place = n.place
LEFT JOIN last_spans AS l ON s.account_id = l.account_id AND s.contract = l.contract
LEFT JOIN cancellations AS c ON l.account_id = c.account_id AND l.cancellations = c.cancellations
