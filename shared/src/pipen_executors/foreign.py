"""Scheduler classes of other houses, as pipen's documentation has them, on this engine.

Such a class subclasses xqute's ``Scheduler`` and knows ``submit_job``, ``kill_job`` and
``job_is_running``; it may have ``jobcmd_…`` methods, a ``post_init()``, and pipen's
``init_proc(proc)`` (from ``pipen.scheduler.SchedulerPostInit``). It is used as it is; what runs
on the node is this project's wrapper.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from .exceptions import SchedulerError, UserError
from .job import Job
from .scheduler import SchedulerPostInit, xqute

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


class Foreign(SchedulerPostInit):
    """Mixed in before a class of another house (see :func:`make_foreign`)."""

    # Which id the job has cannot be told on the node; the submitter knows it.
    jid_expression: ClassVar[str] = ""
    kills_wrapper_only: bool = True
    # A scheduler may be slow to list what it has just taken.
    loss_grace: ClassVar[float] = 10.0

    proc: Proc
    _root: Path
    _options: Mapping[str, Any]

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

    async def submit_jobs(self, jobs: Sequence[Job]) -> Mapping[Job, str | SchedulerError]:
        """Submit jobs one by one, each with its own options."""
        (job,) = jobs
        submitter = self._with_options_of(job)
        return await super(Foreign, submitter).submit_jobs(jobs)

    def wrap_job_script(self, job: Job) -> str:  # type: ignore[override]
        """Return the wrapper; the first lines may hold the options."""
        return super(Foreign, self._with_options_of(job)).wrap_job_script(job)

    def _with_options_of(self, job: Job) -> Self:
        """Return this scheduler, or a copy with the options of a job that has others.

        A class reads its options from ``self.config``, which is the same for all jobs.
        """
        options = job.spec.options
        if options == self._options:
            return self
        config = {k: v for k, v in self.config.items() if k in options or k not in self._options}
        changed = {k: v for k, v in options.items() if self._options.get(k, _MISSING) != v}
        other = copy.copy(self)
        other.config = type(self.config)({**config, **changed})
        other._options = options
        return other

    def jobcmd_shebang(self, job: Job) -> str:  # type: ignore[override]
        """Return the class's own first lines."""
        return str(super(SchedulerPostInit, self).jobcmd_shebang(job))

    def jobcmd_init(self, job: Job) -> str:
        """Return the bash of hooks and of the class itself, before the prescript."""
        return self._from_class("jobcmd_init", job)

    def jobcmd_prep(self, job: Job) -> str:
        """Return the bash of hooks and of the class itself, before the command."""
        return self._from_class("jobcmd_prep", job)

    def jobcmd_end(self, job: Job) -> str:
        """Return the bash of hooks and of the class itself, after the command."""
        return self._from_class("jobcmd_end", job)

    def _from_class(self, name: str, job: Job) -> str:
        method = getattr(super(SchedulerPostInit, self), name)
        if method.__func__.__module__.startswith("xqute."):
            # xqute's schedulers pause here, for xqute's poller.
            method = getattr(xqute.Scheduler, name).__get__(self)
        # xqute's base calls xqute's plugins.
        return "\n".join([*self.hooks.code(f"on_{name}", self, job), str(method(job))])


def make_foreign(
    scheduler: type[xqute.Scheduler], where: str, root: Path, checked: Checked
) -> SchedulerPostInit:
    """Make a scheduler of a class of another house, constructed as pipen does it.

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
    given = {
        "forks": checked.forks,
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
    if not own:
        body = {"fs_shared": shared, "__module__": scheduler.__module__}
        bases = (Foreign, scheduler)
        made = types.new_class(scheduler.__name__, bases, exec_body=lambda ns: ns.update(body))
    if not shared:
        raise UserError(
            f"{where}: jobs of {scheduler.__name__} do not see the files of the workflow "
            "(fs_shared is False), and it does not bring them there for Snakemake. Use a "
            "scheduler with a shared file system, or pipen-ssh, pipen-container or pipen-gbatch."
        )
    try:
        # pipen's init_proc() appends the name of the process.
        instance: Any = made(root.parent if hasattr(made, "init_proc") else root, **arguments)
    except Exception as error:
        raise UserError(
            f"{where}: scheduler {scheduler.__name__} cannot be made with the options "
            f"{', '.join(map(str, checked.options)) or '(none)'}: {error!r}"
        ) from error
    if not own:
        here = Path.cwd()
        pipeline = Pipeline(here.name, here, root.parent, {"scheduler_opts": checked.options})
        instance._root = root
        instance._options = dict(checked.options)
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
