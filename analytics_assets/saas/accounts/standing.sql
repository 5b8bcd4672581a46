-- One row per account that was told of by the end of the day: its plan and seats, and where its contract or trial stands.
-- A trial counts when it began after the latest contract had ended.
WITH known AS (
    SELECT DISTINCT account_id
    FROM told
),
plans AS (
    SELECT account_id, plan, ROW_NUMBER() OVER (PARTITION BY account_id ORDER BY place DESC) AS newest
    FROM told
    WHERE plan IS NOT NULL
),
named_seats AS (
    SELECT account_id, seats, ROW_NUMBER() OVER (PARTITION BY account_id ORDER BY place DESC) AS newest
    FROM told
    WHERE seats IS NOT NULL
),
latest AS (
    SELECT *
    FROM contracts
    WHERE newest = 1
),
latest_trials AS (
    SELECT t.account_id, t.place, t.ended_on
    FROM trials AS t
    LEFT JOIN latest AS c ON t.account_id = c.account_id
    WHERE t.newest = 1 AND (c.account_id IS NULL OR t.place > c.first_place)
),
never_billed_ends AS (
    SELECT t.account_id, MIN(t.event_date) AS canceled_on
    FROM told AS t
    LEFT JOIN latest AS c ON t.account_id = c.account_id
    LEFT JOIN latest_trials AS r ON t.account_id = r.account_id
    WHERE t.kind = 'canceled' AND ((r.account_id IS NULL AND c.account_id IS NULL) OR t.place > r.place)
    GROUP BY t.account_id
)
SELECT
    k.account_id,
    CASE
        WHEN r.ended_on IS NOT NULL THEN 'expired'
        WHEN n.account_id IS NOT NULL THEN 'canceled'
        WHEN r.account_id IS NOT NULL THEN 'trial'
        ELSE COALESCE(c.status, 'unbilled')
    END AS status,
    p.plan,
    s.seats,
    CASE WHEN r.account_id IS NULL THEN c.currency END AS currency,
    CASE WHEN r.account_id IS NULL AND c.status = 'active' THEN c.mrr_cents * CAST(0.01 AS DECIMAL(3, 2)) END AS mrr,
    CASE WHEN r.account_id IS NULL THEN c.billed_since END AS billed_since,
    CASE WHEN r.account_id IS NULL THEN COALESCE(c.renewals, 0) ELSE 0 END AS renewals,
    CASE WHEN r.account_id IS NULL THEN c.paid_through END AS paid_through,
    CASE WHEN r.account_id IS NULL THEN COALESCE(c.ended_on, n.canceled_on) ELSE COALESCE(r.ended_on, n.canceled_on) END AS ended_on
FROM known AS k
LEFT JOIN plans AS p ON k.account_id = p.account_id AND p.newest = 1
LEFT JOIN named_seats AS s ON k.account_id = s.account_id AND s.newest = 1
LEFT JOIN latest AS c ON k.account_id = c.account_id
LEFT JOIN latest_trials AS r ON k.account_id = r.account_id
LEFT JOIN never_billed_ends AS n ON k.account_id = n.account_id
