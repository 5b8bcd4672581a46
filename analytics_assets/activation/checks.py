"""Checks of what is out: it is of the day that is due, it reaches somebody, and its suppressions last."""

import dagster as dg

from analytics_assets.activation.gate import (
    newest_due_day,
    newest_over_day,
)
from analytics_assets.activation.onsite import (
    generation_in_redis,
    redis_url,
)
from analytics_assets.activation.outlets import EMAIL, NOBODY, ONSITE, Outlet, has_no_customers
from analytics_assets.activation.sends import email_channel
from analytics_assets.warehouse.work import Platform


def activation_checks(platform: Platform) -> list[dg.AssetChecksDefinition]:
    """What is out is of the day that is due, and the e-mail reaches somebody. Run them at any time; they also renew the age in `status.json`."""
    return [
        *(_is_current(platform, outlet) for outlet in (EMAIL, ONSITE)),
        _reaches_somebody(platform),
        _suppressions_last(platform),
    ]


def _reaches_somebody(platform: Platform) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=EMAIL.name,
        name="reaches_somebody",
        description="The newest list has a recipient. If not: how many customers were left out, and why. Where nobody has consented, "
        "`[customers] consent` may not name the property that your shop asks for it with.",
    )
    def reaches_somebody() -> dg.AssetCheckResult:
        newest = email_channel(platform.home).newest()
        said = {"recipients": newest.manifest["recipients"], **newest.manifest["left_out"]} if newest else {}
        # Those on the holdout would have got it: what is empty for a test is not empty for want of people.
        passed = not newest or said["recipients"] + said["holdout"] > 0
        return dg.AssetCheckResult(passed=passed, severity=dg.AssetCheckSeverity.WARN, metadata=said)

    return reaches_somebody


def _suppressions_last(platform: Platform) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=EMAIL.name,
        name="suppressions_last",
        description="The newest list was made with at least half as many suppressions as the one before, and they name somebody: who is "
        "suppressed stays so. If not, `[activation] suppression_file` may have been cut or lost, or hold something other than addresses "
        "and customer ids: look at it before the list is sent.",
    )
    def suppressions_last() -> dg.AssetCheckResult:
        channel = email_channel(platform.home)
        made = [generation.manifest for day in channel.days()[-2:] if (generation := channel.generation(day))]
        # Lists of before they were counted say nothing.
        counted = [manifest for manifest in made if "suppressions" in manifest]
        counts = [manifest["suppressions"] for manifest in counted]
        said = dict(zip(("before", "now"), counts, strict=True)) if len(counts) == 2 else {}
        passed = not said or said["now"] * 2 >= said["before"]
        if counted and counts[-1]:
            said["of somebody who is known"] = counted[-1]["suppressions_matched"]
            passed = passed and said["of somebody who is known"] > 0
        return dg.AssetCheckResult(passed=passed, severity=dg.AssetCheckSeverity.WARN, metadata=said)

    return suppressions_last


def _is_current(platform: Platform, outlet: Outlet) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=outlet.name,
        name="is_current",
        description="What is out is of the business day that is due by now, byte for byte as it was made, and what the site's Redis serves "
        "where there is one. If not: how old it is, and why the newer one is held. A Redis that has lost it gets it by materialising the day.",
    )
    def is_current() -> dg.AssetCheckResult:
        if has_no_customers(platform):
            return dg.AssetCheckResult(passed=True, metadata=NOBODY)
        channel = outlet.channel(platform.home)
        status = channel.write_status(newest_due_day(platform.clock), newest_over_day(platform.clock))
        newest = channel.newest()
        damaged = newest.damaged_files() if newest else []
        said = {**status, "damaged files": ", ".join(damaged) or "none"}
        passed = status["state"] == "current" and not damaged
        if newest and outlet is ONSITE and (url := redis_url()):
            said["served by Redis"] = generation_in_redis(url)
            passed = passed and said["served by Redis"] == newest.name
        return dg.AssetCheckResult(passed=passed, metadata={key: str(value) for key, value in said.items()})

    return is_current
