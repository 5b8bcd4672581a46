-- One row per row of health_scores whose block ends with an hour of health_hours: what of it is told, and the reasons in words, at most
-- three, the component that costs most first.
-- own_..., peers_...: what that part of a component takes from 100 points, in tenths; for peers NULL above the lowest quarter.
WITH losses AS (
    SELECT
        s.*,
        tenths * $active_users_weight * (1 - own_active_users) AS own_users_lost,
        CASE
            WHEN peers_active_users < CAST(0.25 AS DOUBLE) THEN tenths * $active_users_weight * 2 * (1 - peers_active_users)
        END AS peers_users_lost,
        tenths * $events_weight * (1 - own_events) AS own_events_lost,
        CASE WHEN peers_events < CAST(0.25 AS DOUBLE) THEN tenths * $events_weight * 2 * (1 - peers_events) END AS peers_events_lost,
        tenths * $features_weight * (1 - own_features) AS own_features_lost,
        CASE
            WHEN peers_features < CAST(0.25 AS DOUBLE) THEN tenths * $features_weight * 2 * (1 - peers_features)
        END AS peers_features_lost,
        tenths * $recency_weight * (1 - own_recency + COALESCE(2 * (1 - peers_recency), 0)) AS idle_lost,
        tenths * $seats_weight * (1 - own_seats + COALESCE(2 * (1 - peers_seats), 0)) AS empty_seats_lost,
        CAST(FLOOR(100 * (1 - user_hours_now / NULLIF(user_hours_expected, 0)) + CAST(0.5 AS DOUBLE)) AS BIGINT) AS users_fall,
        CAST(FLOOR(100 * (1 - events_now / NULLIF(events_expected, 0)) + CAST(0.5 AS DOUBLE)) AS BIGINT) AS events_fall,
        CAST(FLOOR(100 * (1 - features_now / NULLIF(features_expected, 0)) + CAST(0.5 AS DOUBLE)) AS BIGINT) AS features_fall
    FROM health_scores AS s
    INNER JOIN health_hours AS h ON s.block = h.block
),
-- Under two points nothing is said; of a component, a fall is said rather than a low place. Hardly an account has all its seats in use
-- at once: that is said of the lowest quarter, and of less than half where there are no peers.
said AS (
    SELECT
        *,
        CASE WHEN own_users_lost >= 20 THEN own_users_lost WHEN peers_users_lost >= 20 THEN peers_users_lost ELSE 0 END AS users_lost,
        CASE WHEN own_events_lost >= 20 THEN own_events_lost WHEN peers_events_lost >= 20 THEN peers_events_lost ELSE 0 END
            AS events_lost,
        CASE
            WHEN own_features_lost >= 20 THEN own_features_lost
            WHEN peers_features_lost >= 20 THEN peers_features_lost
            ELSE 0
        END AS features_lost,
        CASE WHEN idle_lost >= 20 AND idle_hours >= 72 THEN idle_lost ELSE 0 END AS recency_lost,
        CASE
            WHEN empty_seats_lost >= 20 AND COALESCE(peers_seats < CAST(0.25 AS DOUBLE), own_seats < CAST(0.5 AS DOUBLE)) THEN empty_seats_lost
            ELSE 0
        END AS seats_lost
    FROM losses
),
-- How many components cost more, or as much and stand before it.
placed AS (
    SELECT
        *,
        CASE WHEN events_lost > users_lost THEN 1 ELSE 0 END + CASE WHEN features_lost > users_lost THEN 1 ELSE 0 END
        + CASE WHEN recency_lost > users_lost THEN 1 ELSE 0 END + CASE WHEN seats_lost > users_lost THEN 1 ELSE 0 END AS users_place,
        CASE WHEN users_lost >= events_lost THEN 1 ELSE 0 END + CASE WHEN features_lost > events_lost THEN 1 ELSE 0 END
        + CASE WHEN recency_lost > events_lost THEN 1 ELSE 0 END + CASE WHEN seats_lost > events_lost THEN 1 ELSE 0 END
            AS events_place,
        CASE WHEN users_lost >= features_lost THEN 1 ELSE 0 END + CASE WHEN events_lost >= features_lost THEN 1 ELSE 0 END
        + CASE WHEN recency_lost > features_lost THEN 1 ELSE 0 END + CASE WHEN seats_lost > features_lost THEN 1 ELSE 0 END
            AS features_place,
        CASE WHEN users_lost >= recency_lost THEN 1 ELSE 0 END + CASE WHEN events_lost >= recency_lost THEN 1 ELSE 0 END
        + CASE WHEN features_lost >= recency_lost THEN 1 ELSE 0 END + CASE WHEN seats_lost > recency_lost THEN 1 ELSE 0 END
            AS recency_place
    FROM said
),
worded AS (
    SELECT
        *,
        CASE
            WHEN users_lost = 0 THEN NULL
            WHEN own_users_lost >= 20 AND users_fall >= 1 THEN 'active users down ' || CAST(users_fall AS VARCHAR) || ' % in 14 days'
            WHEN own_users_lost >= 20 THEN 'active users grew less than at other accounts'
            ELSE 'active users' || CASE WHEN seats IS NULL THEN '' ELSE ' per seat' END || ' among the lowest '
                || CASE WHEN peers_active_users < CAST(0.1 AS DOUBLE) THEN 'tenth' ELSE 'quarter' END
        END AS users_reason,
        CASE
            WHEN events_lost = 0 THEN NULL
            WHEN own_events_lost >= 20 AND events_fall >= 1 THEN 'events down ' || CAST(events_fall AS VARCHAR) || ' % in 14 days'
            WHEN own_events_lost >= 20 THEN 'events grew less than at other accounts'
            ELSE 'events' || CASE WHEN seats IS NULL THEN '' ELSE ' per seat' END || ' among the lowest '
                || CASE WHEN peers_events < CAST(0.1 AS DOUBLE) THEN 'tenth' ELSE 'quarter' END
        END AS events_reason,
        CASE
            WHEN features_lost = 0 THEN NULL
            WHEN own_features_lost >= 20 AND features_fall >= 1
                THEN 'features in use down ' || CAST(features_fall AS VARCHAR) || ' % in 14 days'
            WHEN own_features_lost >= 20 THEN 'features in use grew less than at other accounts'
            ELSE 'features in use' || CASE WHEN seats IS NULL THEN '' ELSE ' for its seats' END || ' among the lowest '
                || CASE WHEN peers_features < CAST(0.1 AS DOUBLE) THEN 'tenth' ELSE 'quarter' END
        END AS features_reason,
        CASE
            WHEN recency_lost > 0
                THEN 'no activity for ' || CAST(CAST(FLOOR(CAST(idle_hours AS DOUBLE) / 24) AS BIGINT) AS VARCHAR) || ' days'
        END AS recency_reason,
        CASE
            WHEN seats_lost > 0
                THEN 'at most ' || CAST(users_at_most AS VARCHAR) || ' of ' || CAST(seats AS VARCHAR) || ' seats in use in an hour'
        END AS seats_reason
    FROM placed
)
SELECT
    account_id,
    block,
    idle_hours,
    score,
    coverage,
    active_users_share,
    events_share,
    features_share,
    recency_share,
    seats_share,
    active_users_weight,
    events_weight,
    features_weight,
    recency_weight,
    seats_weight,
    NULLIF(
        CONCAT_WS(
            '; ',
            CASE 0
                WHEN users_place THEN users_reason
                WHEN events_place THEN events_reason
                WHEN features_place THEN features_reason
                WHEN recency_place THEN recency_reason
                ELSE seats_reason
            END,
            CASE 1
                WHEN users_place THEN users_reason
                WHEN events_place THEN events_reason
                WHEN features_place THEN features_reason
                WHEN recency_place THEN recency_reason
                ELSE seats_reason
            END,
            CASE 2
                WHEN users_place THEN users_reason
                WHEN events_place THEN events_reason
                WHEN features_place THEN features_reason
                WHEN recency_place THEN recency_reason
                ELSE seats_reason
            END
        ),
        ''
    ) AS reasons
FROM worded
