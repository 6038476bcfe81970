"""What a scheduler is to the engine: xqute's contract, extended by calls for many jobs."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

# xqute sets uvloop's event loop policy for the whole process when it is imported.
_policy = asyncio.get_event_loop_policy()
import xqute  # noqa: E402

asyncio.set_event_loop_policy(_policy)

from xqute.plugin import plugin as xqute_plugin  # noqa: E402

from .events import DirectoryEvents  # noqa: E402
from .exceptions import SchedulerError, TransientError  # noqa: E402
from .job import Job  # noqa: E402
from .jobdir import EVENTS  # noqa: E402
from .spec import JobSpec  # noqa: E402
from .states import Outcome, Presence, Report  # noqa: E402
from .wrapper import WrapperContext, render  # noqa: E402

if TYPE_CHECKING:
    from .hooks import Hooks

    Base = xqute.Scheduler
else:
    Base = object


class SchedulerPostInit(Base):
    """Mixed into an xqute scheduler class, makes it a scheduler of the engine.

    ``class SlurmScheduler(SchedulerPostInit, xqute…SlurmScheduler)``: xqute's method
    table stays as it is, and a class that knows only that table works through the
    defaults below. A backend overrides the calls for many jobs:
    :meth:`submit_jobs`, :meth:`query_jobs`, :meth:`explain_jobs`, :meth:`kill_jobs`,
    and what the wrapper must know of it.
    """

    job_class = Job
    fs_shared = True
    """Whether jobs see the files of the workflow at the same paths."""
    runs_here: ClassVar[bool] = False
    """Whether jobs run on this machine, at once, so that its kernel sees what they write."""
    jid_expression: ClassVar[str] = "$$"
    """Bash for the scheduler's id of the job, evaluated by the wrapper."""
    final_exit: ClassVar[str] = 'exit "$rc"'
    """Bash that ends the wrapper."""
    kills_wrapper_only: ClassVar[bool] = False
    """Whether a job ended by force may lose its wrapper and keep its command."""
    sweeps_sessions: ClassVar[bool] = False
    """Whether the scheduler itself ends what a killed job has left in its session."""
    loss_grace: ClassVar[float] = 3.0
    """Seconds between a job's disappearance and its being given up as lost."""
    accounting_lag: ClassVar[float] = 0.0
    """Seconds for which :meth:`explain_jobs` is worth repeating for the same job."""
    query_ceiling: ClassVar[float] = 60.0
    """Longest time in seconds between two queries, unless the user sets another."""
    kill_chunk: ClassVar[int] = 200
    """Jobs per call of :meth:`kill_jobs`."""
    own_resources: ClassVar[frozenset[str]] = frozenset()
    """Names of resources beginning with ``pipen_`` that only this scheduler reads."""

    hooks: Hooks
    kill_grace: float = 10.0

    # -- checks before anything is submitted ------------------------------------

    def check(self, spec: JobSpec) -> None:
        """Check what a job asks for.

        Raises
        ------
        SettingError
            If it can never be right on this scheduler.
        """

    async def start(self) -> None:
        """Get ready: called once, in the engine's loop, before the first job.

        Raises
        ------
        SchedulerError
            If the scheduler cannot be used at all.
        """
        if not self._post_init_called:
            await self.post_init()  # type: ignore[no-untyped-call]
            self._post_init_called = True

    async def stop(self) -> None:
        """Let go of connections; called once, in the engine's loop, at the end."""

    # -- calls for many jobs -----------------------------------------------------

    def batches(self, jobs: Sequence[Job]) -> list[list[Job]]:
        """Divide jobs that are ready into what goes to the scheduler in one call each."""
        return [[job] for job in jobs]

    async def submit_jobs(self, jobs: Sequence[Job]) -> Mapping[Job, str | SchedulerError]:
        """Submit one batch; return for each job its id, or why it was refused.

        A job that is refused with a :class:`TransientError` is submitted later.

        Raises
        ------
        TransientError
            If none of them was submitted and it is worth trying again.
        """
        answers: dict[Job, str | SchedulerError] = {}
        for job in jobs:
            try:
                answers[job] = str(await self.submit_job(job))
            except Exception as error:
                # A scheduler of another house raises whatever it likes.
                answers[job] = SchedulerError(str(error) or repr(error))
        return answers

    async def query_jobs(self, jobs: Sequence[Job]) -> Mapping[Job, Report]:
        """Ask for all jobs at once; a job left out of the answer is taken as unknown.

        Raises
        ------
        TransientError
            If the scheduler could not be asked; that says nothing about any job.
        """
        answers = {}
        for job in jobs:
            running = await self.job_is_running(job)
            answers[job] = Report(Presence.RUNNING if running else Presence.GONE)
        return answers

    async def explain_jobs(
        self, jobs: Sequence[Job]
    ) -> Mapping[Job, Outcome | TransientError | None]:
        """Say how jobs ended that left no exit status or died of a signal.

        Asked once for all of them; jobs of which nothing is known are left out. None
        says that a job has not ended, because the scheduler runs it once more; a
        :class:`TransientError`, that for this job whoever knows could not be asked.

        Raises
        ------
        TransientError
            If accounting could not be asked.
        """
        return {}

    def judge(self, job: Job, outcome: Outcome) -> Outcome:
        """Say more of a command that failed by itself, from what it left; asks nobody."""
        return outcome

    async def kill_jobs(self, jobs: Sequence[Job]) -> None:
        """End jobs, waiting or running.

        Raises
        ------
        TransientError
            If the scheduler could not be asked.
        """
        for job in jobs:
            await self.kill_job(job)

    # -- completion --------------------------------------------------------------

    def events_directory(self) -> str:
        """Return the directory into which the wrappers of this scheduler put events."""
        return f"{self.workdir}/{EVENTS}"

    @contextlib.asynccontextmanager
    async def events(self) -> AsyncIterator[AsyncIterator[Sequence[str]]]:
        """Yield the names of events as they appear; each is seen at least once.

        The default lists the events directory. A scheduler with another way to hear
        of a job (an open connection, a bucket) overrides it.
        """
        async with DirectoryEvents(self.events_directory(), local=self.runs_here) as source:
            yield source.names()

    def take_in_events(self, names: Sequence[str]) -> None:
        """Remove events that have been dealt with."""
        DirectoryEvents.remove(self.events_directory(), names)

    def forget(self, job: Job) -> None:
        """Remove what only this scheduler needed of a job that has ended."""

    async def fetch(self, job: Job) -> None:
        """Bring the files of an ended job here, where they do not lie here already."""

    # -- the wrapper ---------------------------------------------------------------

    def jobcmd_shebang(self, job: Job) -> str:  # type: ignore[override]
        """Return the first line of the wrapper without ``#!``."""
        return "/bin/bash"

    def jobcmd_init(self, job: Job) -> str:
        """Return the bash that hooks put before the prescript."""
        return self._from_hooks("on_jobcmd_init", job)

    def jobcmd_prep(self, job: Job) -> str:
        """Return the bash that hooks put before the command; ``$cmd`` may be changed."""
        return self._from_hooks("on_jobcmd_prep", job)

    def jobcmd_end(self, job: Job) -> str:
        """Return the bash that hooks put after the command; ``$rc`` is its status."""
        return self._from_hooks("on_jobcmd_end", job)

    def _from_hooks(self, name: str, job: Job) -> str:
        pieces = self.hooks.code(name, self, job)
        pieces += [code for code in getattr(xqute_plugin.hooks, name)(self, job) if code]
        return "\n".join(pieces)

    def job_environment(self, job: Job) -> str:
        """Return the bash that gives the job its environment variables."""
        lines = []
        for name, value in job.spec.env.items():
            if value is None:
                lines.append(f"unset -v {shlex.quote(name)}")
            else:
                lines.append(f"export {name}={shlex.quote(value)}")
        lines += [
            f"export XQUTE_JOB_INDEX={job.index}",
            f"export XQUTE_METADIR={shlex.quote(job.directory.mounted.rpartition('/')[0])}",
            f"export XQUTE_JOB_METADIR={shlex.quote(job.directory.mounted)}",
        ]
        return "\n".join(lines)

    def wrap_job_script(self, job: Job) -> str:  # type: ignore[override]
        """Return the text of the wrapper for the current submission of a job."""
        assert job.record is not None
        context = WrapperContext(
            shebang=self.jobcmd_shebang(job),
            directory=job.directory.mounted,
            events=self.events_directory(),
            key=job.spec.key,
            token=job.token,
            jid=self.jid_expression,
            rerun=job.record.attempt > 1,
            init=self.jobcmd_init(job),
            prep=self.jobcmd_prep(job),
            end=self.jobcmd_end(job),
            final_exit=self.final_exit,
            check_inputs=not self.runs_here,
            kill_grace=self.kill_grace,
            tell_start=not self.runs_here,
            guard=self.kills_wrapper_only,
            sweep=not self.sweeps_sessions,
        )
        return render(job.spec, context, self.job_environment(job))

    def write_wrapper(self, job: Job) -> str:
        """Write the wrapper of a job; return its path as the job sees it."""
        name = f"job.wrapped.{self.name}"
        job.directory.write(name, self.wrap_job_script(job))
        return f"{job.directory.mounted}/{name}"

    async def wrapped_job_script(self, job: Job) -> Any:  # type: ignore[override]
        """Write the wrapper of a job; return its path as xqute's path type."""
        self.write_wrapper(job)
        return job.metadir / f"job.wrapped.{self.name}"
