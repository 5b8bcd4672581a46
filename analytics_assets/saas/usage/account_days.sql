-- One row per account, business day, and day of receipt: what is counted are the events that had been received by that day's end
-- and not before it began. Events, sessions and pairs of person and hour of one day of receipt are not in another's row.
WITH activity AS (
    SELECT *
    FROM account_events
    WHERE account_id IS NOT NULL
),
used AS (
    SELECT
        event_date,
        account_id,
        received_date,
        COUNT(*) AS events,
        COUNT(DISTINCT user_id) AS active_users,
        COUNT(DISTINCT feature) AS features_used,
        COUNT(CASE WHEN begins_session = 1 THEN 1 END) AS sessions
    FROM activity
    GROUP BY event_date, account_id, received_date
),
hours_of_people AS (
    SELECT DISTINCT event_date, account_id, received_date, user_id, hour
    FROM activity
),
hours_used AS (
    SELECT event_date, account_id, received_date, COUNT(*) AS user_hours
    FROM hours_of_people
    GROUP BY event_date, account_id, received_date
)
SELECT
    u.event_date,
    u.account_id,
    u.received_date,
    u.events,
    u.active_users,
    h.user_hours,
    u.features_used,
    u.sessions
FROM used AS u
INNER JOIN hours_used AS h
    ON u.event_date = h.event_date AND u.account_id = h.account_id AND u.received_date = h.received_date
