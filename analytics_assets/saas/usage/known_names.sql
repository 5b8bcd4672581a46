-- One row per evening and name of somebody who had named an account by then, or is the first to do so on the next day: the person.
-- E-mail addresses that differ in letter case only are one name.
WITH named AS (
    SELECT as_of_date, identity, user_id, 0 AS is_newcomer
    FROM account_members
    UNION ALL
    SELECT as_of_date, identity, user_id, 1 AS is_newcomer
    FROM newcomers
),
spelt AS (
    SELECT
        as_of_date,
        CASE WHEN $fold_email_case AND identity LIKE '%@%' THEN LOWER(identity) ELSE identity END AS name,
        user_id,
        is_newcomer
    FROM named
)
SELECT
    as_of_date,
    name,
    COALESCE(MIN(CASE WHEN is_newcomer = 0 THEN user_id END), MIN(user_id)) AS user_id
FROM spelt
GROUP BY as_of_date, name
