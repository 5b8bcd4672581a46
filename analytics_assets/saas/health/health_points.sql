-- One row per account and block (a day that ends with the hour that is scored) with an event in the 42 blocks that end with it, for the first $ends and the last $ends of
-- the blocks that have 42: what its health is made of at the block's end. now: the last 14 blocks; expected: 14 blocks of the 28 before
-- them, counted from the account's first; own_...: from the account's own past, 0 to 1; peers_...: its place among all accounts of that
-- moment, 0 to 1. NULL: cannot be known.
-- An account is there from the first of the 42 blocks with an event, or since it was first named, whichever is earlier. People who are
-- accounts count from the event: what one did before a merger stands under another name.
WITH named AS (
    SELECT account_id, MIN(first_seen_date) AS first_seen_date
    FROM accounts
    WHERE NOT $people_are_accounts
    GROUP BY account_id
),
users_of_blocks AS (
    SELECT DISTINCT account_id
    FROM usage_blocks
),
every_block AS (
    SELECT
        a.account_id,
        b.block,
        u.events,
        u.user_hours,
        u.features,
        u.users,
        u.last_hour,
        u.latest_seats,
        u.block AS used_block,
        b.last_hour AS ends_with,
        b.block + 1 - DATE_DIFF('day', CAST(n.first_seen_date AS DATE), CAST(b.event_date AS DATE)) AS named_block
    FROM users_of_blocks AS a
    CROSS JOIN health_blocks AS b
    LEFT JOIN named AS n ON a.account_id = n.account_id
    LEFT JOIN usage_blocks AS u ON a.account_id = u.account_id AND b.block = u.block
),
sums AS (
    SELECT
        account_id,
        block,
        ends_with,
        CAST(FLOOR(COALESCE(SUM(user_hours) OVER fortnight, 0)) AS BIGINT) AS user_hours_now,
        CAST(FLOOR(COALESCE(SUM(events) OVER fortnight, 0)) AS BIGINT) AS events_now,
        CAST(FLOOR(COALESCE(SUM(features) OVER fortnight, 0)) AS BIGINT) AS features_now,
        COALESCE(MAX(users) OVER fortnight, 0) AS users_at_most,
        COALESCE(SUM(user_hours) OVER month_before, 0) AS user_hours_past,
        COALESCE(SUM(events) OVER month_before, 0) AS events_past,
        COALESCE(SUM(features) OVER month_before, 0) AS features_past,
        COUNT(used_block) OVER month_before AS active_days_past,
        MAX(last_hour) OVER six_weeks AS last_hour,
        GREATEST(LEAST(MIN(used_block) OVER six_weeks, COALESCE(named_block, block)), block - 41) AS first_block,
        MAX(latest_seats) OVER six_weeks % 1000000000 AS seats
    FROM every_block
    WINDOW
        fortnight AS (PARTITION BY account_id ORDER BY block ROWS BETWEEN 13 PRECEDING AND CURRENT ROW),
        month_before AS (PARTITION BY account_id ORDER BY block ROWS BETWEEN 41 PRECEDING AND 14 PRECEDING),
        six_weeks AS (PARTITION BY account_id ORDER BY block ROWS BETWEEN 41 PRECEDING AND CURRENT ROW)
),
-- Under two weeks of past say too little to compare with.
dated AS (
    SELECT
        *,
        ends_with - last_hour AS idle_hours,
        CASE WHEN seats IS NULL THEN 0 ELSE 1 END AS has_seats,
        LEAST(block - first_block + 1, 14) AS days_now,
        COALESCE(seats, 1) AS seats_or_one,
        CASE WHEN block - first_block >= 27 THEN CAST(block - first_block - 13 AS DOUBLE) END AS days_past
    FROM sums
    WHERE block >= 41 AND (block < 41 + $ends OR block >= $blocks - $ends) AND last_hour IS NOT NULL
),
measured AS (
    SELECT
        *,
        CASE WHEN days_past IS NULL THEN 0 ELSE 1 END AS has_past,
        14 * user_hours_past / days_past AS user_hours_expected,
        14 * events_past / days_past AS events_expected,
        14 * features_past / days_past AS features_expected,
        GREATEST(CAST(FLOOR(CAST(idle_hours AS DOUBLE) / 24) AS BIGINT) - 2, 0) AS idle_days_beyond_two,
        CAST(user_hours_now AS DOUBLE) / days_now AS user_hours_a_day,
        CAST(events_now AS DOUBLE) / days_now AS events_a_day,
        features_now / (days_now * SQRT(CAST(seats_or_one AS DOUBLE))) AS features_level,
        CAST(SUM(user_hours_now) OVER alike AS DOUBLE) / SUM(days_now * seats_or_one) OVER alike AS user_hours_of_a_seat,
        CAST(SUM(events_now) OVER alike AS DOUBLE) / SUM(days_now * seats_or_one) OVER alike AS events_of_a_seat,
        CASE WHEN seats > 0 THEN LEAST(CAST(1 AS DOUBLE), CAST(users_at_most AS DOUBLE) / seats) END AS seats_used
    FROM dated
    WINDOW alike AS (PARTITION BY block, has_seats)
),
-- A few seats may be used much or little by chance: four that are used as the average seat is are added to each account.
levelled AS (
    SELECT
        *,
        (user_hours_a_day + 4 * user_hours_of_a_seat) / (seats_or_one + 4) AS user_hours_level,
        (events_a_day + 4 * events_of_a_seat) / (seats_or_one + 4) AS events_level,
        COALESCE(user_hours_now / NULLIF(user_hours_expected, 0), 1) AS user_hours_ratio,
        COALESCE(events_now / NULLIF(events_expected, 0), 1) AS events_ratio,
        COALESCE(features_now / NULLIF(features_expected, 0), 1) AS features_ratio
    FROM measured
),
-- ..._up_to counts the account itself and its equals with those below.
ranked AS (
    SELECT
        *,
        COUNT(*) OVER (PARTITION BY block) - 1 AS others,
        RANK() OVER (PARTITION BY block ORDER BY idle_days_beyond_two) - 1 AS livelier,
        COUNT(*) OVER (PARTITION BY block, has_seats) - 1 AS others_alike,
        RANK() OVER (PARTITION BY block, has_seats ORDER BY user_hours_level) - 1 AS users_below,
        COUNT(*) OVER (PARTITION BY block, has_seats ORDER BY user_hours_level) AS users_up_to,
        RANK() OVER (PARTITION BY block, has_seats ORDER BY events_level) - 1 AS events_below,
        COUNT(*) OVER (PARTITION BY block, has_seats ORDER BY events_level) AS events_up_to,
        RANK() OVER (PARTITION BY block, has_seats ORDER BY features_level) - 1 AS features_below,
        COUNT(*) OVER (PARTITION BY block, has_seats ORDER BY features_level) AS features_up_to
    FROM levelled
),
placed AS (
    SELECT
        block,
        user_hours_ratio,
        events_ratio,
        features_ratio,
        COUNT(*) OVER (PARTITION BY block) AS accounts,
        RANK() OVER (PARTITION BY block ORDER BY user_hours_ratio) AS users_place,
        RANK() OVER (PARTITION BY block ORDER BY events_ratio) AS events_place,
        RANK() OVER (PARTITION BY block ORDER BY features_ratio) AS features_place
    FROM levelled
    WHERE has_past = 1
),
-- What happens to everybody (a holiday, an outage) is nobody's fall: the median account sets what was to be expected.
usual AS (
    SELECT
        block,
        MAX(CASE WHEN 2 * users_place <= accounts + 1 THEN user_hours_ratio END) AS user_hours_ratio,
        MAX(CASE WHEN 2 * events_place <= accounts + 1 THEN events_ratio END) AS events_ratio,
        MAX(CASE WHEN 2 * features_place <= accounts + 1 THEN features_ratio END) AS features_ratio
    FROM placed
    WHERE accounts > 10
    GROUP BY block
),
fair AS (
    SELECT
        r.*,
        NULLIF(r.user_hours_expected * COALESCE(u.user_hours_ratio, 1), 0) AS fair_user_hours,
        NULLIF(r.events_expected * COALESCE(u.events_ratio, 1), 0) AS fair_events,
        NULLIF(r.features_expected * COALESCE(u.features_ratio, 1), 0) AS fair_features
    FROM ranked AS r
    LEFT JOIN usual AS u ON r.block = u.block
)
SELECT
    r.account_id,
    r.block,
    r.idle_hours,
    r.days_now,
    r.days_past,
    r.seats,
    r.users_at_most,
    r.user_hours_now,
    r.user_hours_expected,
    r.events_now,
    r.events_expected,
    r.features_now,
    r.features_expected,
    -- A fall counts as far as it goes beyond chance: two standard deviations of a Poisson count (events come about six to a
    -- user-hour). What then is half of what was expected, or less, is 0: a fortnight at half is a customer half gone. Of a small past a
    -- silent fortnight would be within chance: it is 0 all the same, since silence must never make an account healthier.
    CASE
        WHEN r.has_past = 1
            THEN CASE
                WHEN r.events_now = 0 THEN 0
                ELSE GREATEST(0, LEAST(1, COALESCE(2 * (r.user_hours_now / r.fair_user_hours + 2 * SQRT(1 / r.fair_user_hours)) - 1, 1)))
            END
    END AS own_active_users,
    CASE
        WHEN r.has_past = 1
            THEN CASE
                WHEN r.events_now = 0 THEN 0
                ELSE GREATEST(0, LEAST(1, COALESCE(2 * (r.events_now / r.fair_events + 2 * SQRT(6 / r.fair_events)) - 1, 1)))
            END
    END AS own_events,
    CASE
        WHEN r.has_past = 1
            THEN CASE
                WHEN r.events_now = 0 THEN 0
                ELSE GREATEST(0, LEAST(1, COALESCE(2 * (r.features_now / r.fair_features + 2 * SQRT(1 / r.fair_features)) - 1, 1)))
            END
    END AS own_features,
    -- A pause of three days, or of twice the account's usual gap, costs nothing; two weeks more cost all.
    GREATEST(
        0,
        LEAST(
            1,
            1 - (r.idle_hours - GREATEST(CAST(72 AS DOUBLE), COALESCE(48 * r.days_past / NULLIF(r.active_days_past, 0), 0))) / 336
        )
    ) AS own_recency,
    r.seats_used AS own_seats,
    -- Equals share their places; who did nothing is ahead of nobody.
    CASE
        WHEN r.others_alike >= 10
            THEN CASE WHEN r.user_hours_now = 0 THEN 0 ELSE CAST(r.users_below + r.users_up_to - 1 AS DOUBLE) / (2 * r.others_alike) END
    END AS peers_active_users,
    CASE
        WHEN r.others_alike >= 10
            THEN CASE WHEN r.events_now = 0 THEN 0 ELSE CAST(r.events_below + r.events_up_to - 1 AS DOUBLE) / (2 * r.others_alike) END
    END AS peers_events,
    CASE
        WHEN r.others_alike >= 10
            THEN CASE WHEN r.features_now = 0 THEN 0 ELSE CAST(r.features_below + r.features_up_to - 1 AS DOUBLE) / (2 * r.others_alike) END
    END AS peers_features,
    CASE WHEN r.others >= 10 THEN 1 - CAST(r.livelier AS DOUBLE) / r.others END AS peers_recency,
    CASE
        WHEN r.others_alike >= 10 AND r.has_seats = 1
            THEN CASE WHEN r.user_hours_now = 0 THEN 0 ELSE CAST(r.users_below + r.users_up_to - 1 AS DOUBLE) / (2 * r.others_alike) END
    END AS peers_seats
FROM fair AS r
