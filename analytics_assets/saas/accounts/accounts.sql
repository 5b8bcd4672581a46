-- One row per account that had been named by the end of the day: its plan and seats, and where its contract stands.
-- A trial counts when it began after the latest contract had ended.
WITH known AS (
    SELECT account_id, MIN(event_date) AS first_seen_date
    FROM account_records
    WHERE account_id IS NOT NULL AND event_date <= $as_of AND NOT $people_are_accounts
    GROUP BY account_id
    UNION ALL
    SELECT p.user_id AS account_id, MIN(p.first_seen_date) AS first_seen_date
    FROM people AS p
    WHERE p.first_seen_date <= $as_of AND $people_are_accounts
    GROUP BY p.user_id
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
ends AS (
    SELECT
        *,
        CASE
            WHEN canceled_on <= lapses_on THEN 'canceled'
            WHEN lapses_on <= $as_of THEN 'lapsed'
            ELSE 'active'
        END AS status,
        CASE WHEN canceled_on <= lapses_on THEN canceled_on WHEN lapses_on <= $as_of THEN lapses_on END AS ended_on
    FROM contracts
),
trials AS (
    SELECT t.account_id, MAX(t.place) AS trial_place
    FROM told AS t
    LEFT JOIN ends AS e ON t.account_id = e.account_id
    WHERE t.kind = 'trial'
        AND (
            e.account_id IS NULL
            OR (e.status = 'canceled' AND t.place > e.canceled_place)
            OR (e.status = 'lapsed' AND t.place > e.last_place AND t.event_date > e.ended_on)
        )
    GROUP BY t.account_id
),
never_billed_ends AS (
    SELECT t.account_id, MIN(t.event_date) AS canceled_on
    FROM told AS t
    LEFT JOIN contracts AS c ON t.account_id = c.account_id
    LEFT JOIN trials AS r ON t.account_id = r.account_id
    WHERE t.kind = 'canceled' AND ((r.account_id IS NULL AND c.account_id IS NULL) OR t.place > r.trial_place)
    GROUP BY t.account_id
)
SELECT
    CAST($as_of AS DATE) AS as_of_date,
    k.account_id,
    k.first_seen_date,
    CASE
        WHEN n.account_id IS NOT NULL THEN 'canceled'
        WHEN r.account_id IS NOT NULL THEN 'trial'
        ELSE COALESCE(e.status, 'unbilled')
    END AS status,
    p.plan,
    s.seats,
    CASE WHEN r.account_id IS NULL THEN e.currency END AS currency,
    CASE WHEN r.account_id IS NULL AND e.status = 'active' THEN e.mrr_cents * CAST(0.01 AS DECIMAL(3, 2)) END AS mrr,
    CASE WHEN r.account_id IS NULL THEN e.billed_since END AS billed_since,
    CASE WHEN r.account_id IS NULL THEN COALESCE(e.renewals, 0) ELSE 0 END AS renewals,
    CASE WHEN r.account_id IS NULL THEN e.paid_through END AS paid_through,
    CASE WHEN r.account_id IS NULL THEN COALESCE(e.ended_on, n.canceled_on) ELSE n.canceled_on END AS ended_on
FROM known AS k
LEFT JOIN plans AS p ON k.account_id = p.account_id AND p.newest = 1
LEFT JOIN named_seats AS s ON k.account_id = s.account_id AND s.newest = 1
LEFT JOIN ends AS e ON k.account_id = e.account_id
LEFT JOIN trials AS r ON k.account_id = r.account_id
LEFT JOIN never_billed_ends AS n ON k.account_id = n.account_id
