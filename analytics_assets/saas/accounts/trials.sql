-- One row per trial that began by the end of the day while no contract ran.
-- It runs $trial_days days after the one on which it began. It ends on the next day if it was not billed, cancelled or begun again by then.
WITH turns AS (
    SELECT account_id, place, event_date, kind, LEAD(event_date) OVER (PARTITION BY account_id ORDER BY place) AS next_date
    FROM told
    WHERE kind IN ('trial', 'billed', 'canceled') AND (kind <> 'billed' OR amount IS NULL OR amount >= 0)
),
begun AS (
    SELECT
        t.account_id,
        t.place,
        t.event_date,
        t.next_date,
        MAX(
            CASE
                WHEN c.account_id IS NULL OR c.canceled_place < t.place AND c.status = 'canceled' THEN 0
                WHEN c.status = 'lapsed' AND c.ended_on < t.event_date THEN 0
                ELSE 1
            END
        ) AS under_contract
    FROM turns AS t
    LEFT JOIN contracts AS c ON t.account_id = c.account_id AND c.first_place < t.place
    WHERE t.kind = 'trial'
    GROUP BY t.account_id, t.place, t.event_date, t.next_date
)
SELECT
    account_id,
    place,
    event_date AS began_on,
    CASE
        WHEN COALESCE(next_date, $as_of) > event_date + $trial_days AND event_date + $trial_days < $as_of
            THEN event_date + $trial_days + 1
    END AS ended_on,
    ROW_NUMBER() OVER (PARTITION BY account_id ORDER BY place DESC) AS newest
FROM begun
WHERE under_contract = 0
