-- One row per customer with a named identity (and currency) at the end of the day, with the segment of the day before.
SELECT
    CAST($as_of AS DATE) AS as_of_date,
    t.customer_id,
    t.currency,
    t.recency_days,
    t.frequency,
    t.monetary,
    t.r,
    t.f,
    t.m,
    t.segment,
    y.segment AS previous_segment
FROM rfm AS t
LEFT JOIN rfm AS y ON t.customer_id = y.customer_id AND t.currency = y.currency AND y.reference_day < $as_of
WHERE t.reference_day = $as_of
