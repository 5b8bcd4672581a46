-- One row per identity that has the trait: its first value, and the day and second at which it was set.
WITH numbered AS (
    SELECT
        identity,
        trait,
        event_date,
        first_second,
        first_value,
        ROW_NUMBER() OVER (PARTITION BY identity ORDER BY first_second, first_value) AS place
    FROM traits
    WHERE trait = $trait
)
SELECT identity, trait, event_date, first_second, first_value
FROM numbered
WHERE place = 1
