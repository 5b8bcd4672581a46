-- One row per business day and night asset: its first successful computation of that day alone, ranges left out.
WITH computed AS (
    SELECT
        CAST(partition AS DATE) AS business_day,
        asset,
        started_at,
        finished_at,
        seconds,
        rows,
        ROW_NUMBER() OVER (PARTITION BY partition, asset ORDER BY started_at, run_id) AS time_over
    FROM batch_runs
    WHERE status = 'success' AND partitions = 1 AND LENGTH(partition) = 10
)

SELECT business_day, asset, started_at, finished_at, seconds, rows
FROM computed
WHERE time_over = 1
ORDER BY business_day, asset
