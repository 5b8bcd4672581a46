-- One row per account and hour in which its people did something; seats as they stood at the end of the hour.
WITH used AS (
    SELECT
        event_date,
        hour,
        account_id,
        COUNT(*) AS events,
        COUNT(DISTINCT user_id) AS active_users,
        COUNT(DISTINCT feature) AS features_used,
        COUNT(CASE WHEN begins_session = 1 THEN 1 END) AS sessions
    FROM account_events
    WHERE account_id IS NOT NULL
    GROUP BY event_date, hour, account_id
)
SELECT
    u.event_date,
    u.hour,
    u.account_id,
    u.events,
    u.active_users,
    u.features_used,
    u.sessions,
    COALESCE(s.seats, a.seats) AS seats
FROM used AS u
INNER JOIN usage_days AS d ON u.event_date = d.event_date
LEFT JOIN account_seats AS s
    ON u.event_date = s.event_date
    AND u.account_id = s.account_id
    AND u.hour >= s.hour
    AND (s.until_hour IS NULL OR u.hour < s.until_hour)
LEFT JOIN accounts AS a ON d.evening_before = a.as_of_date AND u.account_id = a.account_id
