-- One row per product and related product: how often the two stood in one basket, up to the end of the day.
-- A basket is the different products of an order. Each unordered pair is counted once and told in both directions.
WITH lines AS (
    SELECT DISTINCT event_id, product_id
    FROM order_items
    WHERE kind = 'order' AND quantity > 0 AND order_date >= $first_day AND order_date <= $as_of
),
sizes AS (
    SELECT event_id, COUNT(*) AS products
    FROM lines
    GROUP BY event_id
),
total AS (
    SELECT COUNT(*) AS baskets
    FROM sizes
    WHERE products <= $basket_cap
),
too_large AS (
    SELECT event_id
    FROM sizes
    WHERE products > $basket_cap
),
capped AS (
    SELECT l.event_id, l.product_id
    FROM lines AS l
    LEFT JOIN too_large AS t ON l.event_id = t.event_id
    WHERE t.event_id IS NULL
),
-- A pair is at most as frequent as its rarer product (Agrawal and Srikant 1994): rare products leave before the join.
frequent AS (
    SELECT product_id, COUNT(*) AS baskets, ROW_NUMBER() OVER (ORDER BY product_id) AS number
    FROM capped
    GROUP BY product_id
    HAVING COUNT(*) >= $minimum_baskets
),
baskets AS (
    SELECT c.event_id, f.number
    FROM capped AS c
    INNER JOIN frequent AS f ON c.product_id = f.product_id
),
pairs AS (
    SELECT a.number AS one, b.number AS other, COUNT(*) AS baskets
    FROM baskets AS a
    INNER JOIN baskets AS b ON a.event_id = b.event_id AND a.number < b.number
    GROUP BY a.number, b.number
    HAVING COUNT(*) >= $minimum_baskets
),
directed AS (
    SELECT one AS product, other AS related, baskets FROM pairs
    UNION ALL
    SELECT other AS product, one AS related, baskets FROM pairs
),
measured AS (
    SELECT
        p.product_id,
        r.product_id AS related_product_id,
        d.baskets,
        ROUND(CAST(d.baskets AS DOUBLE) / t.baskets, 9) AS support,
        ROUND(CAST(d.baskets AS DOUBLE) / p.baskets, 6) AS confidence,
        ROUND(CAST(d.baskets AS DOUBLE) * t.baskets / (CAST(p.baskets AS DOUBLE) * r.baskets), 6) AS lift,
        -- Counts scatter like Poisson's: their square root has the standard deviation 1/2 (Anscombe 1948).
        ROUND(
            (SQRT(CAST(d.baskets AS DOUBLE)) - 1) * (SQRT(CAST(d.baskets AS DOUBLE)) - 1)
            * t.baskets / (CAST(p.baskets AS DOUBLE) * r.baskets),
            6
        ) AS lift_low,
        CASE
            WHEN d.baskets < p.baskets
                THEN ROUND(
                    CAST(p.baskets AS DOUBLE) * (t.baskets - r.baskets) / (CAST(t.baskets AS DOUBLE) * (p.baskets - d.baskets)), 6
                )
        END AS conviction
    FROM directed AS d
    INNER JOIN frequent AS p ON d.product = p.number
    INNER JOIN frequent AS r ON d.related = r.number
    CROSS JOIN total AS t
),
ranked AS (
    SELECT
        *,
        ROW_NUMBER() OVER (PARTITION BY product_id ORDER BY lift_low DESC, baskets DESC, related_product_id) AS rank
    FROM measured
)
SELECT
    CAST($as_of AS DATE) AS as_of_date,
    product_id,
    related_product_id,
    baskets,
    support,
    confidence,
    lift,
    lift_low,
    conviction,
    rank
FROM ranked
WHERE rank <= $related_products
