-- One row per identity that has the trait: its first value, and the day and second at which it was set.
WITH numbered AS (
    SELECT
        identity,
        trait,
        event_date,
        first_second,
        value,
        ROW_NUMBER() OVER (PARTITION BY identity ORDER BY first_second, value) AS place
    FROM traits
    WHERE trait = $trait
)
SELECT identity, trait, event_date, first_second, value
FROM numbered
WHERE place = 1
