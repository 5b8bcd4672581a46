"""From the outbox to people: routes, addresses, grouped messages, and what becomes of them.

An address is one Apprise URL. The outbox, the log and every error know it by the name of the environment variable and its
place in there (`ANALYTICS_ALERT_URLS#1`), never by the URL.
"""

import logging
import os
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta

import dagster as dg

from analytics_assets.operations.alerts import (
    DAEMON,
    PLATFORM,
    WATCHING,
    look_at_deaf_addresses,
    look_at_ended_runs,
    look_at_now,
    on_the_wall,
)
from analytics_assets.operations.outbox import NO_ADDRESS, Alert, Message, Outbox, Standing
from analytics_assets.settings import AlertRoute, Alerts
from analytics_assets.warehouse.assets import masked
from analytics_assets.warehouse.work import Platform

# What came and went longer ago than this, before anybody looked, is kept and told to nobody.
NEWS = timedelta(days=1)
SECONDS_TO_ANSWER = 15
SHOWN = 20
# The watch has a minute for a tick; what is left over is delivered by the next.
SECONDS_TO_DELIVER = 40
ASLEEP = timedelta(minutes=15)
# The note of when a home had its first address.
_ADDRESSED_SINCE = "addressed_since"

Send = Callable[[str, str, str, bool], str | None]


def outbox_of(platform: Platform) -> Outbox:
    """The outbox of a home."""
    return Outbox(platform.home.alerts)


def urls_of(variable: str) -> list[str]:
    """The Apprise URLs in an environment variable, apart by spaces or lines."""
    return os.environ.get(variable, "").split()


def addresses_for(alert: Alert, routes: Sequence[AlertRoute]) -> list[str]:
    """Names of the addresses that an alert goes to; the variable's own name where it is not set."""
    found: list[str] = []
    for route in routes:
        if alert.severity not in route.severities or (
            route.owners and alert.owners and not set(route.owners) & set(alert.owners)
        ):
            continue
        names = [f"{route.urls}#{place}" for place, _ in enumerate(urls_of(route.urls), start=1)] or [route.urls]
        # An address that accepts nothing would not accept that news either.
        found += [name for name in names if name not in found and not alert.key.endswith(f"undelivered:{name}")]
    return found


def write_messages(outbox: Outbox, settings: Alerts, now: datetime) -> None:
    """Write the messages about alerts that nobody was told of. Who is told for the first time hears of what stands alone."""
    since = outbox.note(_ADDRESSED_SINCE)
    if since is None and any(urls_of(route.urls) for route in settings.routes):
        since = now.isoformat()
        outbox.take_note(_ADDRESSED_SINCE, since)
    raised_after = now - NEWS
    if since:
        raised_after = max(raised_after, datetime.fromisoformat(since))
    for standing, news in outbox.unaddressed(raised_after):
        with outbox.together():
            if news == "recovered":
                addresses = outbox.addresses_of(standing.number, "raised")
            else:
                addresses = addresses_for(standing.alert, settings.routes)
            there = [name for name in addresses if "#" in name]
            outbox.address(standing.number, news, there, now)
            if not there:
                outbox.address(standing.number, news, addresses or ["no route"], now, state=NO_ADDRESS)


def deliver(outbox: Outbox, settings: Alerts, clock: Callable[[], datetime], send: Send) -> tuple[int, int]:
    """Send what is due, one message an address; what is not accepted is due again later.

    Returns:
        How many pieces of news were accepted, and how many were not.
    """
    accepted = refused = 0
    began = clock()
    for address in outbox.due(began):
        if clock() - began > timedelta(seconds=SECONDS_TO_DELIVER):
            break
        variable, _, place = address.partition("#")
        urls = urls_of(variable)
        if not urls:
            # A `make run` without the daemon's environment leaves its messages to the daemon.
            continue
        messages = outbox.take(address, clock())
        if not messages:
            continue
        if len(urls) < int(place):
            problem: str | None = f"{variable} has no URL number {place}"
        else:
            title, text = written(messages)
            problem = send(urls[int(place) - 1], title, text, bool(_by_news(messages)[0]))
        if problem is None:
            outbox.delivered(messages, clock())
            accepted += len(messages)
        else:
            outbox.refused(messages, problem, settings.attempts, clock())
            refused += len(messages)
    return accepted, refused


def written(messages: Sequence[Message]) -> tuple[str, str]:
    """Title and text of one message for several pieces of news, run by run, the worst first.

    Of what began and ended before anybody could be told there is one line, which says that it is over.
    """
    raised, recovered, over = _by_news(messages)
    news = [(some, word) for some, word in ((raised, "new"), (recovered, "recovered"), (over, "over by now")) if some]
    title = f"Analytics: {', '.join(f'{len(some)} {word}' for some, word in news)}"
    if len(raised) + len(recovered) + len(over) == 1:
        first = messages[0].alert
        title = f"{first.subject}: {first.kind}" + ("" if raised else f", {news[0][1]}")
    order = {"error": 0, "warning": 1}
    worst_first = sorted(raised, key=lambda m: (order[m.alert.severity], m.alert.run_id or "", m.number))
    lines = [_line(message, "") for message in worst_first[:SHOWN]]
    for message in recovered[:SHOWN]:
        where = f" {message.alert.partition}" if message.alert.partition else ""
        lines.append(f"#{message.alert_number} recovered: {message.alert.subject}{where}, {message.alert.kind}")
    lines += [_line(message, ", over by now") for message in over[:SHOWN]]
    left_out = len(raised) + len(recovered) + len(over) - len(lines)
    if left_out > 0:
        lines.append(f"and {left_out} more: analytics-assets alerts")
    return title, "\n".join(lines)


