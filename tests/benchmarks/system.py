"""What processes use, and their end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess

import psutil


def descendants(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [pid, *(child.pid for child in process.children(recursive=True))]
    return []


def cpu_of(pid: int) -> float:
    """Return the CPU seconds of a process, and of the children it has waited for."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a run of Snakemake that does not end by itself: Ctrl-C first, then SIGKILL."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(30)
        return
    for pid in descendants(process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
