-- One row per row of health_scores whose block ends with an hour of health_hours: what of it is told, and the reasons in words, at most
-- three, the component that costs most first; before it, that an account was silent for a fortnight. A score below $healthy and one
-- that lost $falling points in 28 days always have a reason.
-- own_..., peers_...: what that part of a component takes from 100 points, in tenths.
WITH losses AS (
    SELECT
        s.*,
        CASE WHEN t.score - s.score >= 10 * CAST($falling AS DOUBLE) THEN 1 ELSE 0 END AS has_fallen,
        COALESCE(s.tenths * $active_users_weight * (1 - s.own_active_users), 0) AS own_users_lost,
        COALESCE(s.tenths * $active_users_weight * 2 * (1 - s.peers_active_users), 0) AS peers_users_lost,
        COALESCE(s.tenths * $events_weight * (1 - s.own_events), 0) AS own_events_lost,
        COALESCE(s.tenths * $events_weight * 2 * (1 - s.peers_events), 0) AS peers_events_lost,
        COALESCE(s.tenths * $features_weight * (1 - s.own_features), 0) AS own_features_lost,
        COALESCE(s.tenths * $features_weight * 2 * (1 - s.peers_features), 0) AS peers_features_lost,
        s.tenths * $recency_weight * (1 - s.own_recency + COALESCE(2 * (1 - s.peers_recency), 0)) AS idle_lost,
        s.tenths * $seats_weight * (1 - s.own_seats + COALESCE(2 * (1 - s.peers_seats), 0)) AS empty_seats_lost,
        CAST(FLOOR(100 * (1 - s.user_hours_now / NULLIF(s.user_hours_expected, 0)) + CAST(0.5 AS DOUBLE)) AS BIGINT) AS users_fall,
        CAST(FLOOR(100 * (1 - s.events_now / NULLIF(s.events_expected, 0)) + CAST(0.5 AS DOUBLE)) AS BIGINT) AS events_fall,
        CAST(FLOOR(100 * (1 - s.features_now / NULLIF(s.features_expected, 0)) + CAST(0.5 AS DOUBLE)) AS BIGINT) AS features_fall
    FROM health_scores AS s
    INNER JOIN health_hours AS h ON s.block = h.block
    LEFT JOIN health_scores AS t ON s.account_id = t.account_id AND s.block - 28 = t.block AND t.days_now >= 14
),
costs AS (
    SELECT
        *,
        CASE
            WHEN score < 10 * CAST($healthy AS DOUBLE) OR has_fallen = 1
                THEN GREATEST(
                    own_users_lost + peers_users_lost, own_events_lost + peers_events_lost, own_features_lost + peers_features_lost,
                    idle_lost, COALESCE(empty_seats_lost, 0)
                )
        END AS most_lost
    FROM losses
),
-- What costs most is said where a reason is due. Else under two points nothing is said; of a component, a fall is said rather than a
-- low place. Hardly an account has all its seats in use at once: that is said of the lowest quarter, and of less than half where there
-- are no peers.
said AS (
    SELECT
        *,
        CASE
            WHEN own_users_lost + peers_users_lost = most_lost THEN most_lost
            WHEN own_users_lost >= 20 THEN own_users_lost
            WHEN peers_users_lost >= 20 AND peers_active_users < CAST(0.25 AS DOUBLE) THEN peers_users_lost
            ELSE 0
        END AS users_lost,
        CASE
            WHEN own_events_lost + peers_events_lost = most_lost THEN most_lost
            WHEN own_events_lost >= 20 THEN own_events_lost
            WHEN peers_events_lost >= 20 AND peers_events < CAST(0.25 AS DOUBLE) THEN peers_events_lost
            ELSE 0
        END AS events_lost,
        CASE
            WHEN own_features_lost + peers_features_lost = most_lost THEN most_lost
            WHEN own_features_lost >= 20 THEN own_features_lost
            WHEN peers_features_lost >= 20 AND peers_features < CAST(0.25 AS DOUBLE) THEN peers_features_lost
            ELSE 0
        END AS features_lost,
        CASE
            WHEN idle_hours >= 336 THEN 1001
            WHEN idle_lost = most_lost OR idle_lost >= 20 AND idle_hours >= 72 THEN idle_lost
            ELSE 0
        END AS recency_lost,
        CASE
            WHEN empty_seats_lost = most_lost THEN most_lost
            WHEN empty_seats_lost >= 20 AND COALESCE(peers_seats < CAST(0.25 AS DOUBLE), own_seats < CAST(0.5 AS DOUBLE)) THEN empty_seats_lost
            ELSE 0
        END AS seats_lost
    FROM costs
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
            WHEN users_fall >= 1 AND (own_users_lost >= 20 OR peers_users_lost = 0 OR has_fallen = 1 AND peers_active_users >= CAST(0.25 AS DOUBLE))
                THEN 'hours of use down ' || CAST(users_fall AS VARCHAR) || ' % in 14 days'
            WHEN own_users_lost >= 20 OR peers_users_lost = 0 THEN 'hours of use grew less than at other accounts'
            ELSE 'hours of use' || CASE WHEN seats IS NULL THEN '' ELSE ' per seat' END || CASE
                WHEN peers_active_users < CAST(0.1 AS DOUBLE) THEN ' among the lowest tenth'
                WHEN peers_active_users < CAST(0.25 AS DOUBLE) THEN ' among the lowest quarter'
                ELSE ' ahead of only '
                    || CAST(CAST(FLOOR(LEAST(100 * peers_active_users, 99) + CAST(0.5 AS DOUBLE)) AS BIGINT) AS VARCHAR) || ' % of other accounts'
            END
        END AS users_reason,
        CASE
            WHEN events_lost = 0 THEN NULL
            WHEN events_fall >= 1 AND (own_events_lost >= 20 OR peers_events_lost = 0 OR has_fallen = 1 AND peers_events >= CAST(0.25 AS DOUBLE))
                THEN 'events down ' || CAST(events_fall AS VARCHAR) || ' % in 14 days'
            WHEN own_events_lost >= 20 OR peers_events_lost = 0 THEN 'events grew less than at other accounts'
            ELSE 'events' || CASE WHEN seats IS NULL THEN '' ELSE ' per seat' END || CASE
                WHEN peers_events < CAST(0.1 AS DOUBLE) THEN ' among the lowest tenth'
                WHEN peers_events < CAST(0.25 AS DOUBLE) THEN ' among the lowest quarter'
                ELSE ' ahead of only '
                    || CAST(CAST(FLOOR(LEAST(100 * peers_events, 99) + CAST(0.5 AS DOUBLE)) AS BIGINT) AS VARCHAR) || ' % of other accounts'
            END
        END AS events_reason,
        CASE
            WHEN features_lost = 0 THEN NULL
            WHEN features_fall >= 1 AND (own_features_lost >= 20 OR peers_features_lost = 0 OR has_fallen = 1 AND peers_features >= CAST(0.25 AS DOUBLE))
                THEN 'features in use down ' || CAST(features_fall AS VARCHAR) || ' % in 14 days'
            WHEN own_features_lost >= 20 OR peers_features_lost = 0 THEN 'features in use grew less than at other accounts'
            ELSE 'features in use' || CASE WHEN seats IS NULL THEN '' ELSE ' for its seats' END || CASE
                WHEN peers_features < CAST(0.1 AS DOUBLE) THEN ' among the lowest tenth'
                WHEN peers_features < CAST(0.25 AS DOUBLE) THEN ' among the lowest quarter'
                ELSE ' ahead of only '
                    || CAST(CAST(FLOOR(LEAST(100 * peers_features, 99) + CAST(0.5 AS DOUBLE)) AS BIGINT) AS VARCHAR) || ' % of other accounts'
            END
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
