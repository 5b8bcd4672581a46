-- One row per asset and successful run of a single partition, the newest of each asset: how long it took.
WITH numbered AS (
    SELECT
        asset,
        seconds,
        ROW_NUMBER() OVER (PARTITION BY asset ORDER BY started_at DESC, run_id) AS place
    FROM batch_runs
    WHERE status = 'success' AND partitions = 1
)

SELECT asset, seconds
FROM numbered
WHERE place <= $newest
ORDER BY asset, place
