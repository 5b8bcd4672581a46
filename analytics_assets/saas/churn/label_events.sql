-- One row per event of one of the named kinds.
SELECT e.event_date, e.event_id, e.identity, e.account_id, e.occurred_at, e.occurred_second, e.received_at
FROM events AS e
INNER JOIN named_events AS n ON e.name = n.name
WHERE e.event_date <= $as_of
