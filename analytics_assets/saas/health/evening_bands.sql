-- One row per row of health_scores whose block ends with a business day of health_evenings, unless too little is known of all 28 scores:
-- on which side of each edge the account stood that evening (1 or 0).
-- Each edge is a switch that only a score beyond its hysteresis turns. The last turn of 28 daily scores decides; without one, the
-- oldest of them against the plain edge. A score of which too little is known counts in neither. The lowest digit holds the side.
WITH known AS (
    SELECT account_id, block, CASE WHEN coverage >= 1000 * CAST($least_coverage AS DOUBLE) THEN score END AS score
    FROM health_scores
),
turns AS (
    SELECT
        account_id,
        block,
        CASE
            WHEN score >= 10 * (CAST($healthy AS DOUBLE) + $hysteresis) THEN 2 * block + 1
            WHEN score < 10 * (CAST($healthy AS DOUBLE) - $hysteresis) THEN 2 * block
        END AS turned_healthy,
        CASE
            WHEN score < 10 * (CAST($at_risk AS DOUBLE) - $hysteresis) THEN 2 * block + 1
            WHEN score >= 10 * (CAST($at_risk AS DOUBLE) + $hysteresis) THEN 2 * block
        END AS turned_at_risk,
        CASE WHEN score >= 10 * CAST($healthy AS DOUBLE) THEN 2 * block + 1 WHEN score IS NOT NULL THEN 2 * block END AS plainly_healthy,
        CASE WHEN score < 10 * CAST($at_risk AS DOUBLE) THEN 2 * block + 1 WHEN score IS NOT NULL THEN 2 * block END AS plainly_at_risk
    FROM known
),
sides AS (
    SELECT
        account_id,
        block,
        COALESCE(MAX(turned_healthy) OVER days, MIN(plainly_healthy) OVER days) % 2 AS is_healthy,
        COALESCE(MAX(turned_at_risk) OVER days, MIN(plainly_at_risk) OVER days) % 2 AS is_at_risk
    FROM turns
    WINDOW days AS (PARTITION BY account_id ORDER BY block RANGE BETWEEN 27 PRECEDING AND CURRENT ROW)
)
SELECT CAST(e.as_of_date AS DATE) AS as_of_date, s.account_id, s.is_healthy, s.is_at_risk
FROM sides AS s
INNER JOIN health_evenings AS e ON s.block = e.block
WHERE s.is_healthy IS NOT NULL
