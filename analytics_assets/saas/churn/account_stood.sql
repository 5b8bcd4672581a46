-- One row per account that was under contract or on trial at the end of the cut-off, by what is known now: an end before it that was
-- received after it counts.
SELECT account_id
FROM contracts
WHERE billed_since <= $cut_off AND (ended_on IS NULL OR ended_on > $cut_off)
UNION
SELECT t.account_id
FROM trials AS t
LEFT JOIN told AS n
    ON t.account_id = n.account_id
    AND n.place > t.place
    AND n.event_date <= $cut_off
    AND (n.kind IN ('canceled', 'trial') OR (n.kind = 'billed' AND (n.amount IS NULL OR n.amount >= 0)))
WHERE t.began_on <= $cut_off AND (t.ended_on IS NULL OR t.ended_on > $cut_off) AND n.account_id IS NULL
