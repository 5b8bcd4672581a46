-- One row per named customer with a purchase by the end of the cut-off: what was known of them then.
-- A purchase is a day with an order of more than zero. Of more than $most customers a sample is taken, by digest of their names.
WITH known AS (
    SELECT p.customer_id, o.order_date, o.kind, o.currency, o.net_revenue
    FROM orders AS o
    INNER JOIN customers_then AS p ON o.identity = p.identity
    WHERE o.order_date <= $cut_off AND COALESCE(o.received_at, o.ordered_at) < $end_at
),
purchase_days AS (
    SELECT customer_id, order_date
    FROM known
    WHERE kind = 'order' AND net_revenue > 0
    GROUP BY customer_id, order_date
),
habits AS (
    SELECT
        customer_id,
        COUNT(*) AS purchase_days,
        DATE_DIFF('day', MAX(order_date), CAST($cut_off AS DATE)) AS recency_days,
        DATE_DIFF('day', MIN(order_date), CAST($cut_off AS DATE)) AS tenure_days,
        SUM(CASE WHEN DATE_DIFF('day', order_date, CAST($cut_off AS DATE)) < 30 THEN 1 ELSE 0 END) AS purchase_days_30,
        SUM(CASE WHEN DATE_DIFF('day', order_date, CAST($cut_off AS DATE)) < 90 THEN 1 ELSE 0 END) AS purchase_days_90,
        SUM(CASE WHEN DATE_DIFF('day', order_date, CAST($cut_off AS DATE)) < 180 THEN 1 ELSE 0 END) AS purchase_days_180
    FROM purchase_days
    GROUP BY customer_id
),
sampled AS (
    SELECT customer_id
    FROM (SELECT customer_id, ROW_NUMBER() OVER (ORDER BY MD5(customer_id), customer_id) AS place FROM habits) AS numbered
    WHERE place <= $most
),
spend AS (
    SELECT
        customer_id,
        currency,
        SUM(CASE WHEN kind = 'order' THEN 1 ELSE 0 END) AS orders,
        SUM(CASE WHEN kind = 'refund' THEN 1 ELSE 0 END) AS refunds,
        SUM(net_revenue) AS monetary
    FROM known
    GROUP BY customer_id, currency
),
main_currency AS (
    SELECT
        customer_id,
        currency,
        orders,
        refunds,
        monetary,
        ROW_NUMBER() OVER (PARTITION BY customer_id ORDER BY orders DESC, currency) AS place
    FROM spend
),
usual AS (
    SELECT currency, CAST(SUM(monetary) AS DOUBLE) / CAST(SUM(orders) AS DOUBLE) AS order_value
    FROM spend
    GROUP BY currency
    HAVING SUM(orders) > 0
)
SELECT
    h.customer_id AS subject_id,
    h.purchase_days,
    h.recency_days,
    h.tenure_days,
    h.purchase_days_30,
    h.purchase_days_90,
    h.purchase_days_180,
    m.refunds,
    CAST(m.monetary AS DECIMAL(18, 2)) AS monetary,
    m.currency,
    CASE
        WHEN u.order_value > 0 THEN ROUND(CAST(m.monetary AS DOUBLE) / CAST(m.orders AS DOUBLE) / u.order_value, 6)
        ELSE 1.0
    END AS relative_order_value
FROM habits AS h
INNER JOIN sampled AS s ON h.customer_id = s.customer_id
INNER JOIN main_currency AS m ON h.customer_id = m.customer_id AND m.place = 1
INNER JOIN usual AS u ON m.currency = u.currency
