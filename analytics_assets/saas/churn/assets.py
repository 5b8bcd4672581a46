"""Daily `churn_training_set`, `churn_models`, `churn_scores` and `training_sets`, with their checks."""

from __future__ import annotations

import dagster as dg

from analytics_assets.saas.churn.churn_models import churn_models
from analytics_assets.saas.churn.churn_scores import churn_scores
from analytics_assets.saas.churn.plots import plot_models, plot_scores
from analytics_assets.saas.churn.tables import (
    CHURN_BACKTESTS,
    CHURN_MODELS,
    CHURN_OUTCOMES,
    CHURN_SCORES,
    CHURN_TRAINING_SET,
    TRAINING_SETS,
)
from analytics_assets.saas.churn.training_sets import churn_training_set, training_sets
from analytics_assets.warehouse.assets import Audit, table_asset
from analytics_assets.warehouse.inputs import Needs
from analytics_assets.warehouse.work import Platform

# Above .25 a population is commonly said to have changed (Siddiqi 2006, "Credit Risk Scorecards").
DRIFTED = 0.25
# The newest of ten cut-offs lies beyond the nine before it once in ten times; hardly twice as far and chance besides.
_ALLOWED = f"greatest({DRIFTED}, 2 * unrest) + by_chance"

_INPUTS = [
    Needs("orders", as_of=True),
    Needs("account_days", as_of=True),
    Needs("identities"),
    Needs("events", as_of=True, hourly=True),
]
_SETTINGS = ("churn", "accounts.are", "subscriptions.grace_days", "subscriptions.trial_days", "identity")
BANDS_CAME_TRUE = Audit(
    "bands_came_true",
    "At the newest test of the model that serves, as many of each band, and of everybody, left as its probabilities said, within a quarter "
    "of what they said and three standard errors of so few. Where more of the low band left, the model is too sure of itself: trust the "
    "order of its scores, and `came_true` in `churn_outcomes` rather than the probability.",
    """WITH bands AS (
        SELECT as_of_date, kind, subjects_are, subjects, said, came_true
        FROM rows_of_churn_outcomes WHERE subjects_are IN ('low', 'medium', 'high')
    ),
    groups AS (
        FROM bands UNION ALL
        SELECT as_of_date, kind, 'all', sum(subjects), sum(subjects * said) / sum(subjects), sum(subjects * came_true) / sum(subjects)
        FROM bands GROUP BY as_of_date, kind
    )
    SELECT as_of_date, kind, subjects_are, subjects, said, came_true FROM groups
    WHERE abs(came_true - said) * subjects > 0.25 * said * subjects + 3 * sqrt(said * (1 - said) * subjects + 1)""",
)
THE_DAY_TAUGHT = Audit(
    "the_day_could_be_learned_from",
    "A refit could be made of the day's own training set. Where it could not (all of its labels are the same, say), the last refit that "
    "passed serves, however old, and no model where none ever did: look at whether ends of contracts, or purchases, come in under the names "
    "that the settings have.",
    """SELECT as_of_date, kind, coalesce(max(reason) FILTER (serves), max(reason)) AS reason FROM rows
    GROUP BY as_of_date, kind HAVING bool_or(serves) AND max(anchor) < as_of_date OR NOT bool_or(serves) AND (as_of_date, kind) IN (
        SELECT as_of_date, kind FROM churn_training_set GROUP BY as_of_date, kind HAVING min(churned) = max(churned)
    )""",
)
_POINT_IN_TIME = Audit(
    "point_in_time",
    "Features stay the same when all that happened, or was received, after the cut-off is taken from the inputs first; labels when all "
    "is that happened outside of their window, a whole horizon that has ended, or was received after as_of_date.",
    'SELECT as_of_date, kind, cut_off, "column", subjects FROM leaks',
)


