-- One row per account that was ever billed by the end of the day: its latest contract.
-- A bill begins a contract when it is the first, when the contract before was cancelled, or when that had not been billed again by
-- the grace days after the time that was paid for. A bill pays through the same day of the month, so many months on (the 31st of a
-- shorter month is its last day); a part of a month counts in thirtieths. A bill below zero is a credit note and no bill.
WITH turns AS (
    SELECT
        *,
        COUNT(CASE WHEN kind = 'canceled' THEN 1 END) OVER (
            PARTITION BY account_id ORDER BY place ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ) AS cancellations,
        12 * EXTRACT(YEAR FROM event_date) + EXTRACT(MONTH FROM event_date) - 1 + FLOOR(months) AS due_month,
        ROUND(30 * (months - FLOOR(months))) AS due_days
    FROM told
    WHERE kind IS NOT NULL AND (kind <> 'billed' OR amount IS NULL OR amount >= 0)
),
months_due AS (
    SELECT
        *,
        MAKE_DATE(
            CAST(FLOOR(due_month / 12) AS INTEGER), CAST(ROUND(due_month - 12 * FLOOR(due_month / 12)) AS INTEGER) + 1, 1
        ) AS month_due
    FROM turns
),
bills AS (
    SELECT
        *,
        month_due + CAST(
            ROUND(LEAST(EXTRACT(DAY FROM event_date), EXTRACT(DAY FROM LAST_DAY(month_due))) - 1 + due_days) AS INTEGER
        ) AS paid_through
    FROM months_due
    WHERE kind = 'billed'
),
with_the_one_before AS (
    SELECT
        *,
        MAX(paid_through) OVER (
            PARTITION BY account_id, cancellations ORDER BY place ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) AS paid_before,
        LAG(place) OVER (PARTITION BY account_id, cancellations ORDER BY place) AS place_before
    FROM bills
),
first_bills AS (
    SELECT
        account_id,
        cancellations,
        place AS first_place,
        event_date AS billed_since,
        months AS first_months,
        COALESCE(place_before, 0) AS place_before,
        ROW_NUMBER() OVER (PARTITION BY account_id ORDER BY place DESC) AS newest
    FROM with_the_one_before
    WHERE paid_before IS NULL OR event_date > paid_before + $grace_days
),
latest AS (
    SELECT
        f.account_id,
        f.cancellations,
        f.first_place,
        f.billed_since,
        f.first_months,
        f.place_before,
        MAX(b.place) AS last_place,
        COUNT(*) - 1 AS renewals,
        MAX(b.paid_through) AS paid_through
    FROM first_bills AS f
    INNER JOIN bills AS b ON f.account_id = b.account_id AND b.place >= f.first_place
    WHERE f.newest = 1
    GROUP BY f.account_id, f.cancellations, f.first_place, f.billed_since, f.first_months, f.place_before
),
-- An upgrade before the first bill tells its price too, where the bill names none.
told_prices AS (
    SELECT
        t.account_id,
        t.place,
        t.amount,
        t.currency,
        COALESCE(
            t.months_named,
            LAST_VALUE(CASE WHEN t.kind = 'billed' THEN t.months END IGNORE NULLS) OVER (
                PARTITION BY t.account_id ORDER BY t.place ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
            ),
            l.first_months
        ) AS months
    FROM turns AS t
    INNER JOIN latest AS l
        ON t.account_id = l.account_id AND t.cancellations = l.cancellations AND t.place > l.place_before
    WHERE t.kind IN ('billed', 'upgraded', 'downgraded')
),
prices AS (
    SELECT
        account_id,
        CAST(ROUND(amount * 100) AS BIGINT) AS cents,
        CAST(ROUND(months * 10000) AS BIGINT) AS parts_of_months,
        ROW_NUMBER() OVER (PARTITION BY account_id ORDER BY place DESC) AS newest
    FROM told_prices
    WHERE amount IS NOT NULL
),
currencies AS (
    SELECT account_id, currency, ROW_NUMBER() OVER (PARTITION BY account_id ORDER BY place DESC) AS newest
    FROM told_prices
    WHERE currency IS NOT NULL
),
cancellations AS (
    SELECT l.account_id, MIN(t.place) AS canceled_place, MIN(t.event_date) AS canceled_on
    FROM latest AS l
    INNER JOIN turns AS t ON l.account_id = t.account_id AND t.place > l.last_place
    WHERE t.kind = 'canceled'
    GROUP BY l.account_id
)
SELECT
    l.account_id,
    l.billed_since,
    l.renewals,
    l.paid_through,
    l.last_place,
    l.paid_through + $grace_days AS lapses_on,
    c.canceled_on,
    c.canceled_place,
    COALESCE(m.currency, $currency) AS currency,
    CAST(
        FLOOR(CAST(20000 * p.cents + p.parts_of_months AS DOUBLE) / CAST(2 * p.parts_of_months AS DOUBLE)) AS BIGINT
    ) AS mrr_cents
FROM latest AS l
LEFT JOIN cancellations AS c ON l.account_id = c.account_id
LEFT JOIN prices AS p ON l.account_id = p.account_id AND p.newest = 1
LEFT JOIN currencies AS m ON l.account_id = m.account_id AND m.newest = 1
