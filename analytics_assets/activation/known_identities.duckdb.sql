-- One row per named identity of the day (in many shops people are named by their e-mail address), and per anonymous one that the
-- suppression file ($suppressed, lower case) names: a guest of an earlier list may have a name by now.
-- DuckDB only: a list as long as the file is joined, not searched for each identity.
SELECT customer_id, identity
FROM identities
WHERE
    as_of_date = $as_of
    AND customer_id IS NOT NULL
    AND (kind = 'named' OR LOWER(TRIM(NFC_NORMALIZE(identity))) IN (SELECT UNNEST(CAST($suppressed AS VARCHAR[]))))
