-- One row per account, person, hour, feature (NULL where none was used), and time for which their events were seen so: how many they
-- were, and sessions that began with one.
SELECT
    event_date,
    account_id,
    seen_on,
    superseded_on,
    user_id,
    hour,
    feature,
    COUNT(*) AS events,
    SUM(begins_session) AS sessions
FROM account_events
WHERE account_id IS NOT NULL
GROUP BY event_date, account_id, seen_on, superseded_on, user_id, hour, feature