def churn_assets(
    platform: Platform, condition: dg.AutomationCondition, newest_day: dg.AutomationCondition
) -> list[dg.AssetsDefinition]:
    """The daily assets `churn_training_set`, `churn_models`, `churn_scores` and `training_sets` (the newest day only)."""
    return [
        table_asset(
            platform,
            (CHURN_TRAINING_SET,),
            churn_training_set,
            needs=_INPUTS,
            audits=[
                Audit(
                    "labels_have_ended",
                    "The window of every label begins after its cut-off, is a whole horizon, and had ended by as_of_date.",
                    f"""SELECT as_of_date, kind, cut_off, label_until FROM rows WHERE label_until > as_of_date OR label_until <>
                    cut_off + CASE kind WHEN 'account' THEN {platform.settings.churn.account_horizon_days}
                    ELSE {platform.settings.churn.customer_horizon_days} END""",
                ),
                _POINT_IN_TIME,
            ],
            settings=_SETTINGS,
            group="saas",
            condition=condition,
        ),
        table_asset(
            platform,
            (CHURN_MODELS, CHURN_BACKTESTS, CHURN_OUTCOMES),
            churn_models,
            needs=[*_INPUTS, Needs("churn_training_set")],
            audits=[
                Audit(
                    "no_label_is_seen_twice",
                    "What a test or the day is scored with had learned from windows that ended by then only.",
                    """SELECT as_of_date, kind, cut_off, trained_until FROM rows_of_churn_backtests WHERE trained_until > cut_off
                    UNION ALL SELECT as_of_date, kind, as_of_date, trained_until FROM rows WHERE trained_until > as_of_date""",
                ),
                Audit(
                    "one_model_serves",
                    "No more than one refit serves a kind on a day.",
                    "SELECT as_of_date, kind, count(*) FROM rows WHERE serves GROUP BY as_of_date, kind HAVING count(*) > 1",
                ),
                Audit(
                    "no_model_is_lost",
                    "A day that is published with a model has one again, and so has a day after it unless few have left yet. Where all labels are the "
                    "same or there are none, look at `account_horizon_days` and `customer_horizon_days` under [churn], at `grace_days`, "
                    "`trial_days` and the names of events under [subscriptions], and at `purchase` under [events]. If scores are to end, say "
                    "`scores_may_end = true` under [churn].",
                    f"""WITH newest AS (
                        SELECT without_model.as_of_date, max(published_models.as_of_date) AS published
                        FROM without_model JOIN published_models ON published_models.as_of_date <= without_model.as_of_date
                        GROUP BY ALL
                    )
                    SELECT w.as_of_date, w.kind, w.reason, published AS published_with_a_model
                    FROM without_model AS w JOIN newest USING (as_of_date) JOIN published_models AS p ON p.as_of_date = published AND p.kind = w.kind
                    WHERE serves AND (published = w.as_of_date OR NOT two_classes) AND NOT {platform.settings.churn.scores_may_end}""",
                ),
            ],
            warnings=[
                Audit(
                    "served_by_an_accepted_model",
                    "The model that serves passed the gate; if none did, the newest serves all the same, and its reason says so.",
                    "SELECT as_of_date, kind, anchor, reason FROM rows WHERE serves AND NOT accepted",
                ),
                THE_DAY_TAUGHT,
                BANDS_CAME_TRUE,
            ],
            settings=_SETTINGS,
            group="saas",
            plot=plot_models,
            condition=condition,
        ),
        table_asset(
            platform,
            (CHURN_SCORES,),
            churn_scores,
            needs=[*_INPUTS, Needs("churn_models")],
            audits=[
                Audit(
                    "scores_are_possible",
                    "Probabilities lie between 0 and 1, no more is at risk than is paid, and only without a model there is no score.",
                    """SELECT as_of_date, kind, subject_id, probability FROM rows WHERE probability NOT BETWEEN 0 AND 1 OR isnan(probability)
                    OR mrr_at_risk > mrr OR expected_months < 0 OR (probability IS NULL) <> (model_id = 'none')""",
                ),
                Audit(
                    "no_kind_is_lost",
                    "Where a model serves a kind on a day, somebody of the kind is scored. Where nobody is, look at `grace_days`, `trial_days` "
                    "and the names of events under [subscriptions], at `account_id` under [properties], and at `purchase` under [events]. If "
                    "scores are to end, say `scores_may_end = true` under [churn].",
                    f"""SELECT as_of_date, kind, model_id AS model_that_serves FROM serving_models
                    WHERE (as_of_date, kind) NOT IN (SELECT as_of_date, kind FROM rows WHERE probability IS NOT NULL)
                    AND NOT {platform.settings.churn.scores_may_end}""",
                ),
            ],
            warnings=[
                Audit(
                    "inputs_are_those_learned_from",
                    f"No input differs from the training rows by a population stability index above {DRIFTED} and above twice that of "
                    "every cut-off among them (`unrest`), by more than chance does with so few (`by_chance`); ages and renewals, which only grow, "
                    "are left out.",
                    f"""SELECT * FROM drift WHERE "of" NOT IN ('probability', 'log_age', 'log_renewals', 'log_tenure')
                    AND stability_index > {_ALLOWED} ORDER BY stability_index DESC""",
                ),
                Audit(
                    "scores_are_those_learned_from",
                    f"The scores do not differ from those of the training rows by a population stability index above {DRIFTED} and above "
                    "twice that of every cut-off among them (`unrest`), by more than chance does with so few (`by_chance`).",
                    f"SELECT * FROM drift WHERE \"of\" = 'probability' AND stability_index > {_ALLOWED}",
                ),
            ],
            settings=(*_SETTINGS, "business.currency"),
            group="saas",
            plot=plot_scores,
            condition=condition,
        ),
        table_asset(
            platform,
            (TRAINING_SETS,),
            training_sets,
            needs=_INPUTS,
            audits=[_POINT_IN_TIME],
            warnings=[
                Audit(
                    "labels_have_two_classes",
                    "Each label is true of some subjects and false of others. A set of one class, or without rows, is not written, and the "
                    "last one stays: look at `events` and `horizon_days` under `[[training_sets]]`; a young history must grow.",
                    "FROM one_class",
                ),
            ],
            settings=(*_SETTINGS, "training_sets"),
            group="saas",
            fill="newest",
            condition=newest_day,
        ),
    ]
