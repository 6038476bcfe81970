"""The scheduler API of pipen and xqute, on the engine: the six classes of pipen's reference.

``class SlurmScheduler(PipenScheduler, xqute…SlurmScheduler)`` has xqute's constructor, attributes
and methods, and is given to ``Xqute(scheduler=…)`` or ``Pipen(scheduler=…)``. What it does is done
by the scheduler of the executor with the same name, driven by an :class:`Engine` that is started
with the first job and stopped when none is left: jobs that are submitted in the same moment go to
the scheduler in one call, it is asked about all of them at once, and their ends are heard of.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import inspect
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar, cast

import rich.markup
from panpath import CloudPath

from .api_job import ApiJob, JobStatus, MetaDir, XquteJob, pipen_job_class
from .client import Limits
from .exceptions import UserError
from .import_xqute import xqute
from .jobdir import new_record, prepare_root
from .patience import persist
from .spec import JobSpec, Resources
from .states import ExitReason, Presence

if TYPE_CHECKING:
    from .engine import Engine
    from .job import Job
    from .scheduler import SchedulerPostInit
    from .settings import Checked

    Base = xqute.Scheduler
else:
    Base = object

T = TypeVar("T")
_TOGETHER: Final = 0.03
"""Seconds without a further job after which those that came go to the scheduler."""
_TOGETHER_AT_MOST: Final = 0.5
_ROOM: Final = 1.0
"""Seconds for which a place among ``forks`` is waited for; ``Xqute`` itself would sleep so long."""
_END: Final = 5.0
"""Seconds for which ``check_all_done`` waits for the end of all jobs, from its second call on."""
_ASKING: Final = 60.0
"""Seconds for which a question is repeated while a scheduler does not answer."""
_CLOUD: Final = "expected a directory that this machine and the jobs see"
_logger = logging.getLogger("XQUTE")


@functools.cache
def _shared_options() -> frozenset[str]:
    """Return the names of the options that xqute's base class keeps itself."""
    named = inspect.signature(xqute.Scheduler.__init__).parameters
    return frozenset(named) - {"self", "kwargs"}


def _refuse(answer: asyncio.Future[str], why: str) -> None:
    """Answer that a job was not submitted, to whom may have stopped waiting (Ctrl-C)."""
    answer.set_exception(RuntimeError(why))
    answer.exception()


class _Client:
    """Takes what the engine tells, in its thread, to the event loop of the caller."""

    def __init__(self, scheduler: PipenScheduler, loop: asyncio.AbstractEventLoop) -> None:
        self._scheduler = scheduler
        self._loop = loop

    def _tell(self, what: Callable[..., None], *about: Any) -> None:
        with contextlib.suppress(RuntimeError):  # nobody listens any more
            self._loop.call_soon_threadsafe(what, *about)

    def on_submitted(self, job: Job) -> None:
        self._tell(self._scheduler._taken, job)

    def on_ended(self, jobs: Sequence[Job]) -> None:
        self._tell(self._scheduler._ended, list(jobs))

    def on_halt(self, job: Job) -> None:
        """Nothing: xqute's error strategies are applied where its statuses change."""

    def on_cancelled(self) -> None:
        """Nothing: the ends of the jobs are told one by one."""

    def on_broken(self, error: BaseException) -> None:
        self._tell(self._scheduler._break, error)

    def on_message(self, text: str, *, warning: bool = False) -> None:
        self._scheduler._say(text, warning=warning)

    def prepare(self, job: Job) -> None:
        """Leave a job alone that was to be taken up and does not go on: xqute submits it."""
        raise UserError("it is submitted by xqute")


