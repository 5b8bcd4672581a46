-- One row per identity, business day, trait and value: when the day first and last gave it.
-- DuckDB only: traits are properties that the settings name, and properties are JSON.
WITH said AS (
    SELECT event_date, identity, occurred_second, properties FROM events
    UNION ALL
    SELECT event_date, identity, occurred_second, properties FROM property_sets
),
traits AS (
    SELECT
        event_date,
        identity,
        occurred_second,
        unnest($traits) AS trait,
        unnest(json_extract_string(properties, $paths)) AS value
    FROM said
    WHERE event_date BETWEEN $first_day AND $last_day AND properties <> '{}'
)
SELECT event_date, identity, trait, value, min(occurred_second) AS first_second, max(occurred_second) AS last_second
FROM traits
WHERE value <> ''
GROUP BY event_date, identity, trait, value
