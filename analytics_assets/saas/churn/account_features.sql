-- One row per account under contract or on trial at the end of the cut-off: what was known of it then.
-- Of more than $most accounts a sample is taken, by digest of their names.
WITH subjects AS (
    SELECT *, ROW_NUMBER() OVER (ORDER BY MD5(account_id), account_id) AS sample_place
    FROM standing
    WHERE status IN ('active', 'trial')
),
changes AS (
    SELECT
        account_id,
        SUM(CASE WHEN kind = 'upgraded' THEN 1 ELSE 0 END) AS upgrades_90,
        SUM(CASE WHEN kind = 'downgraded' THEN 1 ELSE 0 END) AS downgrades_90
    FROM told
    WHERE DATE_DIFF('day', CAST(event_date AS DATE), CAST($cut_off AS DATE)) < 90
    GROUP BY account_id
),
namings AS (
    SELECT CASE WHEN $people_are_accounts THEN p.user_id ELSE r.account_id END AS account_id, r.event_date
    FROM account_records AS r
    LEFT JOIN people AS p ON r.identity = p.identity
    WHERE r.event_date <= $cut_off AND COALESCE(r.received_at, r.occurred_at) < $end_at
),
first_named AS (
    SELECT account_id, MIN(event_date) AS first_date
    FROM namings
    GROUP BY account_id
),
days AS (
    SELECT
        account_id,
        DATE_DIFF('day', event_date, CAST($cut_off AS DATE)) AS days_ago,
        events,
        active_users,
        features_used,
        sessions,
        ROW_NUMBER() OVER (PARTITION BY account_id, event_date ORDER BY received_date DESC) AS newest
    FROM account_days
    WHERE
        event_date <= $cut_off
        AND received_date <= $cut_off
        AND DATE_DIFF('day', event_date, CAST($cut_off AS DATE)) < 56
),
usage AS (
    SELECT
        account_id,
        SUM(CASE WHEN days_ago < 7 THEN events ELSE 0 END) AS events_7,
        SUM(CASE WHEN days_ago < 14 THEN events ELSE 0 END) AS events_14,
        SUM(CASE WHEN days_ago < 28 THEN events ELSE 0 END) AS events_28,
        SUM(events) AS events_56,
        SUM(CASE WHEN days_ago < 14 THEN active_users ELSE 0 END) AS user_days_14,
        SUM(CASE WHEN days_ago < 28 THEN active_users ELSE 0 END) AS user_days_28,
        SUM(active_users) AS user_days_56,
        SUM(CASE WHEN days_ago < 14 THEN features_used ELSE 0 END) AS feature_days_14,
        SUM(CASE WHEN days_ago < 28 THEN features_used ELSE 0 END) AS feature_days_28,
        SUM(CASE WHEN days_ago < 14 THEN sessions ELSE 0 END) AS sessions_14,
        SUM(CASE WHEN days_ago < 28 THEN sessions ELSE 0 END) AS sessions_28,
        MAX(CASE WHEN days_ago < 28 THEN active_users ELSE 0 END) AS peak_users_28,
        SUM(CASE WHEN days_ago < 28 THEN 1 ELSE 0 END) AS active_days_28,
        MIN(days_ago) AS idle_days
    FROM days
    WHERE newest = 1 AND events > 0
    GROUP BY account_id
)
SELECT
    s.account_id AS subject_id,
    CASE WHEN s.status = 'trial' THEN 1 ELSE 0 END AS trial,
    s.plan,
    s.seats,
    s.mrr,
    DATE_DIFF('day', CAST(f.first_date AS DATE), CAST($cut_off AS DATE)) AS account_age_days,
    s.renewals,
    DATE_DIFF('day', CAST($cut_off AS DATE), CAST(s.paid_through AS DATE)) AS days_to_renewal,
    COALESCE(c.upgrades_90, 0) AS upgrades_90,
    COALESCE(c.downgrades_90, 0) AS downgrades_90,
    COALESCE(u.events_7, 0) AS events_7,
    COALESCE(u.events_14, 0) AS events_14,
    COALESCE(u.events_28, 0) AS events_28,
    COALESCE(u.events_56, 0) AS events_56,
    COALESCE(u.user_days_14, 0) AS user_days_14,
    COALESCE(u.user_days_28, 0) AS user_days_28,
    COALESCE(u.user_days_56, 0) AS user_days_56,
    COALESCE(u.feature_days_14, 0) AS feature_days_14,
    COALESCE(u.feature_days_28, 0) AS feature_days_28,
    COALESCE(u.sessions_14, 0) AS sessions_14,
    COALESCE(u.sessions_28, 0) AS sessions_28,
    COALESCE(u.peak_users_28, 0) AS peak_users_28,
    COALESCE(u.active_days_28, 0) AS active_days_28,
    COALESCE(u.idle_days, 56) AS idle_days
FROM subjects AS s
INNER JOIN first_named AS f ON s.account_id = f.account_id
LEFT JOIN changes AS c ON s.account_id = c.account_id
LEFT JOIN usage AS u ON s.account_id = u.account_id
WHERE s.sample_place <= $most
