-- One row per account with a band whose contract had not ended by the end of $as_of and whose score lost at least $falling tenths of a
-- point in 28 days, the earlier one known from a whole fortnight: the first of the last $blocks days on which it had, and what fell, at most three components, the one that lost most
-- points first. The end of $as_of is block $block of health_scores.
-- An account of account_health without a row in health_scores has not been used for six weeks: its score is 0.
WITH ends AS (
    SELECT DISTINCT block
    FROM health_scores
    WHERE block > $block - $blocks AND block <= $block
),
since AS (
    SELECT h.account_id, MAX(e.block) AS last_block, MIN(e.block) AS first_block
    FROM account_health AS h
    CROSS JOIN ends AS e
    INNER JOIN health_scores AS t ON h.account_id = t.account_id AND e.block - 28 = t.block AND t.days_now >= 14
    LEFT JOIN health_scores AS s ON h.account_id = s.account_id AND e.block = s.block
    WHERE t.score - CASE WHEN s.account_id IS NULL THEN 0 ELSE s.score END >= $falling
    GROUP BY h.account_id
),
compared AS (
    SELECT
        s.*,
        t.seats AS seats_then,
        t.users_at_most AS users_at_most_then,
        t.active_users_share - s.active_users_share AS users_lost,
        t.events_share - s.events_share AS events_lost,
        t.features_share - s.features_share AS features_lost,
        t.recency_share - s.recency_share AS recency_lost,
        t.seats_share - s.seats_share AS seats_lost,
        100 - 100 * (s.user_hours_now / CAST(s.days_now AS DOUBLE)) / NULLIF(t.user_hours_now / CAST(t.days_now AS DOUBLE), 0) AS users_fall,
        100 - 100 * (s.events_now / CAST(s.days_now AS DOUBLE)) / NULLIF(t.events_now / CAST(t.days_now AS DOUBLE), 0) AS events_fall,
        100 - 100 * (s.features_now / CAST(s.days_now AS DOUBLE)) / NULLIF(t.features_now / CAST(t.days_now AS DOUBLE), 0) AS features_fall
    FROM health_scores AS s
    INNER JOIN health_scores AS t ON s.account_id = t.account_id AND s.block - 28 = t.block
    WHERE s.block = $block
),
fallen AS (
    SELECT
        account_id,
        1 AS component,
        users_lost AS lost,
        CASE
            WHEN users_fall >= 1 THEN 'hours of use down ' || CAST(CAST(FLOOR(users_fall) AS BIGINT) AS VARCHAR) || ' %'
            ELSE 'hours of use behind those of other accounts'
        END AS reason
    FROM compared
    UNION ALL
    SELECT
        account_id,
        2 AS component,
        events_lost AS lost,
        CASE
            WHEN events_fall >= 1 THEN 'events down ' || CAST(CAST(FLOOR(events_fall) AS BIGINT) AS VARCHAR) || ' %'
            ELSE 'events behind those of other accounts'
        END AS reason
    FROM compared
    UNION ALL
    SELECT
        account_id,
        3 AS component,
        features_lost AS lost,
        CASE
            WHEN features_fall >= 1
                THEN 'features in use down ' || CAST(CAST(FLOOR(features_fall) AS BIGINT) AS VARCHAR) || ' %'
            ELSE 'features in use behind those of other accounts'
        END AS reason
    FROM compared
    UNION ALL
    SELECT
        account_id,
        4 AS component,
        recency_lost AS lost,
        'no activity for ' || CAST(CAST(FLOOR(CAST(idle_hours AS DOUBLE) / 24) AS BIGINT) AS VARCHAR) || ' days' AS reason
    FROM compared
    WHERE idle_hours >= 72
    UNION ALL
    SELECT
        account_id,
        5 AS component,
        seats_lost AS lost,
        'at most ' || CAST(users_at_most AS VARCHAR) || ' of ' || CAST(seats AS VARCHAR) || ' seats in use in an hour, before '
            || CAST(users_at_most_then AS VARCHAR) || ' of ' || CAST(seats_then AS VARCHAR) AS reason
    FROM compared
    WHERE users_at_most < users_at_most_then OR seats > seats_then
),
placed AS (
    SELECT
        account_id,
        reason || ' (-' || CAST(CAST(CAST(lost AS DOUBLE) / 10 AS DECIMAL(4, 1)) AS VARCHAR) || ' points)' AS reason,
        lost,
        ROW_NUMBER() OVER (PARTITION BY account_id ORDER BY lost DESC, component) AS place
    FROM fallen
    WHERE lost > 0
),
-- Under two points only the first is said.
worded AS (
    SELECT
        account_id,
        'against the 14 days to ' || CAST(CAST($as_of AS DATE) + CAST(-28 AS INTEGER) AS VARCHAR) || ': ' || CONCAT_WS(
            '; ',
            MAX(CASE WHEN place = 1 THEN reason END),
            MAX(CASE WHEN place = 2 AND lost >= 20 THEN reason END),
            MAX(CASE WHEN place = 3 AND lost >= 20 THEN reason END)
        ) AS reasons
    FROM placed
    GROUP BY account_id
)
SELECT
    CAST($as_of AS DATE) AS as_of_date,
    h.account_id,
    h.score,
    h.trend,
    h.band,
    CAST($as_of AS DATE) + CAST(ROUND(f.first_block - $block) AS INTEGER) AS falling_since,
    a.mrr,
    a.currency,
    COALESCE(w.reasons, h.reasons) AS reasons
FROM since AS f
INNER JOIN account_health AS h ON f.account_id = h.account_id
INNER JOIN accounts AS a ON f.account_id = a.account_id AND a.as_of_date = $as_of
LEFT JOIN worded AS w ON f.account_id = w.account_id
WHERE f.last_block = $block AND a.ended_on IS NULL AND h.band IS NOT NULL
