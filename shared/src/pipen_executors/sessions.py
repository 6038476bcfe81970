"""Jobs as detached processes on this machine, for schedulers that start such.

A job is a session of its own (setsid(2)): it survives the main process and its
terminal, and can be ended as a whole. Its id is the pid of the session's leader.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import psutil

from .exceptions import SchedulerError
from .job import Job
from .states import ExitReason, Outcome, Presence, Report

_AFTER_KILL: Final = 5.0
"""Seconds after SIGKILL, and after the last process that ended, until the others are given up."""


class Sessions:
    """The sessions that a scheduler has started, and those that an earlier run has left."""

    def __init__(self) -> None:
        self._children: dict[str, int | None] = {}
        self._forgotten: set[str] = set()
        self._peaks: dict[str, int] = {}
        self._swept: set[int] = set()
        self._oom_kills = _oom_kills()

    def submit(self, job: Job, argv: Sequence[str]) -> str | SchedulerError:
        """Start a job; return its id, or why it could not be started.

        Parameters
        ----------
        job
            What ``argv`` writes before its wrapper takes over goes to its ``job.stderr``.
        argv
            The command, by its absolute path.
        """
        self._oom_kills = _oom_kills()
        log = job.directory.file("job.stderr")
        files = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        try:
            pid = os.posix_spawn(
                argv[0],
                list(argv),
                os.environ,
                file_actions=files,
                setsid=True,
                setsigdef=(signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ),
            )
        except OSError as error:
            return SchedulerError(f"the process could not be started: {error}")
        self._children[str(pid)] = None
        self._forgotten.discard(str(pid))
        self._swept.discard(pid)
        self._peaks.pop(str(pid), None)
        return str(pid)

    def _reap(self) -> None:
        """Collect exit statuses of wrappers that were started by this process.

        The kernel is asked for any child that has ended (waitid(2), WNOWAIT leaves it as it
        is), which is one call however many run. Should that be a child of somebody else in
        this process, who has yet to collect it, each wrapper is asked for by itself.
        """
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            if self._children.get(str(ended.si_pid), 0) is not None:
                break
            self._collect(str(ended.si_pid))
        for jid, status in self._children.items():
            if status is None:
                self._collect(jid)

    def _collect(self, jid: str) -> None:
        """Collect one wrapper, if it has ended, and end what a killed one has left.

        As long as it is not collected, no other session can have its number.
        """
        pid = int(jid)
        with contextlib.suppress(ChildProcessError):
            ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None:
                return
            signalled = ended.si_code != os.CLD_EXITED or ended.si_status > 128
            if signalled and pid not in self._swept:
                _signal_sessions({pid}, signal.SIGKILL)
            _, status, usage = os.wait4(pid, 0)
            self._children[jid] = os.waitstatus_to_exitcode(status)
            self._peaks[jid] = usage.ru_maxrss * 1024

    def measured(self, job: Job) -> Mapping[str, Any] | None:
        """Return the largest memory of one process of a job, as the kernel kept it.

        A process that executes a program takes the peak of what it was before with it
        (getrusage(2), ru_maxrss), and the wrapper was this process: what is not above this
        process's own peak is only known to be below it. None while it is still about to end.
        """
        self._reap()
        peak = self._peaks.get(job.jid)
        if peak is None:
            return None if self._children.get(job.jid, 0) is None else {}
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if peak <= own:
            return {"memory_below": own}
        return {"memory": peak, "memory_by": "largest process"}

    def forget(self, job: Job) -> None:
        """Drop the exit status of a job, now or when its wrapper has come to its end."""
        if job.jid in self._children:
            self._forgotten.add(job.jid)

    def query(self, jobs: Sequence[Job]) -> Mapping[Job, Report]:
        """Look which processes are there."""
        self._reap()
        gone, running = Report(Presence.GONE), Report(Presence.RUNNING)
        reports = {}
        for job in jobs:
            if job.jid in self._children:
                alive = self._children[job.jid] is None
            else:
                alive = _runs_wrapper(int(job.jid), job.directory.path)
            reports[job] = running if alive else gone
        for jid in [j for j in self._forgotten if self._children[j] is not None]:
            del self._children[jid]
            self._peaks.pop(jid, None)
            self._forgotten.remove(jid)
        return reports

    def status(self, job: Job) -> int | None:
        """Return the exit status of a job's leader, negative for a signal; None if unknown."""
        self._reap()
        return self._children.get(job.jid)

    def explain(self, jobs: Sequence[Job]) -> dict[Job, Outcome]:
        """Say what the kernel says: a signal, or its out-of-memory killer."""
        self._reap()
        memory = _oom_kills() > self._oom_kills
        outcomes = {}
        for job in jobs:
            rc = job.directory.rc()
            status = self._children.get(job.jid)
            if rc is None and status is not None and status < 0:
                rc = 128 - status
            if rc == 128 + signal.SIGKILL and memory:
                detail = "the kernel's out-of-memory killer was at work (oom_kill in /proc/vmstat)"
                outcomes[job] = Outcome(ExitReason.OUT_OF_MEMORY, rc, detail)
            elif rc is not None and rc > 128:
                name = signal.Signals(rc - 128).name
                outcomes[job] = Outcome(ExitReason.SIGNAL, rc, name)
        return outcomes

    async def kill(self, jobs: Sequence[Job], grace: float) -> None:
        """End whole sessions: TERM, and KILL after ``grace`` seconds.

        Raises
        ------
        SchedulerError
            If processes are left that KILL does not end: those of another user (sudo,
            set-user-ID programs) may not be signalled (kill(2), EPERM), and one in an
            uninterruptible system call ends when that returns.
        """
        reports = self.query(jobs)
        sessions = {int(j.jid) for j, r in reports.items() if r.presence is Presence.RUNNING}
        self._swept |= sessions
        _signal_sessions(sessions, signal.SIGTERM)
        deadline = time.monotonic() + grace
        fewest, given_up = sys.maxsize, deadline + _AFTER_KILL
        while remaining := _processes_of(sessions):
            self._reap()
            now = time.monotonic()
            if now >= deadline:
                _signal_sessions(sessions, signal.SIGKILL)
            if len(remaining) < fewest:
                fewest, given_up = len(remaining), max(deadline, now) + _AFTER_KILL
            elif now >= given_up:
                raise SchedulerError(f"SIGKILL does not end {_described(remaining)}")
            await asyncio.sleep(0.02 if len(remaining) < 100 else 1.0)


