"""Jobs as detached processes on this machine.

A job is a session of its own (setsid(2)): it survives the main process and its
terminal, and can be ended as a whole. Its id is the pid of its wrapper.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from xqute.schedulers.local_scheduler import LocalScheduler as XquteLocalScheduler

from pipen_executors.exceptions import SchedulerError
from pipen_executors.job import Job
from pipen_executors.scheduler import SchedulerPostInit
from pipen_executors.states import ExitReason, Outcome, Presence, Report


class LocalScheduler(SchedulerPostInit, XquteLocalScheduler):
    """Runs jobs on this machine."""

    runs_here = True
    query_ceiling = 5.0
    loss_grace = 0.5
    kill_chunk = 100_000
    sweeps_sessions = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._children: dict[str, int | None] = {}
        self._forgotten: set[str] = set()
        self._swept: set[int] = set()
        self._oom_kills = _oom_kills()

    def batches(self, jobs: Sequence[Job]) -> list[list[Job]]:
        """Start all jobs in one go: starting a process takes less than asking who may."""
        return [list(jobs)] if jobs else []

    async def submit_jobs(self, jobs: Sequence[Job]) -> Mapping[Job, str | SchedulerError]:
        """Start one detached process for each job."""
        self._oom_kills = _oom_kills()
        answers: dict[Job, str | SchedulerError] = {}
        for job in jobs:
            wrapper = job.directory.file(f"job.wrapped.{self.name}")
            log = job.directory.file("job.stderr")
            files = [
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ]
            try:
                pid = os.posix_spawn(
                    "/bin/bash",
                    ["/bin/bash", wrapper],
                    os.environ,
                    file_actions=files,
                    setsid=True,
                    setsigdef=(signal.SIGINT, signal.SIGTERM, signal.SIGPIPE),
                )
            except OSError as error:
                answers[job] = SchedulerError(f"the process could not be started: {error}")
            else:
                answers[job] = str(pid)
                self._children[str(pid)] = None
                self._forgotten.discard(str(pid))
                self._swept.discard(pid)
        return answers

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
            _, status = os.waitpid(pid, 0)
            self._children[jid] = os.waitstatus_to_exitcode(status)

    def forget(self, job: Job) -> None:
        """Drop the exit status of a job, now or when its wrapper has come to its end."""
        if job.jid in self._children:
            self._forgotten.add(job.jid)

    async def query_jobs(self, jobs: Sequence[Job]) -> Mapping[Job, Report]:
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
            self._forgotten.remove(jid)
        return reports

    async def explain_jobs(self, jobs: Sequence[Job]) -> Mapping[Job, Outcome]:
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

    async def kill_jobs(self, jobs: Sequence[Job]) -> None:
        """End whole sessions: TERM, and KILL after the grace time."""
        reports = await self.query_jobs(jobs)
        sessions = {int(j.jid) for j, r in reports.items() if r.presence is Presence.RUNNING}
        self._swept |= sessions
        _signal_sessions(sessions, signal.SIGTERM)
        deadline = time.monotonic() + self.kill_grace
        while remaining := _processes_of(sessions):
            self._reap()
            if time.monotonic() >= deadline:
                _signal_sessions(sessions, signal.SIGKILL)
            await asyncio.sleep(0.02 if len(remaining) < 100 else 1.0)


def _runs_wrapper(pid: int, directory: str) -> bool:
    """Tell whether a process is the wrapper of a job, and not another with its old pid."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return any(word.startswith(f"{directory}/job.wrapped.") for word in process.cmdline())
    except psutil.Error:
        return False


def _processes_of(sessions: set[int]) -> list[int]:
    """Return the living processes of some sessions."""
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getsid(pid) in sessions and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
    return found


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
