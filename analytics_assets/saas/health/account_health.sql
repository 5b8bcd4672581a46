-- One row per account that is not known to have ended by the evening before: its health at the end of the hour $hour_at, whose
-- block is $block of health_scores. Scores and shares come in tenths of a point, coverage in thousandths.
-- An account of `accounts` without an event in six weeks is in no row of health_scores: its score is 0.
WITH known AS (
    SELECT account_id, first_seen_date, seats, ended_on
    FROM accounts
    WHERE as_of_date = $evening
),
past_month AS (
    SELECT account_id, block, score
    FROM health_scores
    WHERE block >= $block - 28 AND block <= $block AND score IS NOT NULL
),
active AS (
    SELECT
        s.*,
        k.first_seen_date,
        CASE WHEN s.seats IS NULL THEN '' ELSE ' per seat' END AS per_seat,
        CASE WHEN s.seats IS NULL THEN '' ELSE ' for its seats' END AS for_seats
    FROM health_scores AS s
    LEFT JOIN known AS k ON s.account_id = k.account_id
    WHERE s.block = $block AND k.ended_on IS NULL
),
silent AS (
    SELECT
        k.account_id,
        k.first_seen_date,
        CAST(FLOOR(
            10 * (
                CAST($active_users_weight AS DOUBLE) + $events_weight + $features_weight + $recency_weight
                + CASE WHEN k.seats > 0 THEN $seats_weight ELSE 0 END
            ) + CAST(0.5 AS DOUBLE)
        ) AS BIGINT) AS coverage,
        CASE WHEN k.seats > 0 THEN 0 END AS seats_share
    FROM known AS k
    LEFT JOIN health_scores AS s ON k.account_id = s.account_id AND s.block = $block
    WHERE s.account_id IS NULL AND k.ended_on IS NULL
),
current_scores AS (
    SELECT
        account_id, first_seen_date, score, coverage, active_users_share, events_share, features_share, recency_share,
        CASE WHEN seats_weight > 0 THEN seats_share END AS seats_share,
        active_users_weight, events_weight, features_weight, recency_weight
    FROM active
    UNION ALL
    SELECT
        account_id, first_seen_date, CASE WHEN coverage > 0 THEN 0 END AS score, coverage, 0, 0, 0, 0,
        CASE WHEN $seats_weight > 0 THEN seats_share END AS seats_share,
        $active_users_weight, $events_weight, $features_weight, $recency_weight
    FROM silent
),
history AS (
    SELECT account_id, block, score
    FROM past_month
    UNION ALL
    SELECT account_id, $block AS block, 0 AS score
    FROM silent
    WHERE coverage > 0
),
-- Each edge is a switch that only a score beyond its hysteresis turns: the last such score of the 29 days decides, and without
-- one the oldest score against the plain edge. The lowest digit holds the side.
switches AS (
    SELECT
        account_id,
        COALESCE(
            MAX(
                CASE
                    WHEN score >= 10 * (CAST($healthy AS DOUBLE) + $hysteresis) THEN 2 * block + 1
                    WHEN score < 10 * (CAST($healthy AS DOUBLE) - $hysteresis) THEN 2 * block
                END
            ),
            MIN(2 * block + CASE WHEN score >= 10 * CAST($healthy AS DOUBLE) THEN 1 ELSE 0 END)
        ) % 2 AS is_healthy,
        COALESCE(
            MAX(
                CASE
                    WHEN score < 10 * (CAST($at_risk AS DOUBLE) - $hysteresis) THEN 2 * block + 1
                    WHEN score >= 10 * (CAST($at_risk AS DOUBLE) + $hysteresis) THEN 2 * block
                END
            ),
            MIN(2 * block + CASE WHEN score < 10 * CAST($at_risk AS DOUBLE) THEN 1 ELSE 0 END)
        ) % 2 AS is_at_risk
    FROM history
    GROUP BY account_id
),
-- What a part of a component (its own past, its peers) takes from 100 points, in tenths, and how it is said. Under two points nothing is said;
-- of a component, a fall is said rather than a low place.
losses AS (
    SELECT account_id, 1 AS component, 1 AS part, tenths * $active_users_weight * (1 - own_active_users) AS lost,
        CASE
            WHEN FLOOR(100 * (1 - user_hours_now / NULLIF(user_hours_expected, 0)) + CAST(0.5 AS DOUBLE)) >= 1
                THEN 'active users down '
                    || CAST(CAST(FLOOR(100 * (1 - user_hours_now / NULLIF(user_hours_expected, 0)) + CAST(0.5 AS DOUBLE)) AS BIGINT) AS VARCHAR)
                    || ' % in 14 days'
            ELSE 'active users grew less than at other accounts'
        END AS reason
    FROM active
    UNION ALL
    SELECT account_id, 1, 2, tenths * $active_users_weight * 2 * (1 - peers_active_users),
        CASE
            WHEN peers_active_users < CAST(0.1 AS DOUBLE) THEN 'active users' || per_seat || ' among the lowest tenth'
            WHEN peers_active_users < CAST(0.25 AS DOUBLE) THEN 'active users' || per_seat || ' among the lowest quarter'
        END
    FROM active
    UNION ALL
    SELECT account_id, 2, 1, tenths * $events_weight * (1 - own_events),
        CASE
            WHEN FLOOR(100 * (1 - events_now / NULLIF(events_expected, 0)) + CAST(0.5 AS DOUBLE)) >= 1
                THEN 'events down '
                    || CAST(CAST(FLOOR(100 * (1 - events_now / NULLIF(events_expected, 0)) + CAST(0.5 AS DOUBLE)) AS BIGINT) AS VARCHAR)
                    || ' % in 14 days'
            ELSE 'events grew less than at other accounts'
        END
    FROM active
    UNION ALL
    SELECT account_id, 2, 2, tenths * $events_weight * 2 * (1 - peers_events),
        CASE
            WHEN peers_events < CAST(0.1 AS DOUBLE) THEN 'events' || per_seat || ' among the lowest tenth'
            WHEN peers_events < CAST(0.25 AS DOUBLE) THEN 'events' || per_seat || ' among the lowest quarter'
        END
    FROM active
    UNION ALL
    SELECT account_id, 3, 1, tenths * $features_weight * (1 - own_features),
        CASE
            WHEN FLOOR(100 * (1 - features_now / NULLIF(features_expected, 0)) + CAST(0.5 AS DOUBLE)) >= 1
                THEN 'features in use down '
                    || CAST(CAST(FLOOR(100 * (1 - features_now / NULLIF(features_expected, 0)) + CAST(0.5 AS DOUBLE)) AS BIGINT) AS VARCHAR)
                    || ' % in 14 days'
            ELSE 'features in use grew less than at other accounts'
        END
    FROM active
    UNION ALL
    SELECT account_id, 3, 2, tenths * $features_weight * 2 * (1 - peers_features),
        CASE
            WHEN peers_features < CAST(0.1 AS DOUBLE) THEN 'features in use' || for_seats || ' among the lowest tenth'
            WHEN peers_features < CAST(0.25 AS DOUBLE) THEN 'features in use' || for_seats || ' among the lowest quarter'
        END
    FROM active
    UNION ALL
    SELECT account_id, 4, 1,
        tenths * $recency_weight * (1 - own_recency + COALESCE(2 * (1 - peers_recency), 0)),
        CASE
            WHEN idle_hours >= 72
                THEN 'no activity for ' || CAST(CAST(FLOOR(idle_hours / 24) AS BIGINT) AS VARCHAR) || ' days'
        END
    FROM active
    UNION ALL
    SELECT account_id, 5, 1,
        tenths * $seats_weight * (1 - own_seats + COALESCE(2 * (1 - peers_seats), 0)),
        CASE
            WHEN users_at_most < seats
                THEN 'at most ' || CAST(users_at_most AS VARCHAR) || ' of ' || CAST(seats AS VARCHAR) || ' seats in use in an hour'
        END
    FROM active
    UNION ALL
    SELECT account_id, 4, 1, CAST(1000 AS DOUBLE),
        CASE
            WHEN DATE_DIFF('day', CAST(first_seen_date AS DATE), CAST($event_date AS DATE)) >= 42 THEN 'no activity for more than 41 days'
            ELSE 'no activity since it was first seen on ' || CAST(first_seen_date AS VARCHAR)
        END
    FROM silent
),
one_a_component AS (
    SELECT account_id, component, lost, reason, ROW_NUMBER() OVER (PARTITION BY account_id, component ORDER BY part) AS place
    FROM losses
    WHERE lost >= 20 AND reason IS NOT NULL
),
strongest AS (
    SELECT account_id, reason, ROW_NUMBER() OVER (PARTITION BY account_id ORDER BY lost DESC, component) AS place
    FROM one_a_component
    WHERE place = 1
),
reasons AS (
    SELECT
        account_id,
        CONCAT_WS(
            '; ',
            MAX(CASE WHEN place = 1 THEN reason END),
            MAX(CASE WHEN place = 2 THEN reason END),
            MAX(CASE WHEN place = 3 THEN reason END)
        ) AS reasons
    FROM strongest
    WHERE place <= 3
    GROUP BY account_id
)
SELECT
    CAST($event_date AS DATE) AS event_date,
    CAST($hour_at AS TIMESTAMPTZ) AS hour,
    c.account_id,
    CAST(CAST(c.score AS DOUBLE) / 10 AS DECIMAL(4, 1)) AS score,
    CASE
        WHEN c.score IS NULL THEN NULL
        WHEN b.is_healthy = 1 THEN 'healthy'
        WHEN b.is_at_risk = 1 THEN 'at risk'
        ELSE 'neutral'
    END AS band,
    CAST(
        CAST(c.score - COALESCE(t.score, CASE WHEN c.first_seen_date <= CAST($month_ago AS DATE) THEN 0 END) AS DOUBLE) / 10
        AS DECIMAL(4, 1)
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
        '"seats": ' || CAST(CAST(CAST(c.seats_share AS DOUBLE) / 10 AS DECIMAL(4, 1)) AS VARCHAR)
    ) || '}' AS components,
    CAST(CAST(c.coverage AS DOUBLE) / 1000 AS DECIMAL(4, 3)) AS coverage,
    r.reasons
FROM current_scores AS c
LEFT JOIN switches AS b ON c.account_id = b.account_id
LEFT JOIN past_month AS t ON c.account_id = t.account_id AND t.block = $block - 28
LEFT JOIN reasons AS r ON c.account_id = r.account_id