class PipenScheduler(Base):
    """Mixed in before a scheduler class of xqute, makes it one that runs jobs on an engine.

    Parameters
    ----------
    *args, **kwargs
        Those of xqute's class: ``workdir``, ``forks``, ``error_strategy``, ``num_retries``,
        ``prescript``, ``postscript``, ``jobname_prefix``, ``submission_batch``,
        ``recheck_interval``, ``cwd``, ``timeout``, and the options of the scheduler. Further ones
        are the settings of the executor with the same name, as in ``scheduler_opts`` of a profile.
    """

    backend: ClassVar[str]
    """Name of the executor that does the work."""
    job_class = XquteJob
    submission_batch = 200
    """Jobs that wait at a time for their submission; they go to the scheduler together."""
    fs_shared: ClassVar[bool] = True
    """Read by pipen: jobs see its directories at the same paths."""
    numbers_jobs: ClassVar[bool] = False
    """Whether ids of jobs are process ids, which xqute has as numbers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._make_xqutes(*args, **kwargs)
        self._options = {
            name: value
            for name, value in kwargs.items()
            if name not in _shared_options() and value is not None
        }
        self._wide = kwargs.get("submission_batch") is None
        self._proc: Any = None
        self._driven: SchedulerPostInit | None = None
        self._checked: Any = None
        self._engine: Engine | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting = asyncio.Lock()
        self._batch: list[ApiJob] = []
        self._sending: asyncio.Task[None] | None = None
        self._under_way: set[ApiJob] = set()
        self._listeners: set[asyncio.Future[None]] = set()
        self._broken: BaseException | None = None
        self._retrying: set[asyncio.Task[None]] = set()
        self._checking = False
        self._polls = 0
        self._only_news = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Show the parameters of xqute's constructor, which are taken."""
        super().__init_subclass__(**kwargs)
        theirs = [base for base in cls.__mro__ if base.__module__.startswith("xqute.")]
        if theirs:
            cls.__signature__ = inspect.signature(theirs[0])  # type: ignore[attr-defined]

    def _make_xqutes(self, *args: Any, **kwargs: Any) -> None:
        """Call the constructor of xqute's class."""
        super().__init__(*args, **kwargs)

    # -- what drives and what is driven ------------------------------------------------------

    @property
    def driven(self) -> SchedulerPostInit:
        """The scheduler of the executor, with this one's options; made when it is first needed.

        Raises
        ------
        UserError
            If an option cannot be right.
        """
        if self._driven is None:
            self._driven = self._make_driven()
        return self._driven

    def _make_driven(self) -> SchedulerPostInit:
        from .hooks import Hooks
        from .standalone import NoRun, plugin_of

        self._read_options()
        executor = plugin_of(self.backend).Executor
        root = Path(self._root())
        made: SchedulerPostInit = executor.make_scheduler(NoRun(self._say), root, self._checked)
        made.hooks = Hooks((), functools.partial(self._say, warning=True), tells_xqute=False)
        made.jobname_prefix = self.jobname_prefix  # where a setting does not say it
        driven: Any = made
        # What subclasses override, and xqute's plugins, have their say in the wrapper.
        driven._from_hooks = self._code_of_plugins
        for name in ("jobcmd_init", "jobcmd_prep", "jobcmd_end"):
            setattr(driven, name, getattr(self, name))
        driven.jobcmd_shebang = self._first_lines
        if self._overrides("wrap_job_script"):
            driven.wrap_job_script = self.wrap_job_script
        if self._overrides("wrapped_job_script"):
            driven.write_wrapper = self._write_in_callers_loop
        return made

    def _read_options(self) -> Checked:
        """Read the options as a run of the executor reads those of a profile.

        Raises
        ------
        UserError
            If one cannot be right, or is none of this scheduler's.
        """
        from .profiles import Profile, Value
        from .standalone import checked_options

        options = {name: Value(value, "scheduler_opts") for name, value in self._given().items()}
        options["jobname_prefix"] = Value(str(self.jobname_prefix), "the constructor")
        checked = checked_options(self.backend, Profile("", options=options))
        self._checked = checked
        return checked

    def _given(self) -> dict[str, Any]:
        """Return the options as the executor has them in ``scheduler_opts``."""
        return dict(self._options)

    def _overrides(self, name: str) -> bool:
        """Tell whether a subclass has a method of its own."""
        return getattr(type(self), name) is not getattr(PipenScheduler, name)

    def _root(self) -> str:
        """Return the directory of the job directories.

        Raises
        ------
        UserError
            If it is none of this machine.
        """
        if isinstance(self.workdir, CloudPath):
            raise UserError(f"workdir of scheduler {self.name} is {self.workdir}: {_CLOUD}.")
        return os.path.abspath(str(self.workdir))

    def _mounted(self, path: Any) -> str:
        """Return the path by which jobs see a directory below the working directory."""
        return os.path.abspath(str(path.mounted))

    def _say(self, text: str, *, warning: bool = False) -> None:
        """Tell the user of pipen or, where there is no process of pipen, of xqute something."""
        level = logging.WARNING if warning else logging.INFO
        if self._proc is not None:  # which shows nothing of xqute's logger
            self._proc.log(level, "%s", rich.markup.escape(text))
        else:
            _logger.log(level, "/Sched-%s %s", self.name, text)

    async def _started(self) -> Engine:
        """Return the engine, started if it is not.

        Raises
        ------
        SchedulerError, UserError, OSError
            If the scheduler cannot be used.
        """
        from .engine import Engine

        async with self._starting:
            if self._engine is not None:
                return self._engine
            self._broken = None
            driven, root = self.driven, self._root()
            prepare_root(Path(root))
            driven.workdir = xqute.path.SpecPath(root, mounted=self._mounted(self.workdir))
            every = xqute.defaults.SLEEP_INTERVAL_POLLING_JOBS * self.recheck_interval
            usual = self.recheck_interval == xqute.defaults.DEFAULT_RECHECK_INTERVAL
            limits = Limits(
                submitters=Limits().submitters if self._wide else self.subm_batch,
                query_ceiling=driven.query_ceiling if usual else max(1.0, every),
            )
            self._loop = asyncio.get_running_loop()
            client = _Client(self, self._loop)
            engine = Engine(driven, root, limits, driven.hooks, client, f"xqute-{os.getpid()}")
            try:
                await asyncio.to_thread(engine.start)
            except BaseException:
                self._driven = None
                raise
            atexit.register(engine.stop)
            self._engine = engine
            return engine

    async def _rest(self) -> None:
        """Stop the engine when it has nothing to do."""
        if any(job.goes_on for job in self._under_way) or self._engine is None:
            return
        engine, self._engine, self._driven = self._engine, None, None
        await asyncio.to_thread(engine.stop)
        atexit.unregister(engine.stop)

    async def _ask(self, work: Callable[[SchedulerPostInit], Coroutine[Any, Any, T]]) -> T:
        """Ask the scheduler something, in the loop that it belongs to."""
        engine = await self._started()
        return await asyncio.wrap_future(engine.call(work(engine.scheduler)))

    # -- what the engine tells, in the caller's loop --------------------------------------------

    def _taken(self, job: ApiJob) -> None:
        if job.answer is not None and not job.answer.done():
            job.answer.set_result(job.jid)
        self._wake()

    def _ended(self, jobs: Sequence[ApiJob]) -> None:
        for job in jobs:
            if not job.followed:
                continue  # killed, and taken in already
            assert job.outcome is not None
            if job.answer is not None and not job.answer.done():
                why = job.outcome.detail or job.outcome.describe()
                _refuse(job.answer, why)
                self._let_go(job)
            else:
                job.has_ended = True
        self._wake()

    def _break(self, error: BaseException) -> None:
        self._broken = error
        for job in self._under_way:
            if job.answer is not None and not job.answer.done():
                _refuse(job.answer, repr(error))
        self._wake()

    def _wake(self) -> None:
        for listener in self._listeners:
            if not listener.done():
                listener.set_result(None)

    async def _news(self, seconds: float) -> None:
        """Wait for anything that the engine tells."""
        listener = asyncio.get_running_loop().create_future()
        self._listeners.add(listener)
        try:
            await asyncio.wait({listener}, timeout=seconds)
        finally:
            self._listeners.discard(listener)

    def _let_go(self, job: ApiJob) -> None:
        """Forget a job whose end has been taken in."""
        job.followed = False
        job.answer = None
        self._under_way.discard(job)
        with contextlib.suppress(OSError):
            job.directory.settle()

    # -- jobs ------------------------------------------------------------------------------------

    async def init_proc(self, proc: Any) -> None:
        """Make ready for a process of pipen (``pipen.scheduler.SchedulerPostInit.init_proc``).

        Parameters
        ----------
        proc
            The process; its ``workdir`` is set.
        """
        self.job_class = pipen_job_class()
        self._proc = proc
        await self.post_init()  # type: ignore[no-untyped-call]
        self._post_init_called = True
        proc.workdir = self.workdir = self.workdir / proc.name

    async def create_job(
        self, index: int, cmd: Any, envs: dict[str, Any] | None = None
    ) -> xqute.job.Job:
        """Create a job, and its directory.

        Parameters
        ----------
        index
            Number of the job.
        cmd
            The command: a list of words, or a text that is split as by a shell.
        envs
            Environment variables of the job.

        Returns
        -------
        xqute.job.Job
            The job.

        Raises
        ------
        UserError
            If an option of the scheduler is none, or cannot be right.
        """
        if not self._post_init_called:
            await self.post_init()  # type: ignore[no-untyped-call]
            self._post_init_called = True
        if self._checked is None:
            for doubt in self._read_options().doubts:
                self._say(doubt, warning=True)
        # xqute's job adds to the variables, which may be the same table for all jobs.
        job: xqute.job.Job = await super().create_job(index, cmd, dict(envs or {}))
        return job

    def _own(self, job: Any) -> ApiJob:
        """Return a job of :meth:`create_job`.

        Raises
        ------
        TypeError
            If it was made otherwise.
        """
        if not isinstance(job, ApiJob):
            raise TypeError(f"{job!r} is no job of create_job() of this scheduler")
        return job

    def _engage(self, job: ApiJob) -> None:
        """Give a job what the engine runs: its command, and the directory of its files."""
        spec = self._spec(job)
        path = f"{self._root()}/{job.metadir.name}"
        job.engage(spec, MetaDir(path, self._mounted(job.metadir), spec.key))
        job.fingerprint = spec.fingerprint()

    def _described(self, job: Any) -> Job:
        """Return a job with what the engine runs, as it is or will be submitted."""
        own = self._own(job)
        if not hasattr(own, "spec"):
            self._engage(own)
        return cast("Job", own)

    def _spec(self, job: ApiJob) -> JobSpec:
        self.driven  # noqa: B018  - reads the options
        checked, here = self._checked, self.cwd or self._usual_cwd()
        return JobSpec(
            rule=str(self.jobname_prefix),
            wildcards={"job": str(job.index)},
            products=(),
            jobid=str(job.index),
            argv=job.cmd,
            script="",
            script_file="",
            cwd=here,
            base=os.getcwd(),
            env={**checked.envs, **{name: str(value) for name, value in job.envs.items()}},
            work=job.texts(),
            resources=Resources(),
            options=checked.options,
            prescript=self.prescript or "",
            postscript=self.postscript or "",
            timeout=float(self.timeout or 0),
            error_strategy="ignore",  # xqute's strategies are applied to its statuses
        )

    def _usual_cwd(self) -> str:
        """Return the working directory of jobs where none is given."""
        return os.getcwd()

    async def submit_job(self, job: Any) -> Any:
        """Submit a job, together with those that are submitted in the same moment.

        Parameters
        ----------
        job
            The job.

        Returns
        -------
        str | int
            Its id in the scheduler: of Slurm or Grid Engine; ``PID@SERVER`` over ssh; the name of a
            container; a process id on this machine.

        Raises
        ------
        RuntimeError
            If it is refused, in the scheduler's own words.
        """
        own = self._own(job)
        if own.followed:
            raise RuntimeError(f"job {own.index} has been submitted already")
        self._engage(own)
        self.driven.check(own.spec)
        jid = await self._send(own)
        return int(jid) if self.numbers_jobs and jid.isdecimal() else jid

    async def _send(self, job: ApiJob) -> str:
        job.followed, job.has_ended = True, False
        job.answer = asyncio.get_running_loop().create_future()
        self._under_way.add(job)
        self._batch.append(job)
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send_together())
        return await asyncio.shield(job.answer)

    async def _send_together(self) -> None:
        """Hand over the jobs of this moment, when no more of them come."""
        loop = asyncio.get_running_loop()
        end, count = loop.time() + _TOGETHER_AT_MOST, 0
        while len(self._batch) != count and loop.time() < end:
            count = len(self._batch)
            await asyncio.sleep(_TOGETHER)
        try:
            engine = await self._started()
        except Exception as error:
            batch, self._batch = self._batch, []
            for job in batch:
                assert job.answer is not None
                _refuse(job.answer, str(error) or repr(error))
                self._let_go(job)
            return
        batch, self._batch = self._batch, []
        if batch:
            engine.submit(cast("list[Job]", batch))

    async def submit_job_and_update_status(self, job: Any) -> None:
        """Submit a job unless it is under way, and set its status.

        A submission of an earlier run that still waits or runs, or has ended well since, is taken
        up. A job that is refused has failed: exit status -2, and the reason in its ``job.stderr``.

        Parameters
        ----------
        job
            The job.
        """
        await super().submit_job_and_update_status(job)

    async def job_is_submitted_or_running(self, job: Any) -> bool:
        """Tell whether a job is under way; one of an earlier run that is, is taken up.

        Parameters
        ----------
        job
            The job.
        """
        own = self._own(job)
        if own.followed:
            return True
        record = MetaDir(str(job.metadir), "", "").record()
        if record is not None:
            self._engage(own)
            own.record = record
            own.is_left_over = True
            try:
                await self._send(own)
            except RuntimeError:
                own._jid = None
                return False
            finally:
                own.is_left_over = False
            await own.set_status(JobStatus.SUBMITTED, flush=False)
            return True
        if await job.jid_file.a_is_file() and await self.job_is_running(job):
            await own.set_status(JobStatus.SUBMITTED, flush=False)
            return True
        return False

    async def transition_job_status(
        self,
        job: Any,
        new_status: int,
        old_status: int | None = None,
        flush: bool = True,
        rc: str | None = None,
        error_msg: str | None = None,
        is_killed: bool = False,
    ) -> None:
        """Set the status of a job, call the hooks, and see to its files.

        The status of a job that runs is written by its wrapper alone. Of a job that has not told
        its end, ``job.rc`` gets -3, and ``job.stderr`` the reason.

        Parameters
        ----------
        job
            The job.
        new_status, old_status
            Statuses of ``xqute.JobStatus``.
        flush
            Whether ``job.status`` is written.
        rc, error_msg
            What is written into ``job.rc`` and ``job.stderr`` of a job that has failed.
        is_killed
            Whether it was killed.
        """
        own = self._own(job)
        outcome = own.outcome if own.followed and own.has_ended else None
        if new_status == JobStatus.SUBMITTED and own.followed:
            flush = False
        if new_status == JobStatus.FAILED and outcome is not None and error_msg is None:
            if outcome.reason is not ExitReason.NONZERO_EXIT:
                error_msg = f"pipen-executors: {outcome.describe()}"
            if own.directory.rc() is None:
                rc = rc or "-3"
            flush = True  # a wrapper that was killed has left another status
        final = new_status in (JobStatus.FINISHED, JobStatus.FAILED)
        if final and own.followed:
            self._let_go(own)
        await super().transition_job_status(
            job, new_status, old_status, flush, rc, error_msg, is_killed
        )

    async def retry_job(self, job: Any) -> None:
        """Submit a job that has failed once more; what it wrote goes to ``job.retry/<n>/``.

        Parameters
        ----------
        job
            The job.
        """
        if not self._checking:
            await super().retry_job(job)
            return
        # Others are retried at the same time; until this one is submitted it has not failed again.
        await job.set_status(JobStatus.QUEUED, flush=False)
        task = asyncio.create_task(super().retry_job(job))
        self._retrying.add(task)
        task.add_done_callback(self._retrying.discard)

    async def count_running_jobs(self, jobs: Sequence[Any]) -> int:
        """Count the jobs that wait for their submission or its end.

        Where they are as many as ``forks`` it waits a second at most for one of them to end, so
        that ``Xqute`` submits the next one at once.

        Parameters
        ----------
        jobs
            The jobs.
        """
        active = self._active(jobs)
        if active >= (self.forks or 1) and self._under_way:
            await self._news(_ROOM)
            active = self._active(jobs)
        return active

    def _active(self, jobs: Sequence[Any]) -> int:
        states = (JobStatus.QUEUED, JobStatus.SUBMITTED, JobStatus.RUNNING, JobStatus.KILLING)
        return sum(job._status in states and not job.has_ended for job in jobs)

    async def check_all_done(self, jobs: Sequence[Any], polling_counter: int) -> bool:
        """Take in what has become of jobs, with hooks and retries; tell whether all are done.

        The scheduler is not asked: its engine has asked it, for all jobs at once. From the second
        call on (``polling_counter`` is not 0) it waits up to five seconds for the end of all.

        Parameters
        ----------
        jobs
            The jobs.
        polling_counter
            Number of the call, from 0. The hook ``on_job_polling`` gets a number of its own: it is
            called as often as by xqute, once a second.

        Raises
        ------
        RuntimeError
            If the engine has broken down.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + (_END if polling_counter else 0)
        every = xqute.defaults.SLEEP_INTERVAL_POLLING_JOBS
        self._polls = self._polls + 1 if polling_counter else 0
        next_poll = loop.time() + every
        self._checking, self._only_news = True, False
        try:
            while True:
                if self._broken is not None:
                    raise RuntimeError(f"scheduler {self.name}: {self._broken!r}")
                if await super().check_all_done(list(jobs), self._polls):
                    await self._rest()
                    return True
                now = loop.time()
                if now >= end or not any(job.followed for job in jobs):
                    return False
                self._only_news = now < next_poll
                if not self._only_news:
                    self._polls, next_poll = self._polls + 1, now + every
                elif all(job.news == job._status for job in jobs):
                    await self._news(min(end, next_poll) - now)
                await asyncio.sleep(_TOGETHER)
        finally:
            self._checking = self._only_news = False

    async def _check_job_done(self, job: Any, polling_counter: int) -> bool | str:
        if self._only_news and job.followed and job.news == job._status:
            return False
        done: bool | str = await super()._check_job_done(job, polling_counter)
        return done

    # -- one job ---------------------------------------------------------------------------------

    async def _look_up(self, job: Any) -> ApiJob | None:
        """Return a job that the engine does not have, ready to be asked about; None without id."""
        own = self._own(job)
        jid = (await job.jid_file.a_read_text()).strip() if await job.jid_file.a_is_file() else ""
        if not self._is_id(jid):
            return None
        self._engage(own)
        own.record = own.directory.record()
        own._jid = jid
        return own

    async def job_is_running(self, job: Any) -> bool:
        """Tell whether a job waits in the queue or runs; a scheduler that is away is asked again.

        Parameters
        ----------
        job
            The job.

        Raises
        ------
        TransientError
            If it does not answer for a minute, which says nothing about the job.
        """
        if self._own(job).followed:
            return bool(job.goes_on)
        known = await self._look_up(job)
        if known is None or known.directory.rc() is not None:
            return False  # it has told its end, whatever the scheduler still does with it
        return (await self._presence(known)) is not Presence.GONE

    async def _presence(self, job: ApiJob) -> Presence:
        jobs = cast("list[Job]", [job])
        reports = await self._ask(
            lambda driven: persist(
                driven.query_jobs, jobs, _ASKING, warn=functools.partial(self._say, warning=True)
            )
        )
        report = reports.get(jobs[0])
        return Presence.GONE if report is None else report.presence

    async def job_fails_before_running(self, job: Any) -> bool:
        """Tell whether a job has gone before it began; of a job under way its engine sees to that.

        Parameters
        ----------
        job
            The job.
        """
        if self._own(job).followed or not self._is_id(str(await job.get_jid() or "")):
            return False
        if await self.job_is_running(job):
            return False
        # Looked at last: it may have begun, and ended, since it was asked about.
        directory = MetaDir(str(job.metadir), "", "")
        status = directory.read("job.status").strip()
        has_begun = status.isdecimal() and int(status) >= JobStatus.RUNNING
        return directory.rc() is None and not has_begun

    def _is_id(self, jid: str) -> bool:
        """Tell whether a text may be the id of a job."""
        return bool(jid) and (not self.numbers_jobs or (jid.isdecimal() and int(jid) > 0))

    async def kill_job(self, job: Any) -> None:
        """End a job, waiting or running, and wait until the scheduler agrees that it is gone.

        Parameters
        ----------
        job
            The job.
        """
        await self._kill([self._own(job)])

    async def kill_job_and_update_status(self, job: Any) -> None:
        """End a job and set its status, unless a plugin spares it.

        Parameters
        ----------
        job
            The job.
        """
        await super().kill_job_and_update_status(job)

    async def kill_running_jobs(self, jobs: Sequence[Any]) -> None:
        """End all jobs that are under way, in few calls, and set their statuses.

        Parameters
        ----------
        jobs
            The jobs.
        """
        active = (JobStatus.SUBMITTED, JobStatus.RUNNING)
        chosen = [job for job in jobs if job.followed or job._status in active]
        if self._overrides("kill_job") or self._overrides("kill_job_and_update_status"):
            for job in chosen:
                await self.kill_job_and_update_status(job)
        else:
            self._say(f"Killing {len(chosen)} jobs ...", warning=True)
            await self._kill([job for job in chosen if await self._may_kill(job)])
            for job in chosen:
                if job._status == JobStatus.KILLING:
                    await self.transition_job_status(job, JobStatus.FINISHED, is_killed=True)
        await self._rest()

    async def _may_kill(self, job: Any) -> bool:
        before = job._status
        await job.set_status(JobStatus.KILLING, flush=False)
        if await xqute.plugin.hooks.on_job_killing(self, job) is not False:
            return True
        await job.set_status(before, flush=False)
        return False

    async def _kill(self, jobs: Sequence[ApiJob]) -> None:
        for job in [job for job in jobs if job in self._batch]:  # not handed over yet
            self._batch.remove(job)
            self._let_go(job)
        followed = [job for job in jobs if job.goes_on]
        others = [await self._look_up(job) for job in jobs if not job.followed]
        waiting: list[Awaitable[None]] = []
        if followed and self._engine is not None:
            waiting.append(
                asyncio.wrap_future(self._engine.cancel_some(cast("list[Job]", followed)))
            )
        if known := cast("list[Job]", [job for job in others if job is not None]):
            warn = functools.partial(self._say, warning=True)
            waiting.append(
                self._ask(lambda driven: persist(driven.kill_jobs, known, _ASKING, warn=warn))
            )
        await asyncio.gather(*waiting)

    # -- the wrapper -----------------------------------------------------------------------------

    def _first_lines(self, job: Any) -> str:
        """Return the first lines of the wrapper: no option of theirs can add a line of bash."""
        first, *options = self.jobcmd_shebang(job).splitlines()
        return "\n".join([first, *(line for line in options if line.startswith("#"))])

    def _code_of_plugins(self, name: str, job: Any) -> str:
        pieces = self.driven.hooks.code(name, self.driven, job)
        pieces += [code for code in getattr(xqute.plugin.hooks, name)(self, job) if code]
        return "\n".join(pieces)

    def jobcmd_init(self, job: Any) -> str:
        """Return the bash of plugins, and of the scheduler, before the prescript.

        Parameters
        ----------
        job
            The job.
        """
        return type(self.driven).jobcmd_init(self.driven, self._described(job))

    def jobcmd_prep(self, job: Any) -> str:
        """Return the bash of plugins before the command; ``$cmd`` may be changed.

        Parameters
        ----------
        job
            The job.
        """
        return type(self.driven).jobcmd_prep(self.driven, self._described(job))

    def jobcmd_end(self, job: Any) -> str:
        """Return the bash of plugins after the command; ``$rc`` is its status.

        Parameters
        ----------
        job
            The job.
        """
        return type(self.driven).jobcmd_end(self.driven, self._described(job))

    def wrap_job_script(self, job: Any) -> str:
        """Return the wrapper of a job, a bash script.

        Parameters
        ----------
        job
            The job.
        """
        own = self._own(job)
        if not own.followed:
            self._engage(own)
            own.record = new_record(own.spec, job.trial_count + 1, own.fingerprint)
        driven = self.driven
        return type(driven).wrap_job_script(driven, cast("Job", own))

    async def wrapped_job_script(self, job: Any) -> Any:
        """Write the wrapper of a job, unless it is under way with one; return its path.

        bash reads a script while it runs, so that of a job under way stays as it is.

        Parameters
        ----------
        job
            The job.
        """
        path = job.metadir / f"job.wrapped.{self.name}"
        if not (self._own(job).followed and path.exists()):
            prepare_root(Path(self._root()))  # where it tells its end
            text = self.wrap_job_script(job)
            with contextlib.suppress(FileNotFoundError):  # never written over in place
                os.unlink(path)
            job.directory.write(path.name, text)
        return path

    def _write_in_callers_loop(self, job: Job) -> None:
        """Write a wrapper as a subclass does; called in the engine's thread."""
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(self.wrapped_job_script(job), self._loop).result(_ASKING)
