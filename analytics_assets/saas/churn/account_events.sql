-- One row per account of whose people somebody did one of the named events in the days after the cut-off, as known before $known_before.
-- An event belongs to the account that it names, else to the one that its person had named last by the cut-off.
WITH named AS (
    SELECT
        u.user_id,
        r.account_id,
        ROW_NUMBER() OVER (PARTITION BY u.user_id ORDER BY r.occurred_second DESC, r.record_id DESC) AS place
    FROM account_records AS r
    INNER JOIN people AS u ON r.identity = u.identity
    WHERE r.account_id IS NOT NULL AND r.event_date <= $cut_off AND COALESCE(r.received_at, r.occurred_at) < $end_at
)
SELECT DISTINCT
    CASE WHEN $people_are_accounts THEN u.user_id ELSE COALESCE(e.account_id, n.account_id) END AS subject_id
FROM label_events AS e
LEFT JOIN people AS u ON e.identity = u.identity
LEFT JOIN named AS n ON u.user_id = n.user_id AND n.place = 1
WHERE
    e.event_date > $cut_off
    AND e.event_date <= $label_until
    AND COALESCE(e.received_at, e.occurred_at) < $known_before
