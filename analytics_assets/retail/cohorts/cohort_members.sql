-- One row per customer with an order (and currency): the cohort is the calendar month of the first order, such as 2026-01.
WITH first_orders AS (
    SELECT DISTINCT customer_id, currency, first_month, CAST(FLOOR((first_month - 1) / 12) AS BIGINT) AS year
    FROM customer_months
)
SELECT
    customer_id,
    currency,
    first_month,
    CAST(year AS VARCHAR) || '-' || LPAD(CAST(first_month - 12 * year AS VARCHAR), 2, '0') AS cohort
FROM first_orders
