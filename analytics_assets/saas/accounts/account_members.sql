-- One row per identity of a person who had named an account by the end of the day: the account that the person named last.
-- Namings of these days that were received later make further rows, of the day of that receipt: what was known by then.
-- Where people are accounts, one row per identity of everybody who was seen: the person.
WITH seen AS (
    SELECT DISTINCT user_id
    FROM people
    WHERE first_seen_date <= $as_of
),
named AS (
    SELECT
        p.user_id,
        r.account_id,
        r.occurred_second,
        r.record_id,
        CASE WHEN r.received_date > $as_of THEN r.received_date ELSE CAST($as_of AS DATE) END AS received_date
    FROM namings AS r
    INNER JOIN people AS p ON r.identity = p.identity
    WHERE r.event_date <= $as_of
),
receipts AS (
    SELECT DISTINCT user_id, received_date
    FROM named
),
known AS (
    SELECT
        r.user_id,
        r.received_date,
        n.account_id,
        ROW_NUMBER() OVER (PARTITION BY r.user_id, r.received_date ORDER BY n.occurred_second DESC, n.record_id DESC) AS newest
    FROM receipts AS r
    INNER JOIN named AS n ON r.user_id = n.user_id AND n.received_date <= r.received_date
),
named_last AS (
    SELECT
        user_id,
        account_id,
        received_date,
        LEAD(received_date) OVER (PARTITION BY user_id ORDER BY received_date) AS superseded_date
    FROM known
    WHERE newest = 1
)
SELECT
    CAST($as_of AS DATE) AS as_of_date,
    p.identity,
    CASE WHEN $people_are_accounts THEN CAST($as_of AS DATE) ELSE n.received_date END AS received_date,
    p.user_id,
    CASE WHEN $people_are_accounts THEN p.user_id ELSE n.account_id END AS account_id,
    n.superseded_date
FROM people AS p
LEFT JOIN named_last AS n ON p.user_id = n.user_id AND NOT $people_are_accounts
LEFT JOIN seen AS s ON p.user_id = s.user_id
WHERE CASE WHEN $people_are_accounts THEN s.user_id ELSE n.account_id END IS NOT NULL
