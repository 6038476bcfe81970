"""Run one command and say what it took, with all its descendants.

``python launch.py REPORT TIMEOUT COMMAND...`` writes a JSON object into the file REPORT. It is a
process of its own so that it can adopt (and wait for, and count) processes that detach
themselves, as pipen-local's jobs do; see PR_SET_CHILD_SUBREAPER in prctl(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time

import psutil

_PR_SET_CHILD_SUBREAPER = 36
_FAREWELL = 10.0
"""Seconds for what a command leaves behind; parallel -M leaves connections that never end."""


def busy_seconds() -> float:
    """Return the CPU seconds that all processes of the machine have used (proc(5), stat)."""
    with open("/proc/stat", encoding="ascii") as stream:
        user, nice, system, _idle, _iowait, irq, softirq = map(int, stream.readline().split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def end_descendants() -> None:
    """Kill what is still there."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def main() -> None:
    """Run the command."""
    report, timeout, *command = sys.argv[1:]
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    timed_out = threading.Event()
    busy, load, start = busy_seconds(), os.getloadavg()[0], time.monotonic()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)

    def end() -> None:
        timed_out.set()
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            time.sleep(2)

    signal.signal(signal.SIGTERM, lambda *_: end())
    timer = threading.Timer(float(timeout), end)
    timer.daemon = True
    timer.start()
    _, status, used = os.wait4(process.pid, 0)
    wall = time.monotonic() - start
    timer.cancel()
    leave = threading.Timer(_FAREWELL, end_descendants)
    leave.daemon = True
    leave.start()
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()
    everything = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = everything.ru_utime + everything.ru_stime
    passed = time.monotonic() - start
    others = max(0.0, busy_seconds() - busy - total) / passed / (os.cpu_count() or 1)
    facts = {
        "wall": wall,
        "rc": os.waitstatus_to_exitcode(status),
        "timed_out": timed_out.is_set(),
        "cpu": total,
        "main_cpu": used.ru_utime + used.ru_stime,
        "others": others,
        "load": load,
    }
    with open(report, "w", encoding="utf-8") as stream:
        json.dump(facts, stream)


if __name__ == "__main__":
    main()
