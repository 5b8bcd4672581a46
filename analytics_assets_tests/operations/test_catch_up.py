"""What a stage of catching up says of a list that did not go out."""

from datetime import date

import dagster as dg
import pytest

from analytics_assets.operations.catch_up import Stage, StepFailed, run_stage

DAY = "2026-03-03"


def definitions(may_go_out: bool) -> dg.Definitions:
    """One list that fails: at the gate, or after it."""

    @dg.asset(
        partitions_def=dg.DailyPartitionsDefinition(date(2026, 3, 1).isoformat()),
        backfill_policy=dg.BackfillPolicy.single_run(),
        check_specs=[dg.AssetCheckSpec("may_go_out", asset="email", blocking=True)],
    )
    def email():
        yield dg.AssetCheckResult(check_name="may_go_out", passed=may_go_out)
        raise dg.Failure("the server is dead" if may_go_out else "the models are not accepted", allow_retries=False)

    return dg.Definitions([email])


@pytest.mark.parametrize(("may_go_out", "why"), [(True, "the server is dead"), (False, "the models are not accepted")])
def test_a_list_is_held_back_by_the_gate_or_by_a_fault(may_go_out: bool, why: str) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        done = run_stage(definitions(may_go_out), instance, Stage(("email",), DAY, DAY, 1, outgoing=True))
        assert (done.held_back, done.by_a_fault) == (why, may_go_out)
        with pytest.raises(StepFailed, match=why):
            run_stage(definitions(may_go_out), instance, Stage(("email",), DAY, DAY, 1))
