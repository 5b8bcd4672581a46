-- One row per account, business day, and day of receipt by whose end another figure of it was known than the day before: all of the day
-- that had been received by then. Of an account that everybody turns out to have left the figures are 0.
-- What begins to be seen of an account adds to its figures, what is superseded takes away; a feature counts while an event of it is seen.
WITH hours AS (
    SELECT event_date, account_id, seen_on, superseded_on, user_id, hour, SUM(events) AS events, SUM(sessions) AS sessions
    FROM account_uses
    GROUP BY event_date, account_id, seen_on, superseded_on, user_id, hour
),
people AS (
    SELECT
        event_date,
        account_id,
        seen_on,
        superseded_on,
        SUM(events) AS events,
        1 AS active_users,
        COUNT(*) AS user_hours,
        SUM(sessions) AS sessions
    FROM hours
    GROUP BY event_date, account_id, seen_on, superseded_on, user_id
),
uses AS (
    SELECT event_date, account_id, feature, seen_on AS received_date, events
    FROM account_uses
    WHERE feature IS NOT NULL
    UNION ALL
    SELECT event_date, account_id, feature, superseded_on AS received_date, -events AS events
    FROM account_uses
    WHERE feature IS NOT NULL AND superseded_on IS NOT NULL
),
uses_known AS (
    SELECT
        event_date,
        account_id,
        feature,
        received_date,
        SUM(SUM(events)) OVER (
            PARTITION BY event_date, account_id, feature
            ORDER BY received_date
            ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ) AS events
    FROM uses
    GROUP BY event_date, account_id, feature, received_date
),
features AS (
    SELECT
        event_date,
        account_id,
        received_date,
        CASE WHEN events > 0 THEN 1 ELSE 0 END
        - CASE
            WHEN LAG(events) OVER (PARTITION BY event_date, account_id, feature ORDER BY received_date) > 0 THEN 1
            ELSE 0
        END AS features_used
    FROM uses_known
),
changes AS (
    SELECT event_date, account_id, seen_on AS received_date, events, active_users, user_hours, 0 AS features_used, sessions
    FROM people
    UNION ALL
    SELECT event_date, account_id, superseded_on, -events, -active_users, -user_hours, 0, -sessions
    FROM people
    WHERE superseded_on IS NOT NULL
    UNION ALL
    SELECT event_date, account_id, received_date, 0, 0, 0, features_used, 0
    FROM features
),
of_receipts AS (
    SELECT
        event_date,
        account_id,
        received_date,
        SUM(events) AS events,
        SUM(active_users) AS active_users,
        SUM(user_hours) AS user_hours,
        SUM(features_used) AS features_used,
        SUM(sessions) AS sessions
    FROM changes
    GROUP BY event_date, account_id, received_date
)
SELECT
    event_date,
    account_id,
    received_date,
    SUM(events) OVER known AS events,
    SUM(active_users) OVER known AS active_users,
    SUM(user_hours) OVER known AS user_hours,
    SUM(features_used) OVER known AS features_used,
    SUM(sessions) OVER known AS sessions
FROM of_receipts
WHERE events <> 0 OR active_users <> 0 OR user_hours <> 0 OR features_used <> 0 OR sessions <> 0
WINDOW known AS (
    PARTITION BY event_date, account_id ORDER BY received_date ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
)
