-- One row per cohort, currency and period that has begun: who of its customers ordered in it, and what they brought.
-- A cell is a cohort's customers of one first month in one period; it is over when that calendar month has ended. Figures add up
-- the cells that are over, and are NULL where none is. Months without an order are zeros.
WITH days AS (
    SELECT CAST($as_of AS DATE) AS today, CAST($as_of AS DATE) + 1 AS tomorrow
),
calendar AS (
    SELECT
        12 * EXTRACT(YEAR FROM today) + EXTRACT(MONTH FROM today) AS this_month,
        12 * EXTRACT(YEAR FROM tomorrow) + EXTRACT(MONTH FROM tomorrow) - 1 AS last_whole_month
    FROM days
),
digits AS (
    SELECT n
    FROM (VALUES (0), (1), (2), (3), (4), (5), (6), (7), (8), (9)) AS t (n)
),
periods AS (
    SELECT hundreds.n * 100 + tens.n * 10 + ones.n AS period
    FROM digits AS hundreds
    CROSS JOIN digits AS tens
    CROSS JOIN digits AS ones
),
sizes AS (
    SELECT cohort, currency, first_month, COUNT(*) AS customers
    FROM cohort_members
    GROUP BY cohort, currency, first_month
),
activity AS (
    SELECT m.cohort, c.currency, c.first_month, c.period, SUM(c.active) AS active, SUM(c.net_revenue) AS net_revenue
    FROM customer_months AS c
    INNER JOIN cohort_members AS m ON c.customer_id = m.customer_id AND c.currency = m.currency
    GROUP BY m.cohort, c.currency, c.first_month, c.period
),
cells AS (
    SELECT
        s.cohort,
        s.currency,
        p.period,
        s.customers,
        COALESCE(a.active, 0) AS active,
        COALESCE(a.net_revenue, 0) AS net_revenue,
        SUM(COALESCE(a.net_revenue, 0)) OVER (PARTITION BY s.cohort, s.currency, s.first_month ORDER BY p.period) AS cumulative,
        CASE WHEN s.first_month + p.period <= k.last_whole_month THEN 1 ELSE 0 END AS is_over
    FROM sizes AS s
    CROSS JOIN calendar AS k
    INNER JOIN periods AS p ON s.first_month + p.period <= k.this_month
    LEFT JOIN activity AS a
        ON s.cohort = a.cohort AND s.currency = a.currency AND s.first_month = a.first_month AND p.period = a.period
),
observed AS (
    SELECT cohort, currency, period, SUM(customers) AS customers, SUM(active) AS active, SUM(net_revenue) AS net_revenue,
        SUM(cumulative) AS cumulative
    FROM cells
    WHERE is_over = 1
    GROUP BY cohort, currency, period
),
begun AS (
    SELECT cohort, currency, period, SUM(customers) AS customers
    FROM cells
    GROUP BY cohort, currency, period
)
SELECT
    CAST($as_of AS DATE) AS as_of_date,
    $cohort_by AS cohort_by,
    b.cohort,
    b.currency,
    b.period,
    COALESCE(o.customers, b.customers) AS customers,
    o.active,
    ROUND(o.active / o.customers, 6) AS retention,
    o.net_revenue,
    -- Rounded in whole hundredths, half of one upwards: a division of decimals is a double in one engine and a decimal in the other.
    CAST(FLOOR((2 * CAST(100 * o.cumulative AS DOUBLE) + o.customers) / (2 * o.customers)) / 100 AS DECIMAL(18, 2))
        AS cumulative_net_revenue_per_customer
FROM begun AS b
LEFT JOIN observed AS o ON b.cohort = o.cohort AND b.currency = o.currency AND b.period = o.period
