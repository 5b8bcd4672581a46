-- One row per landed file: what became of each of its lines. A line is repeated when an earlier one, in the order of files
-- and lines, says the same.
WITH files AS (
    SELECT file, revision, sha256, bytes, modified_at, lines, received_at, loaded_at FROM facts
    UNION ALL
    SELECT file, revision, sha256, bytes, modified_at, lines, received_at, loaded_at FROM export_files
    WHERE file NOT IN (SELECT file FROM facts)
),
firsts AS (
    SELECT record_id, min({'revision': revision, 'file': file, 'line_number': line_number}) AS first_line
    FROM records GROUP BY record_id
),
counted AS (
    SELECT
        r.file,
        count(*) FILTER (is_first AND kind = 'event') AS events,
        count(*) FILTER (is_first AND kind = 'set') AS property_sets,
        count(*) FILTER (is_first AND kind = 'alias') AS aliases,
        count(*) FILTER (NOT is_first) AS repeated_lines,
        min(occurred_at) AS first_event_at,
        max(occurred_at) AS last_event_at
    FROM (
        SELECT records.*, firsts.first_line.file = records.file AND firsts.first_line.line_number = records.line_number AS is_first
        FROM records INNER JOIN firsts USING (record_id)
    ) AS r
    GROUP BY r.file
),
rejected AS (
    SELECT file, count(*) AS rejected_lines FROM rejected_lines GROUP BY file
)
SELECT
    files.*,
    coalesce(events, 0) AS events,
    coalesce(property_sets, 0) AS property_sets,
    coalesce(aliases, 0) AS aliases,
    coalesce(repeated_lines, 0) AS repeated_lines,
    coalesce(rejected_lines, 0) AS rejected_lines,
    first_event_at,
    last_event_at
FROM files
LEFT JOIN counted USING (file)
LEFT JOIN rejected USING (file)
ORDER BY revision, file
