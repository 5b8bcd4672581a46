"""Ctrl-C while catching up: once is enough, and it is no failure.

Python shows an interrupt to whatever runs at that moment, and a callback from SQLAlchemy or DuckDB swallows it; a query that
is executed shows it only when it is over. So it is noted as the system delivers it, and repeated until the work has stopped.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import dagster as dg

SECONDS_BETWEEN = 1.0


class Interruption:
    """Whether and when (seconds since 1970) somebody pressed Ctrl-C, as the system delivers it."""

    def __init__(self) -> None:
        """Listen from now on, in place of whoever did."""
        self.pressed_at: float | None = None
        self._noting = threading.Lock()
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._reading, False)
        os.set_blocking(self._writing, False)
        self._before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)

    def __call__(self) -> bool:
        """Whether it was pressed."""
        with self._noting, suppress(BlockingIOError):
            if signal.SIGINT in os.read(self._reading, 64) and self.pressed_at is None:
                self.pressed_at = time.time()
        return self.pressed_at is not None

    def listen_no_more(self) -> None:
        """Leave signals to whoever listened before."""
        signal.set_wakeup_fd(self._before)
        self()
        os.close(self._reading)
        os.close(self._writing)


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Let one Ctrl-C stop what runs inside, in the main thread.

    Raises:
        KeyboardInterrupt: it was pressed, whatever became of it inside.
    """
    interruption, over = Interruption(), threading.Event()
    main_thread = threading.main_thread().ident or 0

    def repeat() -> None:
        while not over.wait(SECONDS_BETWEEN):
            if interruption() and time.time() - (interruption.pressed_at or 0) >= SECONDS_BETWEEN:
                signal.pthread_kill(main_thread, signal.SIGINT)
                # Not before: it may still be importing what this imports.
                from analytics_assets.warehouse.engine import interrupt_queries

                interrupt_queries()

    repeating = threading.Thread(target=repeat, name="interruption", daemon=True)
    repeating.start()
    try:
        yield interruption
    except BaseException:
        if not interruption():
            raise
    finally:
        over.set()
        repeating.join()
        interruption.listen_no_more()
    if interruption.pressed_at:
        raise KeyboardInterrupt


@contextmanager
def cancelling_runs(instance: dg.DagsterInstance, interruption: Interruption) -> Iterator[None]:
    """Let the run that Ctrl-C ends be one that was cancelled, which raises no alert, and not one that failed."""
    import dagster as dg

    from analytics_assets.operations.launcher import CATCH_UP

    try:
        yield
    finally:
        if interruption():
            for record in instance.get_run_records(dg.RunsFilter(tags={CATCH_UP: "true"}), limit=1):
                failed = record.dagster_run.status == dg.DagsterRunStatus.FAILURE
                if not record.dagster_run.is_finished or (failed and (record.end_time or 0.0) >= (interruption.pressed_at or 0)):
                    instance.report_run_canceled(record.dagster_run, "somebody pressed Ctrl-C")
