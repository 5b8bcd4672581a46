"""What a step needed at its peak, known block by known block."""

import subprocess
import sys
from pathlib import Path

import pytest

from analytics_assets.warehouse import memory
from analytics_assets.warehouse.memory import PeakMemory

MIB = 2**20
# In a process of its own, whose maximum nobody else has raised. Each block is held until the looks must have seen it.
STEPS = """
import sys, time
from analytics_assets.warehouse.memory import PeakMemory
MIB = 2**20

def peak_above_start(mib, seconds):
    with PeakMemory() as memory:
        start = memory.size
        block = bytearray(mib * MIB)
        time.sleep(seconds)
        del block
    return (memory.size - start) // MIB

print(peak_above_start(300, 0), peak_above_start(100, 1), peak_above_start(0, 0), peak_above_start(400, 0))
"""

needs_linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells what a process needs")


@needs_linux
def test_each_step_has_its_own_peak_whatever_an_earlier_one_needed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STEPS], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    found = list(map(int, done.stdout.split()))
    assert found == pytest.approx([300, 100, 0, 400], abs=8)


def test_where_the_system_does_not_tell_it_is_unknown(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "status")
    with PeakMemory() as unknown:
        pass
    assert unknown.size is None
