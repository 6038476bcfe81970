"""The Snakemake side: turns Snakemake's jobs into job specifications and reports back.

``RemoteExecutor`` brings the respawned command line; its polling thread is left
without work, because results come from the engine's thread.
"""

from __future__ import annotations

import os
import shlex
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from snakemake_interface_executor_plugins.executors.base import AbstractExecutor, SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.real import RealExecutor
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from snakemake_interface_executor_plugins.settings import SharedFSUsage
from snakemake_interface_executor_plugins.utils import format_cli_arg

from .exceptions import SchedulerError, UserError
from .settings import (
    Checked,
    check,
)
from .spec import JobSpec
from .states import ExitReason

if TYPE_CHECKING:
    from .engine import Engine
    from .job import Job
    from .scheduler import SchedulerPostInit


class PipenExecutor(RemoteExecutor):  # type: ignore[misc]
    """Base of all pipen executors.

    A backend sets :attr:`backend` and says which scheduler class it drives.
    """

    backend: ClassVar[str]
    """Name of the scheduler, as in ``--executor pipen-<backend>``."""

    # -- what a backend may change -------------------------------------------------

    def make_scheduler(self, workdir: Path, checked: Checked) -> SchedulerPostInit:
        """Return the scheduler; the imports of its libraries belong in here."""
        raise NotImplementedError

    # -- life of the executor --------------------------------------------------------

    def _wait_thread(self) -> None:
        """Leave the thread that polls in other executors without work."""

    def __post_init__(self) -> None:
        """Check all settings and start the engine; nothing has been submitted yet."""
        from .engine import Engine, Limits
        from .hooks import Hooks
        from .jobdir import prepare_root
        from .specify import Specifier
        from .usage import UsageReport

        self._prefix = f"pipen-{self.backend}"
        self._checked = check(self.workflow.executor_settings, self._prefix)
        self._infos: dict[str, SubmittedJobInfo] = {}
        self._keys: dict[int, str] = {}
        self._broken = False
        self._cancelled = 0
        self.engine: Engine | None = None
        workdir = self._checked.workdir or Path(".snakemake", "pipen", self.backend)
        root = Path.cwd() / workdir
        try:
            prepare_root(root)
        except OSError as error:
            raise UserError(
                f"--{self._prefix}-workdir: the job directories cannot be kept in {root}: {error}"
            ) from error
        hooks = Hooks(
            self._checked.plugins,
            lambda text: self.on_message(text, warning=True),
            where=f"--{self._prefix}-plugins",
        )
        if self._checked.efficiency_report:
            hooks.add(UsageReport(self.logger.info))
        scheduler = self.make_scheduler(root, self._checked)
        scheduler.hooks = hooks
        ceiling = self._checked.query_ceiling
        limits = Limits(
            forks=self._checked.forks,
            submitters=self._checked.submission_batch,
            submit_rate=self._checked.submit_rate,
            query_ceiling=ceiling if ceiling is not None else scheduler.query_ceiling,
        )
        self._specifier = Specifier(self, self._checked, scheduler, hooks, self._prefix)
        self._specifier.check_run()
        self.engine = Engine(scheduler, str(root), limits, hooks, self)
        try:
            self.engine.start()
        except SchedulerError as error:
            raise UserError(f"{self._prefix} cannot be used: {error}") from error

    def shutdown(self) -> None:
        """Stop the engine; called when no job is left, or when the engine is broken."""
        if self.engine is not None:
            if self._broken:
                self.engine.cancel()
            self.engine.stop()
        if self._cancelled:
            self.logger.info(f"{self._cancelled} jobs have been cancelled.")
        super().shutdown()

    def cancel(self) -> None:
        """End all jobs and wait until the scheduler agrees; called on Ctrl-C and errors."""
        if self.engine is not None:
            self.engine.cancel()
        self.shutdown()

    def cancel_jobs(self, active_jobs: list[SubmittedJobInfo]) -> None:
        """Do nothing: :meth:`cancel` is overridden as a whole."""

    async def check_active_jobs(self, active_jobs: list[SubmittedJobInfo]) -> Any:
        """Yield all jobs as active: their ends are heard of elsewhere."""
        for info in active_jobs:
            yield info

    # -- submission ------------------------------------------------------------------

    def run_jobs(self, jobs: Sequence[Any]) -> None:
        """Hand all jobs that are ready to the engine at once."""
        handles = []
        for job in jobs:
            self.run_job_pre(job)
            handle = self._take(job)
            if handle is not None:
                handles.append(handle)
        if handles:
            assert self.engine is not None
            self.engine.submit(handles)

    def run_job(self, job: Any) -> None:
        """Hand one job to the engine."""
        self.run_jobs([job])

    def _take(self, job: Any) -> Job | None:
        """Make a job ready; None if it is done with already, well or badly."""
        from snakemake.exceptions import print_exception

        info = SubmittedJobInfo(job)
        if not job.is_group() and job.is_norun:
            self.workflow.async_run(job.prepare())
            self.report_job_submission(info)
            self.report_job_success(info)
            return None
        try:
            if self._fetched_from_cache(job):
                self.report_job_submission(info)
                self.report_job_success(info)
                return None
            spec = self._specifier.specify(job)
            assert self.engine is not None
            handle = self.engine.make_job(spec)
            if handle.record is not None and not self._may_be_taken_up(job, handle):
                handle.directory.settle()
                handle.record = None
            if handle.record is None:
                self._specifier.prepare(job, spec)
            elif spec.direct and handle.record.shadow_dir:
                self._specifier.use_shadow(job, spec, handle.record.shadow_dir)
        except Exception as error:
            print_exception(error, self.workflow.linemaps)
            self.report_job_submission(info, register_job=False)
            self.report_job_error(info, msg="The job could not be made ready.")
            return None
        info.external_jobid = f"{self._prefix}:{spec.key}"
        info.aux = {"handle": handle}
        self._infos[spec.key] = info
        self._keys[id(job)] = spec.key
        # Snakemake's marker of incomplete output is written before the submission: a
        # kill in between must not let the next run take half an output for a whole one.
        self.report_job_submission(info)
        return handle

    def _cache(self, job: Any) -> Any:
        """Return the cache between workflows that keeps the output of a job, or None."""
        wanted = self.workflow.workflow_settings.cache is not None and not job.is_group()
        return job.rule.cache.output if wanted and job.rule.cache else None

    def _fetched_from_cache(self, job: Any) -> bool:
        """Take the output of a job from --cache, as the local executor does before it runs."""
        from snakemake.exceptions import CacheMissException

        if not self._cache(job):
            return False
        try:
            self.workflow.async_run(job.rule.cache.fetch(job))
        except CacheMissException:
            return False
        return True

    def _store_in_cache(self, info: SubmittedJobInfo) -> None:
        """Put the output of a job into --cache, then report its success; not in the engine."""
        from snakemake.exceptions import print_exception

        try:
            self.workflow.async_run(info.job.rule.cache.store(info.job))
        except Exception as error:
            print_exception(error, self.workflow.linemaps)
            self.report_job_error(info, msg="Its output could not be stored in the cache.")
        else:
            self.report_job_success(info)

    def _may_be_taken_up(self, job: Any, handle: Job) -> bool:
        """Tell whether an earlier submission of a job is unfinished business.

        A job that has not ended is. A direct job that ended well is, as long as
        Snakemake's marker is there: the marker goes when the result has been taken in.
        A job that failed is run again, as in every new run.
        """
        rc = handle.directory.rc()
        if rc is None:
            return True
        marked = handle.spec.direct and bool(self.workflow.persistence.external_jobids(job))
        return rc == 0 and marked

    def prepare(self, handle: Job) -> None:
        """Make a job ready for a fresh start (see ``engine.Client``)."""
        job = self._infos[handle.spec.key].job
        self._specifier.take_back(job, handle.spec)
        self._specifier.prepare(job, handle.spec)

    # -- the respawned command line ------------------------------------------------------

    def get_job_exec_prefix(self, job: Any) -> str:
        """Change to the working directory of the workflow."""
        return f"cd {shlex.quote(self.workflow.workdir_init)}"

    def respawn_command(self, job: Any, spec: JobSpec) -> str:
        """Return the command line of the second Snakemake that runs a job.

        The list of files to wait for goes into the job directory, which outlives this
        process.
        """
        self._respawned = spec
        return str(self.format_job_exec(job))

    def get_job_args(self, job: Any, **_: Any) -> str:
        """Return the arguments for one job.

        Other than the base class: all cores that the job asks for, so that
        ``{threads}`` stays what it is.
        """
        arguments = RealExecutor.get_job_args(self, job, cores=max(1, int(job.threads)))
        if SharedFSUsage.INPUT_OUTPUT in self.workflow.storage_settings.shared_fs_usage:
            files = [str(file) for file in job.get_wait_for_files()]
            if files:
                # Not as arguments: Snakemake does not quote them for a shell.
                spec = self._respawned
                spec.files = {**spec.files, "job.waitfor": "\n".join(files).encode() + b"\n"}
                path = f"{self._specifier.directory(spec)}/job.waitfor"
                arguments += " " + format_cli_arg("--wait-for-files-file", path)
        return str(arguments)

    def additional_general_args(self) -> str:
        """Return arguments that make the second Snakemake quick and leave retries to this one.

        Its rate limiter would keep it waiting at its end, and it would repeat a failed
        job by itself where the rule says so.
        """
        return (
            "--max-jobs-per-timespan 1000000/0s --preemptible-rules --preemptible-retries 0 "
            "--quiet progress rules host"
        )

    # -- what the engine tells (called in its thread) ----------------------------------------

    def on_submitted(self, handle: Job) -> None:
        """Note the scheduler's id for messages."""
        info = self._infos.get(handle.spec.key)
        if info is not None:
            info.external_jobid = handle.jid

    def on_ended(self, handles: Sequence[Job]) -> None:
        """Report results to Snakemake."""
        assert self.engine is not None
        for handle in handles:
            info = self._infos[handle.spec.key]
            assert handle.outcome is not None
            if self.engine.cancelling and handle.outcome.reason is ExitReason.CANCELLED:
                self._cancelled += 1  # one line for all of them, when the run ends
            elif handle.outcome.ok and self._cache(info.job):
                threading.Thread(target=self._store_in_cache, args=(info,)).start()
            elif handle.outcome.ok:
                self.report_job_success(info)
            else:
                if info.job.is_group():  # Snakemake leaves the message of a group out
                    self.logger.error(f"{handle.spec.rule}: {self._explain(handle)}")
                logs = [handle.directory.file("job.stderr"), handle.directory.file("job.stdout")]
                self.report_job_error(
                    info,
                    msg=self._explain(handle),
                    aux_logs=[path for path in logs if _has_content(path)],
                )

    def _explain(self, handle: Job) -> str:
        assert handle.outcome is not None
        lines = [handle.outcome.describe()]
        facts = {
            f"{self.backend} job": handle.jid,
            "node": handle.directory.info(handle.token).get("node", "") if handle.record else "",
            "directory": os.path.relpath(handle.directory.path),
        }
        lines += [f"    {name}: {value}" for name, value in facts.items() if value]
        tail = handle.directory.tail("job.stderr")
        if tail:
            lines += ["    last lines of stderr:", *(f"        {line}" for line in tail)]
        return "\n".join(lines)

    def on_halt(self, handle: Job) -> None:
        """End the run with the error of one job (error strategy 'halt')."""
        assert handle.outcome is not None
        self.workflow.scheduler.executor_error_callback(
            UserError(
                f"Rule {handle.spec.rule} failed ({handle.outcome.describe()}) and its error "
                "strategy is 'halt'; all other jobs have been cancelled."
            )
        )

    def on_broken(self, error: BaseException) -> None:
        """End the run because the engine cannot go on; :meth:`shutdown` ends the jobs."""
        if self.workflow.scheduler is None:
            return
        self._broken = True
        self.workflow.scheduler.executor_error_callback(error)

    def on_message(self, text: str, *, warning: bool = False) -> None:
        """Show a line to the user."""
        (self.logger.warning if warning else self.logger.info)(text)

    # -- what Snakemake tells ------------------------------------------------------------

    def handle_job_success(self, job: Any) -> None:
        """Settle a job whose result and metadata Snakemake has taken in."""
        self._settle(job)

    def handle_job_error(self, job: Any) -> None:
        """Settle a job whose failure Snakemake has taken in."""
        self._settle(job)

    def _settle(self, job: Any) -> None:
        key = self._keys.pop(id(job), None)
        if key is not None:
            info = self._infos.pop(key)
            assert info.aux is not None
            info.aux["handle"].directory.settle()

    def print_job_error(self, job_info: SubmittedJobInfo, msg: Any = None, **kwargs: Any) -> None:
        """Print a failure without the base class's pointer to "the cluster log"."""
        if job_info.external_jobid is not None:
            kwargs["external_jobid"] = job_info.external_jobid
        AbstractExecutor.print_job_error(self, job_info, msg, **kwargs)


def _has_content(path: str) -> bool:
    try:
        return os.stat(path).st_size > 0
    except OSError:
        return False
