-- One row per row of health_scores whose block ends with an hour of health_hours and of which there is something to say: the reasons in
-- words, at most three, the component that costs most first; before it, that an account was silent for a fortnight. A score below
-- $healthy and one that lost $falling points in 28 days always have a reason.
-- own_lost, peers_lost: what that part of a component takes from 100 points, in tenths.
WITH compared AS (
    SELECT
        s.*,
        CASE WHEN s.score < 10 * CAST($healthy AS DOUBLE) OR t.score - s.score >= 10 * CAST($falling AS DOUBLE) THEN 1 ELSE 0 END AS is_due,
        CASE WHEN t.score - s.score >= 10 * CAST($falling AS DOUBLE) THEN 1 ELSE 0 END AS has_fallen,
        s.tenths * $recency_weight * (1 - s.own_recency + COALESCE(2 * (1 - s.peers_recency), 0)) AS idle_lost,
        COALESCE(s.tenths * $seats_weight * (1 - s.own_seats + COALESCE(2 * (1 - s.peers_seats), 0)), 0) AS empty_seats_lost
    FROM health_scores AS s
    INNER JOIN health_hours AS h ON s.block = h.block
    LEFT JOIN health_scores AS t ON s.account_id = t.account_id AND s.block - 28 = t.block AND t.days_now >= 14
),
activity AS (
    SELECT
        account_id,
        block,
        is_due,
        has_fallen,
        1 AS component,
        'hours of use' AS what,
        CASE WHEN seats IS NULL THEN '' ELSE ' per seat' END AS measured_by,
        user_hours_now / NULLIF(user_hours_expected, 0) AS ratio,
        days_past,
        peers_active_users AS peers,
        COALESCE(tenths * $active_users_weight * (1 - own_active_users), 0) AS own_lost,
        COALESCE(tenths * $active_users_weight * 2 * (1 - peers_active_users), 0) AS peers_lost
    FROM compared
    UNION ALL
    SELECT
        account_id,
        block,
        is_due,
        has_fallen,
        2 AS component,
        'events' AS what,
        CASE WHEN seats IS NULL THEN '' ELSE ' per seat' END AS measured_by,
        events_now / NULLIF(events_expected, 0) AS ratio,
        days_past,
        peers_events AS peers,
        COALESCE(tenths * $events_weight * (1 - own_events), 0) AS own_lost,
        COALESCE(tenths * $events_weight * 2 * (1 - peers_events), 0) AS peers_lost
    FROM compared
    UNION ALL
    SELECT
        account_id,
        block,
        is_due,
        has_fallen,
        3 AS component,
        'features in use' AS what,
        CASE WHEN seats IS NULL THEN '' ELSE ' for its seats' END AS measured_by,
        features_now / NULLIF(features_expected, 0) AS ratio,
        days_past,
        peers_features AS peers,
        COALESCE(tenths * $features_weight * (1 - own_features), 0) AS own_lost,
        COALESCE(tenths * $features_weight * 2 * (1 - peers_features), 0) AS peers_lost
    FROM compared
),
-- worth: what it takes to be said of itself. Under two points nothing is; of a component, a fall is said rather than a low place. Hardly
-- an account has all its seats in use at once: that is said of the lowest quarter, and of less than half where there are no peers.
components AS (
    SELECT
        account_id,
        block,
        is_due,
        component,
        own_lost + peers_lost AS lost,
        CASE
            WHEN own_lost >= 20 THEN own_lost
            WHEN peers_lost >= 20 AND peers < CAST(0.25 AS DOUBLE) THEN peers_lost
            ELSE 0
        END AS worth,
        CASE
            WHEN
                FLOOR(100 * (1 - ratio) + CAST(0.5 AS DOUBLE)) >= 1
                AND (own_lost >= 20 OR peers_lost = 0 OR has_fallen = 1 AND peers >= CAST(0.25 AS DOUBLE))
                THEN
                    what || ' down ' || CAST(CAST(FLOOR(100 * (1 - ratio) + CAST(0.5 AS DOUBLE)) AS BIGINT) AS VARCHAR)
                    || ' % in 14 days against the ' || CAST(CAST(FLOOR(days_past) AS BIGINT) AS VARCHAR) || ' before'
            WHEN own_lost >= 20 OR peers_lost = 0 THEN what || ' grew less than at other accounts'
            WHEN peers < CAST(0.1 AS DOUBLE) THEN what || measured_by || ' among the lowest tenth'
            WHEN peers < CAST(0.25 AS DOUBLE) THEN what || measured_by || ' among the lowest quarter'
            ELSE
                what || measured_by || ' ahead of only '
                || CAST(CAST(FLOOR(LEAST(100 * peers, 99) + CAST(0.5 AS DOUBLE)) AS BIGINT) AS VARCHAR) || ' % of other accounts'
        END AS reason
    FROM activity
    UNION ALL
    SELECT
        account_id,
        block,
        is_due,
        4 AS component,
        idle_lost AS lost,
        CASE WHEN idle_hours >= 336 THEN 1001 WHEN idle_hours >= 72 AND idle_lost >= 20 THEN idle_lost ELSE 0 END AS worth,
        'no activity for ' || CAST(CAST(FLOOR(CAST(idle_hours AS DOUBLE) / 24) AS BIGINT) AS VARCHAR) || ' days' AS reason
    FROM compared
    UNION ALL
    SELECT
        account_id,
        block,
        is_due,
        5 AS component,
        empty_seats_lost AS lost,
        CASE
            WHEN empty_seats_lost >= 20 AND COALESCE(peers_seats < CAST(0.25 AS DOUBLE), own_seats < CAST(0.5 AS DOUBLE))
                THEN empty_seats_lost
            ELSE 0
        END AS worth,
        'at most ' || CAST(users_at_most AS VARCHAR) || ' of ' || CAST(seats AS VARCHAR) || ' seats in use in an hour' AS reason
    FROM compared
),
-- Where a reason is due, what costs most is said.
said AS (
    SELECT
        *,
        CASE
            WHEN is_due = 1 AND lost = MAX(lost) OVER (PARTITION BY account_id, block) THEN GREATEST(lost, worth)
            ELSE worth
        END AS weight
    FROM components
    WHERE is_due = 1 OR worth > 0
),
placed AS (
    SELECT
        account_id,
        block,
        reason,
        ROW_NUMBER() OVER (PARTITION BY account_id, block ORDER BY weight DESC, component) AS place
    FROM said
    WHERE weight > 0
)
SELECT
    account_id,
    block,
    CONCAT_WS(
        '; ',
        MAX(CASE WHEN place = 1 THEN reason END),
        MAX(CASE WHEN place = 2 THEN reason END),
        MAX(CASE WHEN place = 3 THEN reason END)
    ) AS reasons
FROM placed
GROUP BY account_id, block
