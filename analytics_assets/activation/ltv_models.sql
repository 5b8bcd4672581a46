-- One row per currency and backtest of the forecast of lifetime value that serves the day: whether it passed, and why or why not.
SELECT 'lifetime value in ' || currency AS model, accepted AS passed, reason
FROM ltv_backtests
WHERE as_of_date = $as_of AND chosen
