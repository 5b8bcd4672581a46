-- Orders as people see them: with the customer of the latest identity map. NULL for a blocked identity.
WITH latest AS (
    SELECT identity, customer_id
    FROM lake_identities
    WHERE as_of_date = (SELECT MAX(as_of_date) FROM lake_identities)
)
SELECT
    o.order_date,
    o.event_id,
    o.order_id,
    o.kind,
    o.identity,
    l.customer_id,
    o.ordered_at,
    o.received_at,
    o.currency,
    o.net_revenue,
    o.item_lines,
    o.units
FROM lake_orders AS o
LEFT JOIN latest AS l ON o.identity = l.identity
