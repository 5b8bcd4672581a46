"""Runs a piece of work in a forked process that dies by SIGKILL just before the n-th change that it makes below a folder.

The kernel stops every thread at each call that changes a file (seccomp's user notification), whether Python, DuckDB, SQLite or
Delta makes it: what is being tested needs no hooks, and no change can go by unseen. Linux on x86-64 or ARM, unprivileged.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import platform
import select
import signal
import socket
import struct
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Numbers of the calls, on x86-64 and on ARM; those that ARM has not are made by their successors with `at`.
_CALLS = {
    "write": (1, 64), "pwrite": (18, 68), "writev": (20, 66), "pwritev": (296, 70), "copy_file_range": (326, 285),
    "open": (2, None), "creat": (85, None), "openat": (257, 56), "truncate": (76, 45), "ftruncate": (77, 46), "fallocate": (285, 47),
    "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276), "link": (86, None), "linkat": (265, 37),
    "symlink": (88, None), "symlinkat": (266, 36), "unlink": (87, None), "unlinkat": (263, 35),
    "mkdir": (83, None), "mkdirat": (258, 34), "rmdir": (84, None), "fsync": (74, 82), "fdatasync": (75, 83), "flock": (73, 32),
}  # fmt: skip
_OF_DESCRIPTOR = {
    *("write", "pwrite", "writev", "pwritev", "ftruncate", "fallocate", "fsync", "fdatasync", "copy_file_range", "flock"),
}
# Which argument is the path that is made, changed or removed.
_PATH = {
    "open": 0, "creat": 0, "truncate": 0, "unlink": 0, "mkdir": 0, "rmdir": 0, "rename": 1, "link": 1, "symlink": 1, "symlinkat": 2,
    "openat": 1, "unlinkat": 1, "mkdirat": 1, "renameat": 3, "renameat2": 3, "linkat": 3,
}  # fmt: skip
_COLUMN, _ARCH, _SECCOMP, _PIDFD_OPEN = {"x86_64": (0, 0xC000003E, 317, 434), "aarch64": (1, 0xC00000B7, 277, 434)}[
    platform.machine()
]
_NUMBERS = {numbers[_COLUMN]: name for name, numbers in _CALLS.items() if numbers[_COLUMN] is not None}
_RECEIVE, _ANSWER = 0xC0502100, 0xC0182101
_SOUGHT_TO_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@dataclass(frozen=True)
class Ended:
    """How the work ended: the changes that it made or was about to make, the last one its death; what it raised, if it did."""

    changes: list[str]
    killed: bool
    error: str | None


def run_and_kill(work: Callable[[], object], below: Path, at: int | None) -> Ended:
    """Do `work` in a forked process and kill it before its change number `at` (from 1; None: never).

    Call it where no other thread runs: a forked process has only the one that forked.
    """
    here, there = socket.socketpair()
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        here.close()
        os.close(told)
        status = 1
        try:
            socket.send_fds(there, [b"x"], [_listener()])
            work()
            status = 0
        except BaseException:
            os.write(tell, traceback.format_exc().encode()[-8_000:])
        finally:
            os._exit(status)
    there.close()
    os.close(tell)
    _, [listener, *_], _, _ = socket.recv_fds(here, 1, 1)
    here.close()
    changes, killed = _watch(child, listener, f"{below}/", at)
    os.close(listener)
    _, status = os.waitpid(child, 0)
    with os.fdopen(told, "rb") as pipe:
        error = pipe.read().decode(errors="replace") or None
    if not killed and status and not error:
        error = f"ended with status {status}"
    return Ended(changes, killed, error)


def start(work: Callable[[], Any]) -> tuple[int, int]:
    """Begin work in a forked process; give what `answer` asks for."""
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = json.dumps({"answer": work()})
        except BaseException:
            said = json.dumps({"error": traceback.format_exc()[-6_000:]})
        with os.fdopen(there, "w") as pipe:
            pipe.write(said)
        os._exit(0)
    os.close(there)
    return child, here


def answer(started: tuple[int, int]) -> Any:
    """What the work gave.

    Raises:
        RuntimeError: what it raised, as text.
    """
    child, here = started
    with os.fdopen(here) as pipe:
        found = json.loads(pipe.read() or '{"error": "died"}')
    os.waitpid(child, 0)
    if "error" in found:
        raise RuntimeError(found["error"])
    return found["answer"]


def apart(work: Callable[[], Any]) -> Any:
    """Do work in a forked process, so that this one never has a thread, and give what it gave."""
    return answer(start(work))


def _listener() -> int:
    """Have this process, and all that it starts, ask for leave at each call that changes files; who answers holds the listener."""
    code = [(0x20, 0, 0, 4), (0x15, 1, 0, _ARCH), (0x06, 0, 0, 0x7FFF0000), (0x20, 0, 0, 0)]
    code += [(0x15, len(_NUMBERS) - place, 0, number) for place, number in enumerate(_NUMBERS)]
    code += [(0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x7FC00000)]
    instructions = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in code))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code), ctypes.addressof(instructions)))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(38, 1, 0, 0, 0)
    listener = libc.syscall(_SECCOMP, 1, 8, program)
    if listener < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return listener


def _watch(child: int, listener: int, below: str, at: int | None) -> tuple[list[str], bool]:
    changes: list[str] = []
    exited = os.pidfd_open(child)
    try:
        while True:
            ready, _, _ = select.select([listener, exited], [], [])
            if listener not in ready:
                return changes, False
            asked = bytearray(80)
            try:
                fcntl.ioctl(listener, _RECEIVE, asked)
            except OSError:
                # Who asked has died meanwhile, or all have.
                if exited in ready:
                    return changes, False
                continue
            number, thread, _, call, _, _, *arguments = struct.unpack("QIIiIQ6Q", asked)
            if change := _change(thread, _NUMBERS[call], arguments, below):
                changes.append(change)
                if len(changes) == at:
                    os.kill(child, signal.SIGKILL)
                    return changes, True
            try:
                fcntl.ioctl(listener, _ANSWER, struct.pack("QqiI", number, 0, 0, 1))
            except OSError:
                continue
    finally:
        os.close(exited)


def _change(thread: int, call: str, arguments: list[int], below: str) -> str | None:
    """What a call is about to change below the folder, in words; None where it changes nothing there."""
    try:
        if call in _OF_DESCRIPTOR:
            path = os.readlink(f"/proc/{thread}/fd/{arguments[2 if call == 'copy_file_range' else 0]}")
        else:
            flags = arguments[1] if call == "open" else arguments[2] if call == "openat" else os.O_WRONLY
            if not flags & _SOUGHT_TO_WRITE:
                return None
            with open(f"/proc/{thread}/mem", "rb", buffering=0) as memory:
                memory.seek(arguments[_PATH[call]])
                path = os.fsdecode(memory.read(4096).split(b"\0", 1)[0])
            if not path.startswith("/"):
                folder = ctypes.c_int(arguments[_PATH[call] - 1]).value if call.endswith(("at", "at2")) else -100
                path = f"{os.readlink(f'/proc/{thread}/cwd' if folder == -100 else f'/proc/{thread}/fd/{folder}')}/{path}"
    except OSError:
        return None
    return f"{call} {path.removeprefix(below)}" if path.startswith(below) else None
