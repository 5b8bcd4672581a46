"""The tables of the churn room."""

from __future__ import annotations

from analytics_assets.saas.churn.features import ACCOUNT_COLUMNS, CUSTOMER_COLUMNS
from analytics_assets.warehouse.tables import Column, Publication, Table

_KIND = Column("kind", "VARCHAR", "`account` (its contract ends) or `customer` (who does not buy).")
_SUBJECT = Column("subject_id", "VARCHAR", "The account or customer.", personal=True)
_ANCHOR = Column("anchor", "DATE", "Day at whose end the model was fitted.")

CHURN_TRAINING_SET = Table(
    name="churn_training_set",
    rows_are="day, kind, cut-off and subject",
    columns=(
        Column("as_of_date", "DATE", "Business day at whose end all labels were known."),
        _KIND,
        _SUBJECT,
        Column("cut_off", "DATE", "Business day at whose end the features were known."),
        Column("churned", "BOOLEAN", "Account: its contract ended within the horizon. Customer: bought nothing within it."),
        Column("label_until", "DATE", "Last day of the horizon, not after as_of_date."),
        *ACCOUNT_COLUMNS,
        *CUSTOMER_COLUMNS,
    ),
    key=("as_of_date", "kind", "cut_off", "subject_id"),
    grain="day",
    partition_column="as_of_date",
    publication=Publication(as_view=True),
)

_METRICS = (
    Column("subjects", "BIGINT", "Subjects at the cut-off.", "subjects", nullable=True),
    Column("churned", "BIGINT", "Of these who churned.", "subjects", nullable=True),
    Column("auc", "DOUBLE", "Probability that who churned had been given more than who stayed.", "0 to 1", nullable=True),
    Column("brier", "DOUBLE", "Mean squared distance of probability and outcome: small is good.", "0 to 1", nullable=True),
    Column("brier_of_base_rate", "DOUBLE", "The same for giving everybody the churn rate known before.", "0 to 1", nullable=True),
    Column("calibration_slope", "DOUBLE", "1 is right; below, probabilities are too extreme.", "ratio", nullable=True),
    Column("calibration_error", "DOUBLE", "Mean distance of said from real churn, over ten groups.", "0 to 1", nullable=True),
    Column(
        "lift_top_decile", "DOUBLE", "Churn of the tenth with the highest probability over that of all.", "ratio", nullable=True
    ),
)

CHURN_MODELS = Table(
    name="churn_models",
    rows_are="day, kind and refit that was looked at for the day",
    columns=(
        Column("as_of_date", "DATE", "Business day that it may serve."),
        _KIND,
        _ANCHOR,
        Column("model_id", "VARCHAR", "Hash of the fitted parameters and the training rows; `none` where none could be fitted."),
        Column("algorithm", "VARCHAR", "`logistic`, `boosted`, `mean` of both, or `none`."),
        Column("training_rows", "BIGINT", "Rows that it learned from.", "rows"),
        Column("trained_until", "DATE", "Last day of the latest window that it learned from.", nullable=True),
        Column("cut_off", "DATE", "Its newest test; NULL where nothing could be tested.", nullable=True),
        *_METRICS,
        Column("serves", "BOOLEAN", "Whether it makes the scores of the day."),
        Column("accepted", "BOOLEAN", "Whether it passed the gate."),
        Column("reason", "VARCHAR", "Why it passed or not."),
    ),
    key=("as_of_date", "kind", "anchor"),
    grain="day",
    partition_column="as_of_date",
)

CHURN_BACKTESTS = Table(
    name="churn_backtests",
    rows_are="day, kind, refit, candidate, earlier cut-off and segment",
    columns=(
        Column("as_of_date", "DATE", "Business day that the refit may serve."),
        _KIND,
        _ANCHOR,
        Column("candidate", "VARCHAR", "`logistic`, `boosted` or `mean` of both."),
        Column("cut_off", "DATE", "Earlier day at whose end the test scores."),
        Column("trained_until", "DATE", "Last day of the latest window that the tested model had learned from."),
        Column("segment", "VARCHAR", "`all`, the plan of accounts, or how recently customers bought."),
        *_METRICS,
    ),
    key=("as_of_date", "kind", "anchor", "candidate", "cut_off", "segment"),
    grain="day",
    partition_column="as_of_date",
)

CHURN_OUTCOMES = Table(
    name="churn_outcomes",
    rows_are="day, kind and group of subjects",
    columns=(
        Column("as_of_date", "DATE", "Business day."),
        _KIND,
        Column(
            "subjects_are",
            "VARCHAR",
            "`low`, `medium` or `high` band (nobody was in one without a row), or `tenth 01` (least probable) to `tenth 10`.",
        ),
        Column("cut_off", "DATE", "Day whose scores are meant, as they would have been: nothing later was known."),
        Column("subjects", "BIGINT", "Subjects in the group then.", "subjects"),
        Column("said", "DOUBLE", "Their mean probability.", "0 to 1"),
        Column("came_true", "DOUBLE", "Share that really churned.", "0 to 1"),
    ),
    key=("as_of_date", "kind", "subjects_are"),
    grain="day",
    partition_column="as_of_date",
)

CHURN_SCORES = Table(
    name="churn_scores",
    rows_are="subject and day",
    columns=(
        Column("as_of_date", "DATE", "Business day at whose end this holds."),
        _KIND,
        _SUBJECT,
        Column(
            "probability", "DOUBLE", "Probability of churn within the horizon; NULL without a model.", "0 to 1", nullable=True
        ),
        Column(
            "band",
            "VARCHAR",
            "`high`: odds three times those of everybody of the kind; `low`: a third; else `medium`; `unknown` without a model.",
        ),
        Column(
            "reasons",
            "VARCHAR",
            "The three strongest reasons, or the fewer that there are: what `raises` or `lowers` the risk; or why there is no score.",
        ),
        Column("model_id", "VARCHAR", "The model; `none` where there is none."),
        Column("currency", "VARCHAR", "Currency of the account's contract; NULL on a trial, and of customers.", nullable=True),
        Column("mrr", "DECIMAL(18,2)", "Monthly recurring revenue of an account.", "currency", nullable=True),
        Column("mrr_at_risk", "DECIMAL(18,2)", "Probability times monthly recurring revenue.", "currency", nullable=True),
        Column(
            "expected_months",
            "DOUBLE",
            "Months an account is expected to pay for after the present bill, of the next 60; NULL where fewer than 50 contracts are as long "
            "(in months) as its own, or fewer than 5 of these have ended, and without a contract.",
            "months",
            nullable=True,
        ),
    ),
    key=("as_of_date", "kind", "subject_id"),
    grain="day",
    partition_column="as_of_date",
    schema_version=2,
)

TRAINING_SETS = Table(
    name="training_sets",
    rows_are="day and training set that the settings name",
    columns=(
        Column("as_of_date", "DATE", "Business day at whose end all labels were known."),
        Column("name", "VARCHAR", "Its name in the settings."),
        Column("subjects", "VARCHAR", "`accounts` or `customers`."),
        Column("rows", "BIGINT", "Rows.", "rows"),
        Column("positives", "BIGINT", "Rows whose label is true.", "rows"),
        Column("cut_offs", "BIGINT", "Different cut-offs.", "days"),
        Column("folder", "VARCHAR", "Where its Parquet file and data card lie, below the home."),
        Column("sha256", "VARCHAR", "SHA-256 of the Parquet file."),
    ),
    key=("as_of_date", "name"),
    grain="day",
    partition_column="as_of_date",
)
