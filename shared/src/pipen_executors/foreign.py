"""Third-party scheduler classes, as pipen's documentation has them, on this engine.

Such a class subclasses xqute's ``Scheduler`` and knows ``submit_job``, ``kill_job`` and
``job_is_running``; it may override any other method of xqute's ``Scheduler`` that concerns one
job, and have a ``post_init()`` and pipen's ``init_proc(proc)`` (from
``pipen.scheduler.SchedulerPostInit``).

The class that is made of it has two of this module around it: :class:`Foreign` before it in the
method resolution order, with the calls of the engine, and :class:`Base` between it and xqute's
``Scheduler``, so that ``super().wrap_job_script(job)`` of the class is this project's wrapper.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import threading
import types
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

from .exceptions import SchedulerError, UserError
from .job import Job
from .loops import new_loop
from .registry import FAMILY
from .scheduler import SchedulerPostInit, xqute
from .settings import closest
from .states import ExitReason, JobState, Outcome, Presence, Report

if TYPE_CHECKING:
    from .settings import Checked

_MISSING: Final = object()


@dataclass
class Pipeline:
    """What ``init_proc`` reads of ``proc.pipeline``: the workflow."""

    name: str
    outdir: Path
    workdir: Path
    config: Mapping[str, Any]


@dataclass
class Proc:
    """What ``init_proc(proc)`` reads of a pipen process, and may change.

    All jobs of the scheduler in this run are one process to it. ``workdir`` is set by
    pipen's ``init_proc`` to the directory of the job directories.
    """

    name: str
    pipeline: Pipeline
    workdir: Any
    scheduler: type[xqute.Scheduler]
    scheduler_opts: Mapping[str, Any]
    forks: int | None
    error_strategy: str
    num_retries: int
    submission_batch: int
    envs: dict[str, str] = field(default_factory=dict)
    export: bool = True
    _export_dir: Any = None


class Base(xqute.Scheduler):
    """Comes before xqute's ``Scheduler``: what ``super()`` of the class's methods ends in."""

    def wrap_job_script(self, job: Job) -> str:  # type: ignore[override]
        """Return this project's wrapper, which makes ends known at once and signals failures."""
        return SchedulerPostInit.wrap_job_script(self, job)  # type: ignore[arg-type]

    async def wrapped_job_script(self, job: Job) -> Any:  # type: ignore[override]
        """Return the path of the wrapper; the engine has written it."""
        return job.metadir / f"job.wrapped.{self.name}"

    def jobcmd_init(self, job: Job) -> str:
        """Return the bash of plugins, before the prescript."""
        return _with_hooks(self, "jobcmd_init", job)

    def jobcmd_prep(self, job: Job) -> str:
        """Return the bash of plugins, before the command."""
        return _with_hooks(self, "jobcmd_prep", job)

    def jobcmd_end(self, job: Job) -> str:
        """Return the bash of plugins, after the command."""
        return _with_hooks(self, "jobcmd_end", job)


def _with_hooks(scheduler: Any, name: str, job: Job) -> str:
    """Return the bash of this project's plugins, and of xqute's, whose base calls those."""
    pieces = scheduler.hooks.code(f"on_{name}", scheduler, job)
    return "\n".join([*pieces, str(getattr(xqute.Scheduler, name)(scheduler, job))])


_config_of_job: ContextVar[tuple[object, Any] | None] = ContextVar("config_of_job", default=None)
"""The scheduler that is submitting a job with options of its own, and those."""


