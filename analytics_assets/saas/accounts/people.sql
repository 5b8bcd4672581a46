-- One row per identity that had been seen or aliased by the end of the day: the person that it belongs to, and the business day on
-- which it was first seen (where people are accounts). A word that many people share is nobody.
SELECT
    i.identity,
    COALESCE(
        i.customer_id, CASE WHEN $fold_email_case AND i.identity LIKE '%@%' THEN LOWER(i.identity) ELSE i.identity END
    ) AS user_id,
    CAST(f.first_seen_at AT TIME ZONE $time_zone AS DATE) AS first_seen_date
FROM identities AS i
LEFT JOIN first_seen AS f ON i.identity = f.identity
WHERE i.as_of_date = $as_of AND NOT LIST_CONTAINS($blocked, LOWER(TRIM(i.identity)))
