-- One row per event of the window that somebody did, and business day of receipt from whose end it is seen so (`seen_on`) until before
-- `superseded_on`: its account (NULL where nobody named one), its person, the feature, whether a session begins. Turns of a contract
-- and what a billing system sends ($not_usage) nobody did.
-- The account is the one that the event names, else the one that its person named last at that second: on this day, or before it as
-- `account_members` of the evening before says. A word that many people share carries no account from one event to another.
-- With $by_receipt a person's day is seen anew on every business day by whose end more of it had been received, or of the namings
-- before it: nothing received later counts. Without, it is seen once, with all that is known. Who is one person with whom is what was
-- known by the evening before the event's day.
WITH moments AS (
    SELECT
        d.event_date,
        d.evening_before,
        e.hour,
        e.identity,
        e.occurred_second,
        e.event_id AS record_id,
        e.account_id,
        COALESCE(
            e.feature,
            CASE
                WHEN LIST_CONTAINS($feature_events, e.name) THEN e.name
                WHEN $every_event_is_a_feature AND e.order_kind IS NULL AND NOT LIST_CONTAINS($not_features, e.name) THEN e.name
            END
        ) AS feature,
        COALESCE(e.received_at, e.occurred_at) AS known_at,
        1 AS is_event,
        CASE WHEN e.occurred_second >= d.start_second THEN 1 ELSE 0 END AS counts
    FROM events AS e
    INNER JOIN usage_days AS d ON e.event_date = d.event_date
    WHERE
        e.occurred_second >= d.start_second - $session_seconds
        AND e.occurred_second < d.end_second
        AND NOT LIST_CONTAINS($not_usage, e.name)
    UNION ALL
    SELECT
        d.event_date,
        d.evening_before,
        e.hour,
        e.identity,
        e.occurred_second,
        e.event_id AS record_id,
        NULL AS account_id,
        NULL AS feature,
        COALESCE(e.received_at, e.occurred_at) AS known_at,
        1 AS is_event,
        0 AS counts
    FROM events AS e
    INNER JOIN usage_days AS d ON e.event_date = d.evening_before
    WHERE e.occurred_second >= d.start_second - $session_seconds AND NOT LIST_CONTAINS($not_usage, e.name)
    UNION ALL
    SELECT
        d.event_date,
        d.evening_before,
        r.hour,
        r.identity,
        r.occurred_second,
        r.record_id,
        r.account_id,
        NULL AS feature,
        COALESCE(r.received_at, r.occurred_at) AS known_at,
        0 AS is_event,
        0 AS counts
    FROM account_records AS r
    INNER JOIN usage_days AS d ON r.event_date = d.event_date
    WHERE r.account_id IS NOT NULL AND r.occurred_second < d.end_second
),
spelt AS (
    SELECT *, CASE WHEN $fold_email_case AND identity LIKE '%@%' THEN LOWER(identity) ELSE identity END AS spelling
    FROM moments
),
people AS (
    SELECT
        m.*,
        COALESCE(k.user_id, m.spelling) AS user_id,
        LIST_CONTAINS($blocked, LOWER(TRIM(m.identity))) AS is_shared,
        CASE WHEN $by_receipt THEN CAST(m.known_at AT TIME ZONE $time_zone AS DATE) END AS received_on
    FROM spelt AS m
    LEFT JOIN known_names AS k ON m.evening_before = k.as_of_date AND m.spelling = k.name
),
dated AS (
    SELECT *, CASE WHEN received_on > event_date THEN received_on ELSE event_date END AS received_date
    FROM people
),
memberships AS (
    SELECT DISTINCT as_of_date, user_id, account_id, received_date, superseded_date
    FROM account_members
),
receipts AS (
    SELECT event_date, user_id, received_date, counts
    FROM dated
    UNION ALL
    SELECT d.event_date, k.user_id, k.received_date, 0 AS counts
    FROM memberships AS k
    INNER JOIN usage_days AS d ON k.as_of_date = d.evening_before
    WHERE $by_receipt AND k.received_date > d.event_date
),
looks AS (
    SELECT
        event_date,
        user_id,
        received_date AS seen_on,
        MAX(MAX(counts)) OVER (
            PARTITION BY event_date, user_id ORDER BY received_date ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ) AS has_events,
        LEAD(received_date) OVER (PARTITION BY event_date, user_id ORDER BY received_date) AS superseded_on
    FROM receipts
    GROUP BY event_date, user_id, received_date
),
sights AS (
    SELECT event_date, user_id, seen_on, superseded_on
    FROM looks
    WHERE has_events = 1
),
in_order AS (
    SELECT
        p.*,
        s.seen_on,
        s.superseded_on,
        LAST_VALUE(CASE WHEN NOT p.is_shared THEN p.account_id END IGNORE NULLS) OVER (
            PARTITION BY p.event_date, p.user_id, s.seen_on
            ORDER BY p.occurred_second, CASE WHEN p.account_id IS NULL THEN 1 ELSE 0 END, p.record_id, p.is_event
            ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ) AS named_account,
        MAX(CASE WHEN p.is_event = 1 THEN p.occurred_second END) OVER (
            PARTITION BY p.event_date, p.user_id, s.seen_on
            ORDER BY p.occurred_second, CASE WHEN p.account_id IS NULL THEN 1 ELSE 0 END, p.record_id, p.is_event
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) AS second_before
    FROM dated AS p
    INNER JOIN sights AS s ON p.event_date = s.event_date AND p.user_id = s.user_id AND p.received_date <= s.seen_on
)
SELECT
    o.event_date,
    o.hour,
    CASE
        WHEN NOT $people_are_accounts AND o.account_id IS NOT NULL THEN o.account_id
        WHEN o.is_shared THEN NULL
        WHEN $people_are_accounts THEN o.user_id
        ELSE COALESCE(o.named_account, k.account_id)
    END AS account_id,
    o.user_id,
    o.feature,
    o.seen_on,
    o.superseded_on,
    CASE WHEN o.second_before IS NULL OR o.occurred_second - o.second_before > $session_seconds THEN 1 ELSE 0 END AS begins_session
FROM in_order AS o
LEFT JOIN memberships AS k
    ON o.evening_before = k.as_of_date AND o.user_id = k.user_id
    AND CASE
        WHEN $by_receipt THEN k.received_date <= o.seen_on AND COALESCE(k.superseded_date > o.seen_on, TRUE)
        ELSE k.superseded_date IS NULL
    END
WHERE o.counts = 1
