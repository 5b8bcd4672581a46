-- One row per customer of the day: segment and value band in their main currency, the one with most orders (ties: the business's).
-- A band counts customers of the currency from the highest lifetime value: the first tenth is high, the next three tenths medium.
-- Equal values share a band; nobody who has brought nothing and will bring nothing is above low. Where no forecast of the currency has
-- passed its backtest the band is unknown.
WITH proved AS (
    SELECT DISTINCT currency
    FROM ltv_backtests
    WHERE as_of_date = $as_of AND chosen AND accepted
),
ranked AS (
    SELECT
        customer_id,
        currency,
        orders,
        lifetime_value,
        RANK() OVER (PARTITION BY currency ORDER BY lifetime_value DESC) AS place,
        COUNT(*) OVER (PARTITION BY currency) AS customers
    FROM customer_ltv
    WHERE as_of_date = $as_of
),
main AS (
    SELECT
        *,
        ROW_NUMBER() OVER (
            PARTITION BY customer_id
            ORDER BY orders DESC, CASE WHEN currency = $currency THEN 0 ELSE 1 END, currency
        ) AS preference
    FROM ranked
)
SELECT
    m.customer_id,
    s.segment,
    CASE
        WHEN p.currency IS NULL THEN 'unknown'
        WHEN m.lifetime_value <= 0 THEN 'low'
        WHEN (m.place - 1) * 10 < m.customers THEN 'high'
        WHEN (m.place - 1) * 10 < m.customers * 4 THEN 'medium'
        ELSE 'low'
    END AS value_band,
    m.place,
    m.customers
FROM main AS m
LEFT JOIN proved AS p ON m.currency = p.currency
LEFT JOIN customer_segments AS s
    ON m.customer_id = s.customer_id AND m.currency = s.currency AND s.as_of_date = $as_of
WHERE m.preference = 1