class Foreign(SchedulerPostInit):
    """Mixed in before a third-party class (see :func:`make_foreign`)."""

    # Which id the job has cannot be told on the node; the submitter knows it.
    jid_expression: ClassVar[str] = ""
    kills_wrapper_only: bool = True
    # A scheduler may be slow to list what it has just taken.
    loss_grace: ClassVar[float] = 10.0

    proc: Proc
    _root: Path
    _options: Mapping[str, Any]
    _config: Any
    _never_begin: set[str]

    @property
    def config(self) -> Any:
        """The options: those of the job that is being submitted, if it has some of its own."""
        own = _config_of_job.get()
        return own[1] if own is not None and own[0] is self else self._config

    @config.setter
    def config(self, config: Any) -> None:
        self._config = config

    async def start(self) -> None:
        """Call ``init_proc`` or ``post_init``, as pipen and xqute do before the first job."""
        try:
            if hasattr(self, "init_proc"):
                await self.init_proc(self.proc)
                self._post_init_called = True
                if str(self.workdir) == str(self._root.parent):
                    self.workdir = self.workdir / self._root.name
            await super().start()
        except Exception as error:
            raise SchedulerError(repr(error)) from error
        if str(self.workdir) != str(self._root):
            raise SchedulerError(f"its init_proc moves the job directories to {self.workdir}")

    def take_settings(self, checked: Checked) -> None:
        """Leave the settings as the constructor took them, which may have changed them."""

    # -- one job at a time -----------------------------------------------------------

    async def submit_jobs(self, jobs: Sequence[Job]) -> Mapping[Job, str | SchedulerError]:
        """Submit jobs one by one, each with its own options."""
        (job,) = jobs
        token = _config_of_job.set((self, self._config_for(job)))
        try:
            return await super().submit_jobs(jobs)
        finally:
            _config_of_job.reset(token)

    async def kill_jobs(self, jobs: Sequence[Job]) -> None:
        """End jobs one by one; those that have not begun never will, whatever the scheduler does.

        Raises
        ------
        TransientError
            If one is still there, and could not be ended.
        """
        await super().kill_jobs(jobs)
        for job in jobs:
            with contextlib.suppress(OSError):
                if await self.claim(job):
                    self._never_begin.add(job.token)

    def forget(self, job: Job) -> None:
        """Drop what was noted of a job that has ended."""
        if job.record is not None:
            self._never_begin.discard(job.token)

    async def query_jobs(self, jobs: Sequence[Job]) -> Mapping[Job, Report]:
        """Ask for each job whether it is there, and whether it will never begin.

        xqute asks a class ``job_fails_before_running`` of jobs that have not begun. Its Slurm
        scheduler raises ``IndexError`` for a job that has ended in the queue.
        """
        answers = dict(await super().query_jobs(jobs))
        for job in jobs:
            is_unknown = answers[job].presence is Presence.UNKNOWN
            if is_unknown and job.record is not None and job.token in self._never_begin:
                answers[job] = Report(Presence.GONE)
            if job.state is JobState.SUBMITTED and await self._fails_before_running(job):
                detail = "its scheduler says so (job_fails_before_running)"
                outcome = Outcome(ExitReason.LAUNCH_FAILURE, detail=detail)
                answers[job] = Report(Presence.PENDING, outcome=outcome)
        return answers

    async def _fails_before_running(self, job: Job) -> bool:
        try:
            fails = await self.job_fails_before_running(job)
            # What the wrapper has written counts for more.
            return bool(fails) and not job.directory.info(job.token) and job.directory.rc() is None
        except Exception:  # a third-party class raises whatever it likes
            return False

    # -- the wrapper -----------------------------------------------------------------

    def write_wrapper(self, job: Job) -> None:
        """Write the wrapper of a job, as its class makes it, into its directory.

        Raises
        ------
        SchedulerError
            If the class cannot make it.
        """
        token = _config_of_job.set((self, self._config_for(job)))
        try:
            text = self.wrap_job_script(job)
        except Exception as error:
            raise SchedulerError(
                f"scheduler {self.name} cannot make the job's wrapper: {error!r}"
            ) from error
        finally:
            _config_of_job.reset(token)
        job.directory.write(f"job.wrapped.{self.name}", text)

    def wrap_job_script(self, job: Job) -> str:  # type: ignore[override]
        """Return the wrapper as the class makes it."""
        return str(super(SchedulerPostInit, self).wrap_job_script(job))

    async def wrapped_job_script(self, job: Job) -> Any:  # type: ignore[override]
        """Return the path of the wrapper as the class has it."""
        return await super(SchedulerPostInit, self).wrapped_job_script(job)

    def _config_for(self, job: Job) -> Any:
        """Return the options of a job as the class reads them, from ``self.config``.

        What the class itself has put there stays.
        """
        options = job.spec.options
        if options == self._options:
            return self._config
        config = {k: v for k, v in self._config.items() if k in options or k not in self._options}
        changed = {k: v for k, v in options.items() if self._options.get(k, _MISSING) != v}
        return type(self._config)({**config, **changed})

    def jobcmd_shebang(self, job: Job) -> str:  # type: ignore[override]
        """Return the class's own first lines."""
        return str(super(SchedulerPostInit, self).jobcmd_shebang(job)).rstrip("\n")

    def jobcmd_init(self, job: Job) -> str:
        """Return the bash of plugins and of the class itself, before the prescript."""
        return "\n".join([self._own_wrapper_init(), self._of_class("jobcmd_init", job)]).lstrip()

    def jobcmd_prep(self, job: Job) -> str:
        """Return the bash of plugins and of the class itself, before the command."""
        return self._of_class("jobcmd_prep", job)

    def jobcmd_end(self, job: Job) -> str:
        """Return the bash of plugins and of the class itself, after the command."""
        return self._of_class("jobcmd_end", job)

    def _own_wrapper_init(self) -> str:
        """Return what the class's ``jobcmd_wrapper_init`` adds to that of xqute's base."""
        name = "jobcmd_wrapper_init"
        if _is_of_xqute(next(one for one in type(self).__mro__ if name in vars(one))):
            return ""
        inherited: Any = xqute.Scheduler.jobcmd_wrapper_init
        return str(self.jobcmd_wrapper_init).replace(inherited.fget(self), "")

    def _of_class(self, name: str, job: Job) -> str:
        classes = type(self).__mro__
        behind = classes[classes.index(SchedulerPostInit) + 1 :]
        found = next(one for one in behind if name in vars(one))
        # xqute's own schedulers pause here, for xqute's poller.
        return str(getattr(Base if _is_of_xqute(found) else found, name)(self, job))


