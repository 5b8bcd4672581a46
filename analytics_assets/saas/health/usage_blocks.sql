-- One row per account and block in which it was used: a day that ends with the hour that is scored (block_hours).
-- features: the most that were used in one of its hours; users: the most people in one of its hours; last_hour: its last hour
-- with an event; latest_seats: the newest hour that knows the seats and, in the lower nine digits, the seats.
SELECT
    u.account_id,
    h.block,
    CAST(SUM(u.events) AS BIGINT) AS events,
    CAST(SUM(u.active_users) AS BIGINT) AS user_hours,
    MAX(u.features_used) AS features,
    MAX(u.active_users) AS users,
    MAX(h.hour_number) AS last_hour,
    MAX(h.hour_number * 1000000000 + CASE WHEN u.seats > 0 THEN LEAST(u.seats, 999999999) END) AS latest_seats
FROM account_usage AS u
INNER JOIN block_hours AS h ON u.hour = h.hour
GROUP BY u.account_id, h.block
