"""What a scheduler is to the engine: xqute's contract, extended by calls for many jobs."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import re
import shlex
import sys
from collections.abc import AsyncIterator, Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from .events import DirectoryEvents
from .exceptions import SchedulerError, TransientError
from .import_xqute import xqute as xqute
from .job import Job
from .jobdir import EVENTS
from .spec import JobSpec
from .states import JobState, Outcome, Presence, Report, Tentative
from .wrapper import WrapperContext, export, render

if TYPE_CHECKING:
    from .hooks import Hooks
    from .settings import Checked

    Base = xqute.Scheduler
else:
    Base = object


_ASKED_ONCE: Final = frozenset(
    {
        "cpus_per_gpu",
        "mem_mb_per_cpu",
        "mem_mb_per_gpu",
        "nodes",
        "tasks",
        "tasks_per_gpu",
        "tasks_per_node",
    }
)


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
    """Whether what jobs write lies here as well; otherwise :meth:`fetch` brings it."""
    stages: bool = False
    """Whether direct jobs get at their files where a workflow shares none with the nodes
    (``--shared-fs-usage``): by :meth:`seen`, at submission, and by :meth:`fetch`."""
    brings_files: bool = False
    """Whether the files of every job are sent to it and brought here, so that to Snakemake's
    main process they are shared. A second Snakemake is told that it shares nothing; the
    files that the workflow is written in are among its inputs."""
    needs_storage: bool = False
    """Whether the files of a workflow have to lie in Snakemake's storage, because jobs share none
    with this machine and only find them there."""
    copies_storage: ClassVar[bool] = True
    """Whether jobs find bash and coreutils, and the directory of ``--local-storage-prefix``, so
    that a direct job can copy files of storage that is a directory to its node and back."""
    has_own_paths: ClassVar[bool] = False
    """Whether it decides itself by which paths jobs see the job directories."""
    runs_here: ClassVar[bool] = False
    """Whether jobs run on this machine, at once, so that its kernel sees what they write."""
    starts_at_once: ClassVar[bool] = False
    """Whether a job that has been submitted runs, so that its start need not be told."""
    jid_expression: ClassVar[str] = "$$"
    """Bash for the scheduler's id of the job, evaluated by the wrapper."""
    wrapper_arguments: ClassVar[tuple[str, ...]] = ()
    """Names of the variables that hold what this scheduler calls the wrapper with."""
    end_notes: ClassVar[str] = ""
    """Bash by which the wrapper notes more of the job's end: it prints ``name=value``."""
    final_exit: ClassVar[str] = 'exit "$rc"'
    """Bash that ends the wrapper."""
    kills_wrapper_only: bool = False
    """Whether a job ended by force may lose its wrapper and keep its command."""
    may_forget: ClassVar[bool] = False
    """Whether a job may still run that the scheduler does not know any more (a controller that
    was restarted): its wrapper holds a lock, by which that is told."""
    sweeps_sessions: ClassVar[bool] = False
    """Whether the scheduler itself ends what a killed job has left in its session."""
    loss_grace: ClassVar[float] = 3.0
    """Seconds between a job's disappearance and its being given up as lost."""
    leaves_queue_within: ClassVar[float] = 0.0
    """Seconds within which a job that has told its end leaves the queue; of one that is in it
    longer the user is told. 0 where jobs leave nothing behind."""
    accounting_lag: ClassVar[float] = 0.0
    """Seconds for which :meth:`explain_jobs` is worth repeating for the same job."""
    query_ceiling: ClassVar[float] = 60.0
    """Longest time in seconds between two queries, unless the user sets another."""
    largest_batch: ClassVar[int] = sys.maxsize
    """Most jobs that go to the scheduler in one call."""
    kill_chunk: ClassVar[int] = 200
    """Jobs per call of :meth:`kill_jobs`."""
    own_resources: ClassVar[frozenset[str]] = frozenset()
    """Names of resources beginning with ``pipen_`` that only this scheduler reads."""
    counted_resources: ClassVar[frozenset[str]] = frozenset()
    """Resources whose text has a count in it (``gpu:a100:2``): for a group it is added up."""

    hooks: Hooks
    kill_grace: float = 10.0
    made_in_loop: asyncio.AbstractEventLoop | None = None
    """The loop that was running when it was made, where that was one: the engine goes on with
    it."""
    room_changed: Callable[[], None]
    """Set by the engine; called in its loop, it makes the engine ask :meth:`admit` again."""
    given_by_node: frozenset[str] = frozenset()
    """Environment variables that jobs get in another way (a store of secrets): they are not in
    the wrapper."""

    def take_settings(self, checked: Checked) -> None:
        """Show plugins the settings of the run where xqute's schedulers have them."""
        self.error_strategy = checked.error_strategy
        self.num_retries = checked.num_retries
        self.prescript = checked.prescript
        self.postscript = checked.postscript
        self.subm_batch = checked.submission_batch
        self.cwd = checked.cwd
        self.timeout = round(checked.timeout)
        if checked.query_ceiling is not None:
            self.recheck_interval = round(10 * checked.query_ceiling)
        if checked.jobname_prefix is not None:
            self.jobname_prefix = checked.jobname_prefix
        self.config = type(self.config)(checked.options)

    # -- checks before anything is submitted ------------------------------------

    @classmethod
    def asked_once(cls, resource: str) -> bool:
        """Tell whether a group asks for the most of a resource that one of its members does.

        So it is where a number says how the place is made, or how the job is treated. Others
        are added up over members that run at the same time.
        """
        return resource in _ASKED_ONCE or resource.startswith("pipen_")

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

    # -- where jobs see their files ----------------------------------------------

    def seen(self, path: str, address: str = "") -> str:
        """Return the path by which a job sees a file or directory of the workflow.

        Parameters
        ----------
        path
            As the workflow has it: absolute, or relative to the working directory.
        address
            Where it lies in Snakemake's storage (``gs://…``), if it does.
        """
        return path

    def working_directory(self, spec: JobSpec) -> str:
        """Return the working directory of a job as the job sees it."""
        return self.seen(spec.base)

    def seen_root(self) -> str:
        """Return the directory of all job directories as jobs see it."""
        return str(self.workdir.mounted)

    def events_seen(self, job: Job) -> str:
        """Return the events directory as a job sees it that is being submitted."""
        return f"{self.seen_root()}/{EVENTS}"

    def cwd_seen(self, job: Job) -> str:
        """Return the working directory of a job that is being submitted, as it sees it."""
        return job.spec.cwd

    # -- calls for many jobs -----------------------------------------------------

    def admit(self, queued: Sequence[Job], limit: int) -> Sequence[Job]:
        """Choose the jobs, no more than a limit, that are submitted now; the others wait.

        Asked whenever a job has come or ended, and when :attr:`room_changed` is called.
        """
        return queued[:limit]

    def likeness(self, job: Job) -> Hashable:
        """Return what all jobs have in common that go to the scheduler in one call.

        By default each goes alone.
        """
        return job

    @staticmethod
    def likeness_of(job: Job, asked: object) -> Hashable:
        """Return the likeness of jobs of one rule that ask for the same; retries go alone."""
        return job if job.trial_count else (job.spec.rule, job.spec.cwd, repr(asked))

    def batches(self, jobs: Sequence[Job]) -> list[list[Job]]:
        """Divide jobs that are ready into what goes to the scheduler in one call each."""
        alike: dict[Hashable, list[Job]] = {}
        for job in jobs:
            alike.setdefault(self.likeness(job), []).append(job)
        size = self.largest_batch
        return [
            some[start : start + size]
            for some in alike.values()
            for start in range(0, len(some), size)
        ]

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
                # A third-party scheduler raises whatever it likes.
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
            try:
                running = await self.job_is_running(job)
            except Exception as error:  # see submit_jobs
                answers[job] = Report(Presence.UNKNOWN, repr(error))
            else:
                answers[job] = Report(Presence.RUNNING if running else Presence.GONE)
        return answers

    async def explain_jobs(
        self, jobs: Sequence[Job]
    ) -> Mapping[Job, Outcome | Tentative | TransientError | None]:
        """Say how jobs ended that left no exit status or died of a signal.

        Asked once for all of them; jobs of which nothing is known are left out. None
        says that a job has not ended, because the scheduler runs it once more; a
        :class:`TransientError`, that for this job whoever knows could not be asked.
        What is left out or tentative is asked for again for :attr:`accounting_lag`.

        Raises
        ------
        TransientError
            If accounting could not be asked.
        """
        return {}

    def judge(self, job: Job, outcome: Outcome) -> Outcome:
        """Say more of a command that failed by itself, from what it left; asks nobody."""
        return outcome

    def measured(self, job: Job) -> Mapping[str, Any] | None:
        """Return what this scheduler knows of an ended job's use beside the wrapper's notes.

        ``memory`` is the peak in bytes and ``memory_by`` says who measured it;
        ``memory_below`` is what it stayed under, where no more is known. None says that it is
        worth another call in a moment. Asks nobody, and is called within a second after the end.
        """
        return {}

    async def accounted(self, jids: Sequence[str], since: float) -> Mapping[str, Mapping[str, Any]]:
        """Return what accounting has of ended jobs, by their ids: asked for all of them at once.

        ``cpu`` in seconds; ``memory`` in bytes and ``memory_by``, as in :meth:`measured`, which
        says "sampled" of a peak that may have been missed. Jobs are left out that accounting
        does not know, or not the end of. Called for the report, outside of a run, where the
        executor says that there is any (:attr:`PipenExecutor.has_accounting`).

        Parameters
        ----------
        jids
            The jobs.
        since
            Time before which none of them was submitted, in seconds since the epoch.

        Raises
        ------
        SchedulerError
            If accounting could not be asked.
        """
        return {}

    async def kill_jobs(self, jobs: Sequence[Job]) -> None:
        """End jobs, waiting or running.

        Raises
        ------
        TransientError
            If the scheduler could not be asked.
        """
        failed = {}
        for job in jobs:
            try:
                await self.kill_job(job)
            except Exception as error:  # see submit_jobs; it may have ended by itself
                failed[job] = error
        present = await self.query_jobs(list(failed))
        for job, why in failed.items():
            if present[job].presence is not Presence.GONE and present[job].outcome is None:
                raise TransientError(f"Job {job.jid} could not be ended: {why!r}") from why

    async def claim(self, job: Job) -> bool:
        """Give up the submission of a job that an earlier run made, if it has not started.

        False says that it has. After True it will end without doing anything, see
        :meth:`JobDir.claim`, which is right wherever jobs see that very directory.
        """
        return job.directory.claim(job.token)

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

    async def fetch(self, job: Job, *, outputs: bool) -> None:
        """Bring the files of an ended job here, where they do not lie here already.

        Called for every end unless :attr:`fs_shared`, before anything is looked for.

        Parameters
        ----------
        job
            The job.
        outputs
            Whether its outputs are wanted too, because it succeeded; logs and the files
            of the job directory always are.

        Raises
        ------
        TransientError
            If it is worth trying again.
        SchedulerError
            If they will not come.
        """

    async def missing(self, addresses: Sequence[str]) -> list[str]:
        """Return which outputs in Snakemake's storage are not there (yet).

        The default leaves that to Snakemake, which ends the run where one is missing.
        """
        return []

    # -- the wrapper ---------------------------------------------------------------

    def jobcmd_shebang(self, job: Job) -> str:  # type: ignore[override]
        """Return the first line of the wrapper without ``#!``."""
        return "/bin/bash -p"

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
        pieces += [code for code in getattr(xqute.plugin.hooks, name)(self, job) if code]
        return "\n".join(pieces)

    def job_environment(self, job: Job) -> str:
        """Return the bash that gives the job its environment variables.

        Those in ``job.envs`` are from plugins, which may add some as in xqute.
        """
        variables = {**job.spec.env, **{name: str(value) for name, value in job.envs.items()}}
        lines = [
            export(name, value)
            for name, value in variables.items()
            if name not in self.given_by_node
        ]
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
            events=self.events_seen(job),
            cwd=self.cwd_seen(job),
            key=job.spec.key,
            token=job.token,
            jid=self.jid_expression,
            rerun=job.record.attempt > 1,
            init=self.jobcmd_init(job),
            prep=self.jobcmd_prep(job),
            end=self.jobcmd_end(job),
            end_notes=self.end_notes,
            arguments=self.wrapper_arguments,
            final_exit=self.final_exit,
            check_inputs=not self.runs_here,
            kill_grace=self.kill_grace,
            tell_start=not self.starts_at_once,
            guard=self.kills_wrapper_only,
            lock=self.may_forget,
            sweep=not self.sweeps_sessions,
            seen=self._seen_by(job),
            umask=_umask(),
        )
        return render(job.spec, context, self.job_environment(job))

    def _seen_by(self, job: Job) -> Callable[[str], str]:
        """Return what answers by which path a job sees a file of the workflow.

        Relative paths begin where the job is, unless the setting ``cwd`` has put it elsewhere:
        there the same names are not the workflow's files.
        """
        begin = self.working_directory(job.spec)
        own = {os.path.abspath(path) for path in (begin, job.spec.shadow_dir or begin)}
        moved = os.path.isabs(begin) and job.spec.cwd not in own

        def seen(path: str) -> str:
            found = self.seen(path, job.spec.addresses.get(path, ""))
            return os.path.join(begin, found) if moved else found

        return seen

    def wrapper_path(self, job: Job) -> str:
        """Return the path of a job's wrapper as the job sees it."""
        return f"{job.directory.mounted}/job.wrapped.{self.name}"

    def write_wrapper(self, job: Job) -> None:
        """Write the wrapper of a job into its directory."""
        job.directory.write(f"job.wrapped.{self.name}", self.wrap_job_script(job))

    async def wrapped_job_script(self, job: Job) -> Any:  # type: ignore[override]
        """Write the wrapper of a job; return its path as xqute's path type."""
        self.write_wrapper(job)
        return job.metadir / f"job.wrapped.{self.name}"


