"""How runs are launched: as Dagster does by itself, and so that run monitoring can tell whether a run's process is still there.

A power cut, or the kernel for want of memory, can take the worker of a run and the code server above it together: nobody is
left to say so. Dagster's own launcher cannot tell such a run from one at work, and it would hold a slot and its partitions for ever.
"""

import os
import re
import socket
from pathlib import Path

import dagster as dg
from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, WorkerStatus
from dagster._core.launcher.base import LaunchRunContext

from analytics_assets.home import Home
from analytics_assets.operations.record import POSTGRES_URL

# The tag of the runs that catching up computes in its own process, holding the lock `run` of the home.
CATCH_UP = "analytics/catch_up"
HOST = "analytics/host"
_PROCESSES = Path("/proc")


class WatchedRunLauncher(DefaultRunLauncher):
    """Launches each run in a process of this machine, and says whether that is still there. `dagster.yaml` names it.

    What was begun elsewhere counts as alive, and what a person began in a process of their own while any has its number: a live run is
    never ended.
    """

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Whether the system shows its processes as Linux does."""
        return (_PROCESSES / "self" / "cmdline").exists()

    def launch_run(self, context: LaunchRunContext) -> None:
        """Launch a run, and note on which machine."""
        self._instance.add_run_tags(context.dagster_run.run_id, {HOST: socket.gethostname()})
        super().launch_run(context)

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """`FAILED` when the process of a run that has started is gone."""
        if CATCH_UP in run.tags:
            gone = "the process that was catching up" if _unlocked(Home.from_environment()) else None
        else:
            gone = self._gone(run)
        if gone:
            return CheckRunHealthResult(WorkerStatus.FAILED, f"{gone} is gone: killed, or ended with the machine")
        return CheckRunHealthResult(WorkerStatus.RUNNING)

    def _gone(self, run: dg.DagsterRun) -> str | None:
        if run.tags.get(HOST, socket.gethostname()) != socket.gethostname():
            return None
        for entry in self._instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
            said = entry.get_dagster_event().message or ""
            if found := re.match(r"Started process for run \(pid: (\d+)\)", said):
                return None if _is_worker(int(found[1])) else f"the worker (process {found[1]})"
            if found := re.match(r"Executing steps in process \(pid: (\d+)\)", said):
                # A person's own, and on this machine only where the record lies on it.
                elsewhere = os.environ.get(POSTGRES_URL)
                return None if elsewhere or _command_line(int(found[1])) else f"the process {found[1]}"
        return None


def _is_worker(process: int) -> bool:
    """Whether a process is a worker: after a restart its number may be another program's, and one that is dead has no command line.

    Times would not tell: clocks are set, most of all after a machine has slept.
    """
    return b"spawn_main" in _command_line(process)


def _command_line(process: int) -> bytes:
    try:
        return (_PROCESSES / str(process) / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


class _AtWorkError(Exception):
    pass


def _unlocked(home: Home) -> bool:
    def at_work() -> None:
        raise _AtWorkError

    try:
        with home.lock("run", at_work):
            return True
    except _AtWorkError:
        return False
