-- One row per customer of the cut-off who did one of the named events in the days after it, as known before $known_before.
-- Events of any identity count that was known to be theirs by then, also those joined to them after the cut-off.
WITH doers AS (
    SELECT DISTINCT l.customer_id
    FROM label_events AS e
    INNER JOIN customers_later AS l ON e.identity = l.identity
    WHERE
        e.event_date > $cut_off
        AND e.event_date <= $label_until
        AND COALESCE(e.received_at, e.occurred_at) < $known_before
)
SELECT DISTINCT p.customer_id AS subject_id
FROM customers_then AS p
INNER JOIN customers_later AS l ON p.identity = l.identity
INNER JOIN doers AS d ON l.customer_id = d.customer_id
