-- One row per contract that had begun by the end of the day, and how it ended if it did; the price of an account's newest.
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
numbered AS (
    SELECT
        *,
        SUM(CASE WHEN paid_before IS NULL OR event_date > paid_before + $grace_days THEN 1 ELSE 0 END) OVER (
            PARTITION BY account_id ORDER BY place ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ) AS contract
    FROM with_the_one_before
),
spans AS (
    SELECT
        account_id,
        contract,
        cancellations,
        MIN(place) AS first_place,
        MAX(place) AS last_place,
        COUNT(*) - 1 AS renewals,
        MAX(paid_through) AS paid_through,
        MAX(paid_through) + $grace_days AS lapses_on,
        ROW_NUMBER() OVER (PARTITION BY account_id ORDER BY contract DESC) AS newest
    FROM numbered
    GROUP BY account_id, contract, cancellations
),
latest AS (
    SELECT s.account_id, s.cancellations, f.months AS first_months, COALESCE(f.place_before, 0) AS place_before
    FROM spans AS s
    INNER JOIN numbered AS f ON s.account_id = f.account_id AND s.first_place = f.place
    WHERE s.newest = 1
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
    SELECT s.account_id, s.contract, MIN(t.place) AS canceled_place, MIN(t.event_date) AS canceled_on
    FROM spans AS s
    INNER JOIN turns AS t ON s.account_id = t.account_id AND t.place > s.last_place
    WHERE t.kind = 'canceled'
    GROUP BY s.account_id, s.contract
)
SELECT
    s.account_id,
    s.contract,
    s.newest,
    s.first_place,
    f.event_date AS billed_since,
    s.renewals,
    l.months,
    s.paid_through,
    CASE
        WHEN c.canceled_on <= s.lapses_on THEN 'canceled'
        WHEN s.lapses_on <= $as_of THEN 'lapsed'
        ELSE 'active'
    END AS status,
    CASE WHEN c.canceled_on <= s.lapses_on THEN c.canceled_on WHEN s.lapses_on <= $as_of THEN s.lapses_on END AS ended_on,
    c.canceled_place,
    CASE WHEN s.newest = 1 THEN COALESCE(m.currency, $currency) END AS currency,
    CAST(
        FLOOR(CAST(20000 * p.cents + p.parts_of_months AS DOUBLE) / CAST(2 * p.parts_of_months AS DOUBLE)) AS BIGINT
    ) AS mrr_cents
FROM spans AS s
INNER JOIN numbered AS f ON s.account_id = f.account_id AND s.first_place = f.place
INNER JOIN numbered AS l ON s.account_id = l.account_id AND s.last_place = l.place
LEFT JOIN cancellations AS c ON s.account_id = c.account_id AND s.contract = c.contract
LEFT JOIN prices AS p ON s.account_id = p.account_id AND p.newest = 1 AND s.newest = 1
LEFT JOIN currencies AS m ON s.account_id = m.account_id AND m.newest = 1 AND s.newest = 1
