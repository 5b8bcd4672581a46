-- One row per day, currency, segment of the day before (NULL: not yet a customer) and segment, with the number of customers.
SELECT
    t.reference_day,
    t.currency,
    y.segment AS previous_segment,
    t.segment,
    COUNT(*) AS customers
FROM rfm AS t
LEFT JOIN rfm AS y ON t.customer_id = y.customer_id AND t.currency = y.currency AND y.reference_day = t.reference_day + CAST(-1 AS INTEGER)
WHERE t.reference_day > $first_day
GROUP BY t.reference_day, t.currency, y.segment, t.segment
