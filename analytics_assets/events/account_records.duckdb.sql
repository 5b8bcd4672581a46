-- One row per event or property set of the window that names an account, its plan or seats, or is a turn of its contract.
-- An event that only names the account which its identity names right before and right after it in the same hour is left out, where
-- both had been received no later and no record between it and the next leaves its account unsaid: whoever asks for the account of
-- such a record, or of a person at the end of the hour, finds the same without it.
-- DuckDB only: this is where JSON ends, so that every later statement can do without.
WITH said AS (
    SELECT event_date, hour, event_id AS record_id, identity, name, occurred_at, occurred_second, received_at, account_id, properties
    FROM new_events
    UNION ALL
    SELECT event_date, hour, set_id, identity, NULL, occurred_at, occurred_second, received_at, account_id, properties
    FROM new_property_sets
),
turns AS (
    SELECT
        *,
        CASE
            WHEN list_contains($trial, name) THEN 'trial'
            WHEN list_contains($billed, name) THEN 'billed'
            WHEN list_contains($upgraded, name) THEN 'upgraded'
            WHEN list_contains($downgraded, name) THEN 'downgraded'
            WHEN list_contains($canceled, name) THEN 'canceled'
        END AS kind
    FROM said
),
telling AS (
    SELECT * FROM turns
    WHERE account_id IS NOT NULL OR kind IS NOT NULL OR regexp_matches(properties, $plan_or_seats)
),
texts AS (
    SELECT
        *,
        list_filter(json_extract_string(properties, $plan), lambda v: v <> '')[1] AS plan,
        list_filter(json_extract_string(properties, $seats), lambda v: v <> '')[1] AS seats_text,
        CASE WHEN kind IS NOT NULL THEN list_filter(json_extract_string(properties, $subscription_amount), lambda v: v <> '')[1] END AS amount,
        CASE WHEN kind IS NOT NULL THEN list_filter(json_extract_string(properties, $subscription_months), lambda v: v <> '')[1] END AS months,
        CASE WHEN kind IS NOT NULL THEN list_filter(json_extract_string(properties, $currency), lambda v: v <> '')[1] END AS currency
    FROM telling
),
read AS (
    SELECT
        * EXCLUDE (amount, months, currency),
        try_cast(try_cast(amount_text(seats_text) AS DECIMAL(18, 4)) AS BIGINT) AS seats,
        try_cast(amount_text(amount) AS DECIMAL(18, 2)) AS amount,
        try_cast(amount_text(months) AS DECIMAL(9, 4)) AS months,
        upper(currency) AS currency,
        coalesce(received_at, occurred_at) AS known_at
    FROM texts
),
neighbours AS (
    SELECT
        *,
        lag({'account_id': account_id, 'known_at': known_at}) OVER in_hour AS before,
        lead({'account_id': account_id, 'known_at': known_at, 'second': occurred_second}) OVER in_hour AS after
    FROM read
    WINDOW in_hour AS (PARTITION BY identity, hour, account_id IS NULL ORDER BY occurred_second, record_id)
),
unsaid AS (
    SELECT DISTINCT hour, occurred_second AS second
    FROM read
    WHERE account_id IS NULL AND (kind IS NOT NULL OR plan IS NOT NULL OR seats IS NOT NULL)
)
SELECT
    event_date,
    n.hour,
    record_id,
    identity,
    occurred_at,
    occurred_second,
    received_at,
    account_id,
    kind,
    plan,
    CASE WHEN seats >= 0 THEN seats END AS seats,
    amount,
    CASE WHEN months > 0 THEN months END AS months,
    currency
FROM neighbours AS n
ASOF LEFT JOIN unsaid AS u ON n.hour = u.hour AND n.occurred_second <= u.second
WHERE coalesce(account_id, kind, plan, CASE WHEN seats >= 0 THEN 'seats' END) IS NOT NULL
    AND NOT coalesce(
        name IS NOT NULL AND kind IS NULL AND plan IS NULL AND seats IS NULL
        AND before.account_id = account_id AND before.known_at <= known_at
        AND after.account_id = account_id AND after.known_at <= known_at
        AND coalesce(u.second > after.second, true),
        false
    )