class BatchScheduler(SchedulerPostInit):
    """A scheduler of this family: xqute's calls for one job are those for many, with one.

    Like those, they belong into the engine's loop, from where hooks call them.
    """

    async def submit_job(self, job: Any) -> Any:
        """Submit one job; return its id.

        Raises
        ------
        SchedulerError
            If it is refused.
        """
        answer = (await self.submit_jobs([job]))[job]
        if isinstance(answer, SchedulerError):
            raise answer
        return answer

    async def kill_job(self, job: Any) -> None:
        """End one job, waiting or running."""
        await self.kill_jobs([job])

    async def job_is_running(self, job: Any) -> bool:
        """Tell whether a job waits in the queue or runs.

        Raises
        ------
        TransientError
            If the scheduler could not be asked.
        """
        report = (await self.query_jobs([job])).get(job)
        return report is not None and report.presence is not Presence.GONE

    async def job_fails_before_running(self, job: Any) -> bool:
        """Tell whether a job has gone that was never seen to run."""
        if not job.jid or job.state is not JobState.SUBMITTED:
            return False
        return not await self.job_is_running(job)


@functools.cache
def _umask() -> int:
    """Return the umask of this process, which jobs get wherever they run.

    Read from proc(5), status, because umask(2) tells it only by setting it, which other
    threads would notice.
    """
    with contextlib.suppress(OSError):
        found = re.search(r"^Umask:\s*([0-7]+)$", Path("/proc/self/status").read_text(), re.M)
        if found:
            return int(found[1], 8)
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
