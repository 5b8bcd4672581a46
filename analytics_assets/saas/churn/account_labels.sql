-- One row per account whose contract ended in the days after the cut-off, up to $until, as known before $known_before:
-- cancelled (a trial too), or not renewed within the days of grace.
SELECT account_id AS subject_id
FROM contracts
WHERE ended_on > $cut_off AND ended_on <= $until
UNION
SELECT account_id AS subject_id
FROM turns
WHERE kind = 'canceled' AND turn_date > $cut_off AND turn_date <= $until AND known_at < $known_before