def _runs_wrapper(pid: int, directory: str) -> bool:
    """Tell whether a session is that of a job, and not another with its leader's old pid.

    The leader may be what started the wrapper (a container runtime, which may call itself
    something else), so all processes of the session are looked at.
    """
    try:
        if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return False
    except psutil.Error:
        return False
    start = f"{directory}/job.wrapped."
    return _has_argument(pid, start) or any(
        _has_argument(other, start) for other in _processes_of({pid})
    )


def _has_argument(pid: int, start: str) -> bool:
    with contextlib.suppress(psutil.Error):
        return any(word.startswith(start) for word in psutil.Process(pid).cmdline())
    return False


def _processes_of(sessions: set[int]) -> list[int]:
    """Return the living processes of some sessions."""
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getsid(pid) in sessions and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
    return found


def _described(pids: Sequence[int]) -> str:
    """Return what a person must know of processes to deal with them."""
    told = []
    for pid in pids[:10]:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            told.append(f"process {pid} ({process.name()}, user {process.username()})")
    return ", ".join(told) + (" …" if len(pids) > 10 else "")


def _signal_sessions(sessions: set[int], number: signal.Signals) -> None:
    for pid in _processes_of(sessions):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _oom_kills() -> int:
    """Return how many processes the kernel has killed for want of memory (proc(5), vmstat)."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
