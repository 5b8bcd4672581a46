-- One row per identity, trait and value that was said before the first day, received by the end of the day: whose it is, and when it was
-- last said. Who was never seen since (a stranger) is on no map and goes by the name that they had then; NULL for words that many share.
-- DuckDB only: properties are JSON.
WITH said AS (
    SELECT
        identity,
        CASE WHEN $fold_email_case AND contains(identity, '@') THEN lower(identity) ELSE identity END AS name,
        epoch_us(occurred_at) // 1000000 AS second,
        unnest($traits) AS trait,
        unnest(json_extract_string(properties, $paths)) AS value
    FROM records
    WHERE
        kind <> 'alias'
        AND occurred_at < $first_day_begins
        AND coalesce(received_at, occurred_at) < $day_ends
        AND properties <> '{}'
),
last_said AS (
    SELECT identity, name, trait, value, max(second) AS said_second
    FROM said
    WHERE value <> ''
    GROUP BY ALL
),
people AS (
    SELECT
        CASE WHEN $fold_email_case AND contains(identity, '@') THEN lower(identity) ELSE identity END AS name,
        min(customer_id) AS customer_id
    FROM identities
    WHERE as_of_date = $as_of AND name IN (SELECT name FROM last_said)
    GROUP BY ALL
)
SELECT
    CASE
        WHEN p.name IS NOT NULL THEN p.customer_id
        WHEN NOT list_contains($blocked, lower(trim(s.identity))) THEN s.name
    END AS customer_id,
    s.identity,
    p.name IS NULL AS is_stranger,
    s.trait,
    s.value,
    s.said_second
FROM last_said AS s
LEFT JOIN people AS p ON s.name = p.name
