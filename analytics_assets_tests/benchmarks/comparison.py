"""One row of the table: our seconds beside the other side's, medians of repetitions that took turns."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median


@dataclass(frozen=True)
class Comparison:
    """`goal` is the largest ratio that we want."""

    what: str
    ours: str
    other: str
    ours_seconds: float
    other_seconds: float
    goal: float | None = None

    @property
    def ratio(self) -> float:
        """Our seconds over theirs."""
        return self.ours_seconds / self.other_seconds


def taking_turns(ours: Callable[[int], float], other: Callable[[int], float], repetitions: int) -> tuple[float, float]:
    """Median seconds of both sides; each is given the number of the repetition and gives its seconds."""
    seconds = [(ours(n), other(n)) for n in range(repetitions)]
    return median(mine for mine, _ in seconds), median(theirs for _, theirs in seconds)


def seconds_of(work: Callable[[], object]) -> float:
    """Wall seconds of a call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def gigabytes_held() -> float:
    """Gigabytes that this process has held at most (Linux).

    `ru_maxrss` of a new process begins with that of the one that started it: every part of a benchmark would be as large as its seeding.
    """
    [kilobytes] = [line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(kilobytes) * 1024 / 1e9