def _methods_of(scheduler: type[xqute.Scheduler]) -> dict[str, Any]:
    """Return the class's methods that :class:`SchedulerPostInit` would stand before.

    That is what it has in place of xqute's base and :class:`Foreign` does not call.
    """
    own = {}
    for name in (
        vars(xqute.Scheduler).keys() & vars(SchedulerPostInit).keys() - vars(Foreign).keys()
    ):
        found = next(one for one in scheduler.__mro__ if name in vars(one))
        if found is not xqute.Scheduler and not name.startswith("_"):
            own[name] = vars(found)[name]
    return own


def _is_of_xqute(scheduler: type) -> bool:
    return scheduler.__module__.partition(".")[0] == "xqute"


T = TypeVar("T")


def _made_in(loop: asyncio.AbstractEventLoop, make: Callable[[], T]) -> T:
    """Call a constructor while a loop is running, in a thread that has no other loop.

    pipen makes its schedulers in its running loop, and some ask for it (``SshScheduler``).
    """
    answers: list[T] = []
    errors: list[BaseException] = []

    async def construct() -> None:
        answers.append(make())

    def work() -> None:
        try:
            loop.run_until_complete(construct())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, name="pipen-engine", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return answers[0]


def _is_of_interest(record: logging.LogRecord) -> bool:
    """Tell whether a record of asyncio's is more than that a process outlives its loop.

    Those that a class starts are jobs: a wrapper tells its end just before it ends.
    """
    return record.msg != "Loop %r that handles pid %r is closed"


def doubtful_options(scheduler: type[xqute.Scheduler], checked: Checked) -> list[str]:
    """Return a sentence for each option that seems to be a misspelt argument of a class.

    What a class takes out of ``**kwargs``, and what it reads of ``config``, cannot be told.
    """
    names: set[str] = set()
    for one in scheduler.__mro__:
        if "__init__" in vars(one):
            names |= inspect.signature(vars(one)["__init__"]).parameters.keys()
    names -= {"self", "args", "kwargs"}
    doubts = []
    for name in checked.options.keys() - names:
        if (meant := closest(name, names)) is not None:
            doubts.append(
                f"{checked.where(name)}: the constructor of {scheduler.__name__} has no argument "
                f"of this name, but {meant}; it goes into config."
            )
    return doubts


