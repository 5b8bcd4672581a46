-- One row per line of `export_lines`, which all have their keys among $paths; `row` is the line's place in the batch.
-- Where a line turns out not to be ordinary, `ordinary` is not true, and the reader parses the line by itself.
--
-- $paths   JSON pointers: _p, _p2, the time, then properties in canonical order, then system keys
-- $labels  the canonical key and its colon, '"order id":', for each path
-- $written the same with the key as the lines spell it, '"Order ID":'
-- $alias   whether the lines have the key _p2
--
-- PROPERTIES and SYSTEM stand for one json_pair(found[n], $labels[n], $written[n], line) for each key, n being its
-- place in $paths. (A lambda over the list would need no such places, and took twice the time of the whole query.)
-- A raw line end, which no JSON text holds, stands for a value that is not ordinary, and parts what the id is made of.
-- Conditions are a column, not a WHERE: DuckDB computes twice what a WHERE over computed columns is about.
WITH parsed AS (
    SELECT row, name, line, CAST(json_extract(line, $paths) AS VARCHAR[]) AS found
    FROM export_lines
),

timed AS (
    SELECT *, CASE WHEN found[3] LIKE '"%' THEN trim(found[3], '"') ELSE found[3] END AS time_text
    FROM parsed
),

fields AS (
    SELECT
        row,
        name,
        json_scalar(found[1]) AS identity_text,
        json_scalar(found[2]) AS other_identity_text,
        -- UINTEGER holds the seconds until 2106. The comparison keeps out 1.5, which a cast would round.
        CASE
            WHEN CAST(TRY_CAST(time_text AS UINTEGER) AS VARCHAR) = time_text
                THEN CAST(TRY_CAST(time_text AS UINTEGER) AS BIGINT) * 1000000
        END AS occurred_at,
        '{' || concat_ws(',', NULL, PROPERTIES) || '}' AS properties,
        '{' || concat_ws(',', NULL, SYSTEM) || '}' AS system,
        CASE WHEN $alias THEN 'alias' WHEN name IS NOT NULL THEN 'event' ELSE 'set' END AS kind
    FROM timed
),

identified AS (
    SELECT
        *,
        json_extract_string(identity_text, '$') AS identity,
        json_extract_string(other_identity_text, '$') AS other_identity
    FROM fields
)

SELECT
    row,
    kind,
    md5(concat(  -- of the same text as in kissmetrics_line.py; concat reads NULL as ''
        kind, chr(10),
        identity_text, chr(10),
        other_identity_text, chr(10),
        CAST(to_json(name) AS VARCHAR), chr(10),
        CAST(occurred_at AS VARCHAR), chr(10),
        properties
    )) AS record_id,
    identity,
    other_identity,
    name,
    occurred_at,
    properties,
    nullif(system, '{}') AS system,
    occurred_at IS NOT NULL
    AND NOT contains(properties, chr(10))
    AND NOT contains(system, chr(10))
    -- An identity that begins with a printable ASCII character is not blank; others are looked at one by one.
    AND identity BETWEEN '!' AND '~~'
    AND (NOT $alias OR other_identity BETWEEN '!' AND '~~') AS ordinary
FROM identified
