"""How much memory a step needs at its peak, measured from inside its process, and giving back what it needs no more."""

from __future__ import annotations

import contextlib
import ctypes
import re
import threading
from pathlib import Path
from types import TracebackType

import pyarrow as pa

# Under this name a materialisation tells it, in bytes.
PEAK_MEMORY = "peak_memory"
_STATUS = Path("/proc/self/status")
SECONDS_BETWEEN_LOOKS = 0.02


class PeakMemory:
    """Largest resident memory of this process while the context was open.

    The kernel keeps only the maximum since the process began. Where that rose, it is the answer, to the page; where an earlier step
    needed more, the answer is the largest of looks 20 ms apart. The kernel's maximum is not reset: who measures the
    process from outside reads it too.
    """

    def __enter__(self) -> PeakMemory:
        """Begin to look."""
        self._before = _resident()
        self._seen = self._before[0] if self._before else 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="peak memory", daemon=True)
        if self._before:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop looking."""
        self._over.set()
        if self._before:
            self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(SECONDS_BETWEEN_LOOKS):
            if found := _resident():
                self._seen = max(self._seen, found[0])

    @property
    def size(self) -> int | None:
        """Bytes so far; None where the system does not tell (only Linux does)."""
        found = _resident()
        if not self._before or not found:
            return None
        resident, maximum = found
        return maximum if maximum > self._before[1] else max(self._seen, resident)


def give_back() -> None:
    """Return to the system what was freed: the C library and Arrow keep it for what may come, and a step that takes turns with
    large arrays grows by what lies between them. Where the C library is not GNU's, its part stays.
    """
    pa.default_memory_pool().release_unused()
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _resident() -> tuple[int, int] | None:
    """Resident memory of this process in bytes, now and at most since it began."""
    try:
        kib = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE))
        return int(kib["VmRSS"]) * 1024, int(kib["VmHWM"]) * 1024
    except (OSError, KeyError):
        return None
