-- One row per account and block of 24 hours in which it was used. Blocks are counted from 0, which begins at $window_start_at.
-- features: the most that were used in one of its hours; users: the most people in one of its hours; last_hour: its last hour
-- with an event, counted from $window_start_at; latest_seats: the newest hour that knows the seats and, in the lower nine digits, the seats.
WITH hours AS (
    SELECT
        account_id,
        CAST(FLOOR((EPOCH(hour) - EPOCH($window_start_at)) / 3600) AS BIGINT) AS hour_number,
        events,
        active_users,
        features_used,
        CASE WHEN seats > 0 THEN LEAST(seats, 999999999) END AS seats
    FROM account_usage
    WHERE hour >= $window_start_at AND hour < $window_end_at
)
SELECT
    account_id,
    CAST(FLOOR(hour_number / 24) AS BIGINT) AS block,
    CAST(SUM(events) AS BIGINT) AS events,
    CAST(SUM(active_users) AS BIGINT) AS user_hours,
    MAX(features_used) AS features,
    MAX(active_users) AS users,
    MAX(hour_number) AS last_hour,
    MAX(hour_number * 1000000000 + seats) AS latest_seats
FROM hours
GROUP BY account_id, CAST(FLOOR(hour_number / 24) AS BIGINT)
