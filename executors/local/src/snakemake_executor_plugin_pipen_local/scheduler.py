"""Jobs as detached processes on this machine (see :mod:`pipen_executors.sessions`)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from xqute.schedulers.local_scheduler import LocalScheduler as XquteLocalScheduler

from pipen_executors.exceptions import SchedulerError
from pipen_executors.job import Job
from pipen_executors.scheduler import BatchScheduler
from pipen_executors.sessions import Sessions
from pipen_executors.states import Outcome, Report


class LocalScheduler(BatchScheduler, XquteLocalScheduler):
    """Runs jobs on this machine."""

    runs_here = True
    starts_at_once = True
    query_ceiling = 5.0
    loss_grace = 0.5
    kill_chunk = 100_000
    sweeps_sessions = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sessions = Sessions()

    def likeness(self, job: Job) -> Hashable:
        """Start all jobs in one go: starting a process takes less than asking who may."""
        return None

    async def submit_jobs(self, jobs: Sequence[Job]) -> Mapping[Job, str | SchedulerError]:
        """Start one detached process for each job."""
        return {
            job: self._sessions.submit(job, ["/bin/bash", "-p", self.wrapper_path(job)])
            for job in jobs
        }

    def forget(self, job: Job) -> None:
        """Drop the exit status of a job."""
        self._sessions.forget(job)

    async def query_jobs(self, jobs: Sequence[Job]) -> Mapping[Job, Report]:
        """Look which processes are there."""
        return self._sessions.query(jobs)

    async def explain_jobs(self, jobs: Sequence[Job]) -> Mapping[Job, Outcome]:
        """Say what the kernel says: a signal, or its out-of-memory killer."""
        return self._sessions.explain(jobs)

    def measured(self, job: Job) -> Mapping[str, Any] | None:
        """Return the peak of memory as the kernel kept it."""
        return self._sessions.measured(job)

    async def kill_jobs(self, jobs: Sequence[Job]) -> None:
        """End whole sessions."""
        await self._sessions.kill(jobs, self.kill_grace)
