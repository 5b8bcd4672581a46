-- One row per customer with an order (and currency): the cohort is the customer's earliest value of the trait up to the end of the
-- day, over all of the customer's identities; `unknown` for those without one.
WITH found AS (
    SELECT
        i.customer_id,
        v.value,
        ROW_NUMBER() OVER (PARTITION BY i.customer_id ORDER BY v.first_second, v.identity, v.value) AS place
    FROM first_values AS v
    INNER JOIN identities AS i ON v.identity = i.identity AND i.as_of_date = $as_of
    WHERE v.event_date <= $as_of
),
buyers AS (
    SELECT DISTINCT customer_id, currency, first_month
    FROM customer_months
)
SELECT b.customer_id, b.currency, b.first_month, COALESCE(f.value, 'unknown') AS cohort
FROM buyers AS b
LEFT JOIN found AS f ON b.customer_id = f.customer_id AND f.place = 1