def make_foreign(
    scheduler: type[xqute.Scheduler], where: str, root: Path, checked: Checked
) -> SchedulerPostInit:
    """Make a scheduler of a third-party class, constructed as pipen does it.

    Parameters
    ----------
    scheduler
        The class.
    where
        The setting that named it, for error messages.
    root
        Directory of the job directories.
    checked
        The settings; the options go to the constructor.

    Raises
    ------
    UserError
        If it cannot be constructed, or its jobs do not see the workflow's files.
    """
    ceiling = checked.query_ceiling
    given = {
        "forks": checked.forks,
        "recheck_interval": None if ceiling is None else round(10 * ceiling),
        "prescript": checked.prescript,
        "postscript": checked.postscript,
        "jobname_prefix": checked.jobname_prefix,
        "cwd": checked.cwd,
        "timeout": round(checked.timeout) or None,
    }
    arguments = {
        "error_strategy": checked.error_strategy,
        "num_retries": checked.num_retries,
        "submission_batch": checked.submission_batch,
        **{name: value for name, value in given.items() if value is not None},
        **checked.options,
    }
    shared = getattr(scheduler, "fs_shared", True)
    own = issubclass(scheduler, SchedulerPostInit)
    made = scheduler
    for one in scheduler.__mro__:
        if one.__module__.startswith(FAMILY):
            name = one.__module__.removeprefix(FAMILY).partition(".")[0]
            raise UserError(
                f"{where}: {scheduler.__name__} is a subclass of {one.__name__} of pipen-{name}, "
                "whose methods for one job are not called for Snakemake's jobs, which are "
                f"submitted together. Use scheduler {name}, with a plugin for what the class "
                "changes, or subclass the scheduler of xqute."
            )
    if inspect.isabstract(scheduler):
        missing = ", ".join(sorted(scheduler.__abstractmethods__))
        raise UserError(
            f"{where}: scheduler {scheduler.__name__} cannot be made: it is abstract, and lacks "
            f"{missing}."
        )
    if not own:
        body = {**_methods_of(scheduler), "fs_shared": shared, "__module__": scheduler.__module__}
        bases = (Foreign, scheduler, Base)
        made = types.new_class(scheduler.__name__, bases, exec_body=lambda ns: ns.update(body))
    if not shared:
        raise UserError(
            f"{where}: jobs of {scheduler.__name__} do not see the files of the workflow "
            "(fs_shared is False), and it does not bring them there for Snakemake. Use a "
            "scheduler with a shared file system, or pipen-ssh, pipen-container or pipen-gbatch."
        )
    # pipen's init_proc() appends the name of the process.
    workdir = root.parent if hasattr(made, "init_proc") else root
    loop = new_loop()
    logging.getLogger("asyncio").addFilter(_is_of_interest)  # the same one once only
    try:
        instance: Any = _made_in(loop, lambda: made(workdir, **arguments))
    except Exception as error:
        loop.close()
        raise UserError(
            f"{where}: scheduler {scheduler.__name__} cannot be made with the options "
            f"{', '.join(map(str, checked.options)) or '(none)'}: {error!r}"
        ) from error
    instance.made_in_loop = loop
    if not own:
        here = Path.cwd()
        pipeline = Pipeline(here.name, here, root.parent, {"scheduler_opts": checked.options})
        instance._root = root
        instance._options = dict(checked.options)
        instance._never_begin = set()
        instance.proc = Proc(
            name=root.name,
            pipeline=pipeline,
            workdir=root.parent,
            scheduler=scheduler,
            scheduler_opts=checked.options,
            forks=checked.forks,
            error_strategy=checked.error_strategy,
            num_retries=checked.num_retries,
            submission_batch=checked.submission_batch,
            _export_dir=here,
        )
    ready: SchedulerPostInit = instance
    return ready
