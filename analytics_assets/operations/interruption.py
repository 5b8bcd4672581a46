"""Ctrl-C while catching up: once is enough, and it is no failure.

Python shows an interrupt to whatever runs at that moment, and a callback from SQLAlchemy or DuckDB swallows it; a query that
is executed shows it only when it is over. So it is noted as the system delivers it, and repeated until the work has stopped.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import dagster as dg

from analytics_assets.operations.launcher import CATCH_UP
from analytics_assets.warehouse.engine import interrupt_queries

SECONDS_BETWEEN = 1.0


@contextmanager
def interruptible(instance: dg.DagsterInstance) -> Iterator[Callable[[], bool]]:
    """Let one Ctrl-C stop what runs inside, in the main thread; gives a function that says whether it was pressed.

    The run that it ended was cancelled, and did not fail: that would raise an alert.

    Raises:
        KeyboardInterrupt: it was pressed, whatever became of it inside.
    """
    pressed: list[float] = []
    over, noting = threading.Event(), threading.Lock()
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    main_thread = threading.main_thread().ident or 0

    def interrupted() -> bool:
        with noting, suppress(BlockingIOError):
            if signal.SIGINT in os.read(reading, 64):
                pressed.append(time.time())
        return bool(pressed)

    def repeat() -> None:
        while not over.wait(SECONDS_BETWEEN):
            if interrupted() and time.time() - pressed[0] >= SECONDS_BETWEEN:
                interrupt_queries()
                signal.pthread_kill(main_thread, signal.SIGINT)

    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    repeating = threading.Thread(target=repeat, name="interruption", daemon=True)
    repeating.start()
    try:
        yield interrupted
    except BaseException:
        if not interrupted():
            raise
    finally:
        over.set()
        repeating.join()
        signal.set_wakeup_fd(before)
        interrupted()
        os.close(reading)
        os.close(writing)
    if pressed:
        _cancel_the_newest_run(instance, pressed[0])
        raise KeyboardInterrupt


def _cancel_the_newest_run(instance: dg.DagsterInstance, pressed_at: float) -> None:
    for record in instance.get_run_records(dg.RunsFilter(tags={CATCH_UP: "true"}), limit=1):
        failed = record.dagster_run.status == dg.DagsterRunStatus.FAILURE and (record.end_time or 0.0) >= pressed_at
        if failed or not record.dagster_run.is_finished:
            instance.report_run_canceled(record.dagster_run, "somebody pressed Ctrl-C")
