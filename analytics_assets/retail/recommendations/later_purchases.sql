-- One row per customer and product that was bought after the day `until`, up to `last_day`; no number: not in the catalogue yet.
SELECT DISTINCT p.customer, i.product_id, c.product
FROM order_items AS i
INNER JOIN orders AS o ON i.event_id = o.event_id
INNER JOIN identities AS m ON o.identity = m.identity AND m.as_of_date = $as_of
INNER JOIN listed_customers AS p ON m.customer_id = p.customer_id
LEFT JOIN catalogue AS c ON i.product_id = c.product_id
WHERE i.kind = 'order' AND i.quantity > 0 AND i.order_date > $until AND i.order_date <= $last_day
