-- One row per account whose contract ended in the days after the cut-off, up to $label_until:
-- cancelled, or not renewed within the days of grace; a trial: cancelled, or not billed by its end.
SELECT account_id
FROM contracts
WHERE ended_on > $cut_off AND ended_on <= $label_until
UNION
SELECT account_id
FROM trials
WHERE ended_on > $cut_off AND ended_on <= $label_until
UNION
SELECT account_id
FROM told
WHERE kind = 'canceled' AND event_date > $cut_off AND event_date <= $label_until
