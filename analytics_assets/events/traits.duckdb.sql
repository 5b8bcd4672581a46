-- One row per identity, business day and trait: the day's first and last value.
-- DuckDB only: traits are properties that the settings name, and properties are JSON.
WITH said AS (
    SELECT event_date, identity, occurred_second, event_id AS said_in, properties FROM events
    UNION ALL
    SELECT event_date, identity, occurred_second, set_id, properties FROM property_sets
),
traits AS (
    SELECT
        event_date,
        identity,
        {'second': occurred_second, 'said_in': said_in} AS moment,
        unnest($traits) AS trait,
        unnest(json_extract_string(properties, $paths)) AS value
    FROM said
    WHERE event_date BETWEEN $first_day AND $last_day AND properties <> '{}'
)
SELECT
    event_date,
    identity,
    trait,
    min_by(value, moment) AS first_value,
    min(moment).second AS first_second,
    max_by(value, moment) AS last_value,
    max(moment).second AS last_second
FROM traits
WHERE value <> ''
GROUP BY event_date, identity, trait
