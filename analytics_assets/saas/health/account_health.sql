-- One row per account and hour of health_hours, unless its contract is known to have ended by the evening before: its health at the
-- hour's end. Scores and shares come in tenths of a point, coverage in thousandths; the hour is the last of its block of health_scores.
-- An account of `accounts` without an event in six weeks is in no row of health_scores: its score is 0.
-- The band is that of the evening judged_on (evening_bands). Who had none then, or is silent now, is in the band of its score; NULL where
-- too little of that is known.
-- A name that `accounts` does not know is an account if it was first used on the day of the hour. Used before, it is a person's name
-- from before a merger, which usage of later days no longer has.
WITH known AS (
    SELECT h.block, a.account_id, a.first_seen_date, a.seats, a.ended_on
    FROM health_hours AS h
    INNER JOIN accounts AS a ON h.evening = a.as_of_date
),
told_evenings AS (
    SELECT DISTINCT block
    FROM known
),
silent AS (
    SELECT
        k.account_id,
        k.block,
        k.first_seen_date,
        CAST(FLOOR(
            10 * (
                CAST($active_users_weight AS DOUBLE) + $events_weight + $features_weight + $recency_weight
                + CASE WHEN k.seats > 0 THEN $seats_weight ELSE 0 END
            ) + CAST(0.5 AS DOUBLE)
        ) AS BIGINT) AS coverage,
        CASE WHEN k.seats > 0 THEN 0 END AS seats_share
    FROM known AS k
    LEFT JOIN health_points AS p ON k.block = p.block AND k.account_id = p.account_id
    WHERE p.account_id IS NULL AND k.ended_on IS NULL
),
current_scores AS (
    SELECT
        r.account_id, r.block, r.score, r.coverage, r.active_users_share, r.events_share, r.features_share, r.recency_share,
        r.seats_share, r.active_users_weight, r.events_weight, r.features_weight, r.recency_weight, r.seats_weight, w.reasons,
        k.first_seen_date, 0 AS is_silent
    FROM health_scores AS r
    INNER JOIN health_hours AS h ON r.block = h.block
    LEFT JOIN health_reasons AS w ON r.account_id = w.account_id AND r.block = w.block
    LEFT JOIN told_evenings AS t ON r.block = t.block
    LEFT JOIN known AS k ON r.block = k.block AND r.account_id = k.account_id
    WHERE k.ended_on IS NULL AND (k.account_id IS NOT NULL OR t.block IS NULL OR r.idle_hours <= h.hour_of_day)
    UNION ALL
    SELECT
        s.account_id, s.block, CASE WHEN s.coverage > 0 THEN 0 END AS score, s.coverage, 0, 0, 0, 0, s.seats_share,
        $active_users_weight, $events_weight, $features_weight, $recency_weight, $seats_weight,
        CASE
            WHEN DATE_DIFF('day', CAST(s.first_seen_date AS DATE), CAST(h.event_date AS DATE)) >= 42
                THEN 'no activity for more than 41 days'
            ELSE 'no activity since it was first seen on ' || CAST(s.first_seen_date AS VARCHAR)
        END AS reasons,
        s.first_seen_date, 1 AS is_silent
    FROM silent AS s
    INNER JOIN health_hours AS h ON s.block = h.block
)
SELECT
    CAST(h.event_date AS DATE) AS event_date,
    h.hour,
    c.account_id,
    CAST(CAST(c.score AS DOUBLE) / 10 AS DECIMAL(4, 1)) AS score,
    CASE
        WHEN c.score IS NULL THEN NULL
        WHEN m.is_healthy = 1 THEN 'healthy'
        WHEN m.is_at_risk = 1 THEN 'at risk'
        WHEN m.account_id IS NOT NULL THEN 'neutral'
        WHEN c.coverage < 1000 * CAST($least_coverage AS DOUBLE) THEN NULL
        WHEN c.score >= 10 * CAST($healthy AS DOUBLE) THEN 'healthy'
        WHEN c.score < 10 * CAST($at_risk AS DOUBLE) THEN 'at risk'
        ELSE 'neutral'
    END AS band,
    CAST(
        CAST(
            c.score - CASE WHEN t.days_now >= 14 THEN t.score WHEN t.account_id IS NULL AND c.first_seen_date <= h.known_since THEN 0 END
            AS DOUBLE
        ) / 10 AS DECIMAL(4, 1)
    ) AS trend,
    '{' || CONCAT_WS(
        ', ',
        CASE
            WHEN c.active_users_weight > 0
                THEN '"active_users": ' || CAST(CAST(CAST(c.active_users_share AS DOUBLE) / 10 AS DECIMAL(4, 1)) AS VARCHAR)
        END,
        CASE
            WHEN c.events_weight > 0
                THEN '"events": ' || CAST(CAST(CAST(c.events_share AS DOUBLE) / 10 AS DECIMAL(4, 1)) AS VARCHAR)
        END,
        CASE
            WHEN c.features_weight > 0
                THEN '"features": ' || CAST(CAST(CAST(c.features_share AS DOUBLE) / 10 AS DECIMAL(4, 1)) AS VARCHAR)
        END,
        CASE
            WHEN c.recency_weight > 0
                THEN '"recency": ' || CAST(CAST(CAST(c.recency_share AS DOUBLE) / 10 AS DECIMAL(4, 1)) AS VARCHAR)
        END,
        CASE
            WHEN c.seats_weight > 0
                THEN '"seats": ' || CAST(CAST(CAST(c.seats_share AS DOUBLE) / 10 AS DECIMAL(4, 1)) AS VARCHAR)
        END
    ) || '}' AS components,
    CAST(CAST(c.coverage AS DOUBLE) / 1000 AS DECIMAL(4, 3)) AS coverage,
    c.reasons
FROM current_scores AS c
INNER JOIN health_hours AS h ON c.block = h.block
LEFT JOIN evening_bands AS m ON c.account_id = m.account_id AND h.judged_on = m.as_of_date AND c.is_silent = 0
LEFT JOIN health_scores AS t ON c.account_id = t.account_id AND c.block - 28 = t.block
