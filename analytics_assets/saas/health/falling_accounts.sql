-- One row per account whose contract had not ended by the end of $as_of and whose score lost at least $falling tenths of a point in
-- 28 days, and since when it has without a break; the end of $as_of is block $block of health_scores, and $blocks before it are
-- looked at.
-- An account of account_health without a row in health_scores has not been used for six weeks: its score is 0.
WITH ends AS (
    SELECT DISTINCT block
    FROM health_scores
    WHERE block > $block - $blocks AND block <= $block
),
falls AS (
    SELECT
        h.account_id,
        e.block,
        CASE
            WHEN t.score - CASE WHEN s.account_id IS NULL THEN 0 ELSE s.score END >= $falling THEN 1
            ELSE 0
        END AS falls
    FROM account_health AS h
    CROSS JOIN ends AS e
    LEFT JOIN health_scores AS s ON h.account_id = s.account_id AND e.block = s.block
    LEFT JOIN health_scores AS t ON h.account_id = t.account_id AND e.block - 28 = t.block
),
since AS (
    SELECT
        account_id,
        MAX(CASE WHEN block = $block THEN falls END) AS falls,
        COALESCE(MAX(CASE WHEN falls = 0 THEN block END), $block - $blocks) + 1 AS first_block
    FROM falls
    GROUP BY account_id
)
SELECT
    CAST($as_of AS DATE) AS as_of_date,
    h.account_id,
    h.score,
    h.trend,
    h.band,
    CAST($as_of AS DATE) + CAST(ROUND(f.first_block - $block) AS INTEGER) AS falling_since,
    a.mrr,
    a.currency,
    h.reasons
FROM since AS f
INNER JOIN account_health AS h ON f.account_id = h.account_id
INNER JOIN accounts AS a ON f.account_id = a.account_id AND a.as_of_date = $as_of
WHERE f.falls = 1 AND a.ended_on IS NULL
