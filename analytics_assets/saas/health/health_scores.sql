-- One row per row of health_points: the score, in tenths of a point, and each component's share in it; NULL where it is missing.
-- A component's own past carries a third of its weight, its peers two; the weights of what is there, in
-- thirds of a point, are scaled up to 100 points.
-- Shares are differences of rounded running totals, so that they add up to the score to the last tenth.
WITH weighed AS (
    SELECT
        *,
        CAST($active_users_weight AS DOUBLE) * (
            CASE WHEN own_active_users IS NULL THEN 0 ELSE 1 END + CASE WHEN peers_active_users IS NULL THEN 0 ELSE 2 END
        ) AS active_users_weight,
        CAST($events_weight AS DOUBLE) * (
            CASE WHEN own_events IS NULL THEN 0 ELSE 1 END + CASE WHEN peers_events IS NULL THEN 0 ELSE 2 END
        ) AS events_weight,
        CAST($features_weight AS DOUBLE) * (
            CASE WHEN own_features IS NULL THEN 0 ELSE 1 END + CASE WHEN peers_features IS NULL THEN 0 ELSE 2 END
        ) AS features_weight,
        CAST($recency_weight AS DOUBLE) * (
            CASE WHEN own_recency IS NULL THEN 0 ELSE 1 END + CASE WHEN peers_recency IS NULL THEN 0 ELSE 2 END
        ) AS recency_weight,
        CAST($seats_weight AS DOUBLE) * (
            CASE WHEN own_seats IS NULL THEN 0 ELSE 1 END + CASE WHEN peers_seats IS NULL THEN 0 ELSE 2 END
        ) AS seats_weight,
        CAST($active_users_weight AS DOUBLE) * (COALESCE(own_active_users, 0) + 2 * COALESCE(peers_active_users, 0))
            AS active_users_points,
        CAST($events_weight AS DOUBLE) * (COALESCE(own_events, 0) + 2 * COALESCE(peers_events, 0)) AS events_points,
        CAST($features_weight AS DOUBLE) * (COALESCE(own_features, 0) + 2 * COALESCE(peers_features, 0)) AS features_points,
        CAST($recency_weight AS DOUBLE) * (COALESCE(own_recency, 0) + 2 * COALESCE(peers_recency, 0)) AS recency_points,
        CAST($seats_weight AS DOUBLE) * (COALESCE(own_seats, 0) + 2 * COALESCE(peers_seats, 0)) AS seats_points
    FROM health_points
),
scaled AS (
    SELECT
        *,
        active_users_weight + events_weight + features_weight + recency_weight + seats_weight AS weight,
        CASE
            WHEN active_users_weight + events_weight + features_weight + recency_weight + seats_weight > 0
                THEN 1000 / (active_users_weight + events_weight + features_weight + recency_weight + seats_weight)
        END AS tenths
    FROM weighed
),
totals AS (
    SELECT
        *,
        CAST(FLOOR(tenths * active_users_points + CAST(0.5 AS DOUBLE)) AS BIGINT) AS first_total,
        CAST(FLOOR(tenths * (active_users_points + events_points) + CAST(0.5 AS DOUBLE)) AS BIGINT) AS second_total,
        CAST(FLOOR(tenths * (active_users_points + events_points + features_points) + CAST(0.5 AS DOUBLE)) AS BIGINT)
            AS third_total,
        CAST(
            FLOOR(tenths * (active_users_points + events_points + features_points + recency_points) + CAST(0.5 AS DOUBLE)) AS BIGINT
        ) AS fourth_total,
        CAST(
            FLOOR(
                tenths * (active_users_points + events_points + features_points + recency_points + seats_points)
                + CAST(0.5 AS DOUBLE)
            ) AS BIGINT
        ) AS score
    FROM scaled
)
SELECT
    p.account_id,
    p.block,
    p.idle_hours,
    p.days_now,
    p.days_past,
    p.seats,
    p.users_at_most,
    p.user_hours_now,
    p.user_hours_expected,
    p.events_now,
    p.events_expected,
    p.features_now,
    p.features_expected,
    p.own_active_users,
    p.own_events,
    p.own_features,
    p.own_recency,
    p.own_seats,
    p.peers_active_users,
    p.peers_events,
    p.peers_features,
    p.peers_recency,
    p.peers_seats,
    p.active_users_weight,
    p.events_weight,
    p.features_weight,
    p.recency_weight,
    p.seats_weight,
    p.tenths,
    p.score,
    CAST(FLOOR(10 * p.weight / 3 + CAST(0.5 AS DOUBLE)) AS BIGINT) AS coverage,
    p.first_total AS active_users_share,
    p.second_total - p.first_total AS events_share,
    p.third_total - p.second_total AS features_share,
    p.fourth_total - p.third_total AS recency_share,
    p.score - p.fourth_total AS seats_share
FROM totals AS p