def _by_news(messages: Sequence[Message]) -> tuple[list[Message], list[Message], list[Message]]:
    """What is wrong, what is right again, and what was wrong and is right again, of which nobody has heard yet."""
    begun = [message for message in messages if message.news == "raised"]
    raised = [message for message in begun if not message.is_over]
    over = [message for message in begun if message.is_over]
    told = {message.alert_number for message in begun}
    recovered = [message for message in messages if message.news == "recovered" and message.alert_number not in told]
    return raised, recovered, over


def _line(message: Message, state: str) -> str:
    alert = message.alert
    run = f" (run {alert.run_id[:8]})" if alert.run_id else ""
    return f"#{message.alert_number} {alert.severity.upper()} {alert.kind}{run}{state}: {alert.text}"


def send_by_apprise(url: str, title: str, text: str, bad_news: bool) -> str | None:
    """Send one message.

    Each is sent in a thread of its own that no exit waits for. Apprise's own time limit leaves a thread of its small pool
    behind for as long as an endpoint goes on answering: six of them, and no address heard anything any more.

    Returns:
        None when the endpoint has accepted it, else why not, in words that hold nothing of the URL.
    """
    if url in _unanswered and not _unanswered[url].done():
        return "has not ended its answer to the message before"
    answer: Future[str | None] = Future()

    def send() -> None:
        try:
            answer.set_result(_send_by_apprise(url, title, text, bad_news))
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=send, name="alert", daemon=True).start()
    try:
        return answer.result(timeout=SECONDS_TO_ANSWER)
    except TimeoutError:
        _unanswered[url] = answer
        return "no answer in time"


# One a URL at most.
_unanswered: dict[str, Future[str | None]] = {}


def _send_by_apprise(url: str, title: str, text: str, bad_news: bool) -> str | None:
    import apprise

    # Its log names hosts, and URLs that it cannot read.
    apprise.logger.propagate = False
    apprise.logger.addHandler(logging.NullHandler())
    service = apprise.Apprise.instantiate(url)
    if service is None:
        return "not a URL that Apprise knows"
    one = apprise.Apprise()
    one.add(service)
    kind = apprise.NotifyType.FAILURE if bad_news else apprise.NotifyType.SUCCESS
    result = one.notify(body=text, title=title, notify_type=kind, body_format="text")
    if result:
        return None
    codes = [found[1] for entry in result.logs() if (found := re.search(r"error=(\d{3})\b", str(entry.message)))]
    return f"answered {codes[-1]}" if codes else "no connection, or no answer in time"


def watch(platform: Platform, instance: dg.DagsterInstance, specs: Sequence[dg.AssetSpec], by_daemon: bool) -> str:
    """Look at everything, write what is news, deliver what is due.

    What cannot be looked at is an alert itself, and the rest goes on.

    Returns:
        One line that says what was found and sent.
    """
    outbox, clock = outbox_of(platform), lambda: datetime.now(UTC)
    now = clock()
    if by_daemon:
        _note_absence(platform, outbox, now)
    broken: list[str] = []
    for look in (
        lambda: look_at_ended_runs(instance, outbox, specs, now),
        lambda: look_at_now(platform, instance, outbox, now),
    ):
        try:
            look()
        except Exception as error:
            broken.append(masked(f"{type(error).__name__}: {error}"))
    if broken:
        text = f"part of what goes wrong goes unseen: {'; '.join(broken)}"
        outbox.raise_alert(Alert("watching", WATCHING, "error", PLATFORM, text), now)
    else:
        outbox.recover("watching", now)
    write_messages(outbox, platform.settings.alerts, clock())
    accepted, refused = deliver(outbox, platform.settings.alerts, clock, send_by_apprise)
    # `make run` looks once: what it could not deliver is told by the list that it ends with.
    look_at_deaf_addresses(outbox, clock())
    if by_daemon:
        outbox.take_note("watched_at", clock().isoformat())
    return summary(outbox.alerts(standing_only=True), accepted, refused)


def _note_absence(platform: Platform, outbox: Outbox, now: datetime) -> None:
    """The daemon cannot tell of its own death; the first watch after it does."""
    before = outbox.note("watched_at")
    if before and now - datetime.fromisoformat(before) > ASLEEP:
        since = on_the_wall(datetime.fromisoformat(before), platform)
        text = f"nobody watched from {since} to {on_the_wall(now, platform)}: the daemon was down. It runs again."
        with outbox.together():
            outbox.raise_alert(Alert("absence", DAEMON, "error", PLATFORM, text), now)
            outbox.recover("absence", now)


def summary(standing: Sequence[Standing], accepted: int, refused: int) -> str:
    """What stands and what was sent, in one line."""
    sent = f"{accepted} sent" + (f", {refused} not accepted" if refused else "")
    if not standing:
        return f"nothing is wrong; {sent}"
    subjects = ", ".join(f"{one.alert.subject}: {one.alert.kind}" for one in standing[:5])
    return f"{len(standing)} stand ({subjects}{', …' if len(standing) > 5 else ''}); {sent}"


def alerts_sensor(platform: Platform, assets: Sequence[dg.AssetsDefinition | dg.AssetSpec]) -> dg.SensorDefinition:
    """Watches, every minute."""
    specs = [spec for asset in assets if isinstance(asset, dg.AssetsDefinition) for spec in asset.specs]

    @dg.sensor(name="alerts", minimum_interval_seconds=60, default_status=dg.DefaultSensorStatus.RUNNING)
    def alerts(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        """Raises, ends and delivers alerts; each tick says what stands. The runbook says what each kind means."""
        return dg.SkipReason(watch(platform, context.instance, specs, by_daemon=True))

    return alerts
