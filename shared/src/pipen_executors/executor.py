"""The Snakemake side: turns Snakemake's jobs into job specifications and reports back.

``RemoteExecutor`` brings the respawned command line; its polling thread is left
without work, because results come from the engine's thread.
"""

from __future__ import annotations

import os
import shlex
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.executors.base import AbstractExecutor, SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.real import RealExecutor
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from snakemake_interface_executor_plugins.settings import SharedFSUsage
from snakemake_interface_executor_plugins.utils import format_cli_arg

from .exceptions import SchedulerError, SettingError
from .settings import (
    ENVIRONMENT_AT_IMPORT,
    READERS,
    Checked,
    check,
    read,
)
from .spec import JobSpec, Resources
from .states import ExitReason
from .units import parse_megabytes

if TYPE_CHECKING:
    from .command import Command
    from .engine import Engine
    from .job import Job
    from .scheduler import SchedulerPostInit

_RULE_SETTINGS = (
    "execution",
    "prescript",
    "postscript",
    "timeout",
    "cwd",
    "error_strategy",
    "num_retries",
    "options",
)
"""Settings that a rule may set for itself, as a resource ``pipen_<name>``."""


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

        self._prefix = f"pipen-{self.backend}"
        self._checked = check(self.workflow.executor_settings, self._prefix)
        self._infos: dict[str, SubmittedJobInfo] = {}
        self._why: set[tuple[str, str]] = set()
        self._broken = False
        self._cancelled = 0
        self.scheduler = None
        self.engine: Engine | None = None
        workdir = self._checked.workdir or Path(".snakemake", "pipen", self.backend)
        root = Path.cwd() / workdir
        try:
            prepare_root(root)
        except OSError as error:
            raise WorkflowError(
                f"--{self._prefix}-workdir: the job directories cannot be kept in {root}: {error}"
            ) from error
        hooks = Hooks(
            self._checked.plugins,
            lambda text: self.on_message(text, warning=True),
            where=f"--{self._prefix}-plugins",
        )
        scheduler = self.make_scheduler(root, self._checked)
        scheduler.hooks = self._hooks = hooks
        ceiling = self._checked.query_ceiling
        limits = Limits(
            forks=self._checked.forks,
            submitters=self._checked.submission_batch,
            submit_rate=self._checked.submit_rate,
            query_ceiling=ceiling if ceiling is not None else scheduler.query_ceiling,
        )
        self.scheduler = scheduler
        self._check_rules()
        self.engine = Engine(scheduler, str(root), limits, hooks, self)
        try:
            self.engine.start()
        except SchedulerError as error:
            raise WorkflowError(f"{self._prefix} cannot be used: {error}") from error

    def _check_rules(self) -> None:
        """Refuse bad resources of any rule before the first job of any rule runs."""
        for rule in self.workflow.rules:
            for name in rule.resources:
                self._check_resource_name(name, rule.name)
            for name, resource in rule.resources.items():
                value = getattr(resource, "raw", resource)
                value = getattr(value, "value", value)
                if name.startswith("pipen_") and isinstance(value, (str, int)):
                    self._rule_setting(name, value, rule.name)

    def _check_resource_name(self, name: str, rule: str) -> None:
        assert self.scheduler is not None
        known = {f"pipen_{setting}" for setting in _RULE_SETTINGS} | self.scheduler.own_resources
        if name.startswith("pipen_") and name not in known:
            raise SettingError(
                f"resource {name} of rule {rule}", "set", f"one of {', '.join(sorted(known))}"
            )

    def _rule_setting(self, name: str, value: Any, rule: str) -> Any:
        reader = READERS.get(name.removeprefix("pipen_"))
        if reader is None or (isinstance(value, str) and value.startswith("<function")):
            return value
        return read(f"resource {name} of rule {rule}", value, reader)

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
            spec = self._specify(job)
            assert self.engine is not None
            handle = self.engine.make_job(spec)
            if handle.record is not None and not self._may_be_taken_up(job, handle):
                handle.directory.settle()
                handle.record = None
            if handle.record is None:
                if spec.direct:
                    self.workflow.async_run(job.prepare())
                    spec.shadow_dir = job.shadow_dir
                    spec.cwd = (job.shadow_dir and os.path.abspath(job.shadow_dir)) or spec.cwd
            elif spec.direct and handle.record.shadow_dir:
                job.shadow_dir = spec.shadow_dir = handle.record.shadow_dir
                spec.cwd = os.path.abspath(handle.record.shadow_dir)
        except Exception as error:
            print_exception(error, self.workflow.linemaps)
            self.report_job_submission(info, register_job=False)
            self.report_job_error(info, msg="The job could not be made ready.")
            return None
        info.external_jobid = f"{self._prefix}:{spec.key}"
        info.aux = {"handle": handle}
        self._infos[spec.key] = info
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
        if handle.spec.direct:
            self.workflow.async_run(job.prepare())
            if job.shadow_dir:
                handle.spec.shadow_dir = job.shadow_dir
                handle.spec.cwd = os.path.abspath(job.shadow_dir)

    # -- specification ---------------------------------------------------------------

    def _specify(self, job: Any) -> JobSpec:
        """Return the specification of a job."""
        group = job.is_group()
        # The name of a group of piped jobs is another in every run; its rules are not.
        rule = "group_" + "_".join(sorted(job.rules))[:90] if group else job.rule.name
        own = {name: value for name, value in job.resources.items() if name.startswith("pipen_")}
        for name, value in own.items():
            self._check_resource_name(name, rule)
            own[name] = self._rule_setting(name, value, rule)

        def setting(name: str) -> Any:
            return own.get(f"pipen_{name}", getattr(self._checked, name))

        options = {**self._checked.options, **own.get("pipen_options", {})}
        wildcards = {} if group else dict(job.wildcards_dict or {})
        members = list(job.jobs) if group else [job]
        spec = JobSpec(
            rule=rule,
            wildcards=wildcards,
            products=tuple(sorted(str(file) for member in members for file in member.output)),
            jobid=str(job.jobid),
            argv=(),
            script="",
            cwd=os.path.abspath(setting("cwd") or self.workflow.workdir_init),
            resources=self._resources(job, rule),
            options=options,
            prescript=setting("prescript"),
            postscript=setting("postscript"),
            timeout=setting("timeout"),
            error_strategy=setting("error_strategy"),
            num_retries=setting("num_retries"),
            latency_wait=self.workflow.execution_settings.latency_wait,
        )
        if not setting("cwd"):
            spec.cwd = os.getcwd()
        self._hooks.call("job_options", spec=spec, options=options)
        self._fill_command(job, spec, setting("execution"))
        assert self.scheduler is not None
        self.scheduler.check(spec)
        return spec

    def _resources(self, job: Any, rule: str) -> Resources:
        known = {}
        for name, reader in (
            ("mem_mb", parse_megabytes),
            ("disk_mb", parse_megabytes),
            ("runtime", lambda value: max(1, round(float(value)))),
            ("gpu", int),
        ):
            value = job.resources.get(name)
            if value is not None and not _is_tbd(value):
                known[name] = read(f"resource {name} of rule {rule}", value, reader)
        extra = {
            name: value
            for name, value in job.resources.items()
            if not name.startswith("_") and name not in known and not _is_tbd(value)
        }
        return Resources(
            threads=max(1, job.threads),
            mem_mb=known.get("mem_mb"),
            disk_mb=known.get("disk_mb"),
            runtime=known.get("runtime"),
            gpus=known.get("gpu"),
            extra=extra,
            defaulted=frozenset() if job.is_group() else self._defaulted(job.rule),
        )

    def _defaulted(self, rule: Any) -> frozenset[str]:
        """Return the resources of a rule that only --default-resources asks for."""
        defaults = self.workflow.resource_settings.default_resources
        if defaults is None:
            return frozenset()
        return frozenset(
            name
            for name in rule.resources
            if not name.startswith("_")
            and name in defaults
            and rule.resources[name].raw == defaults[name].raw
        )

    def _fill_command(self, job: Any, spec: JobSpec, execution: str) -> None:
        from .command import NotDirect, capture, why_not_direct

        why = None
        if execution == "snakemake":
            why = "asked for (execution=snakemake)"
        else:
            why = why_not_direct(job, self.workflow)
            if why is None:
                try:
                    command = capture(job, self.workflow, self._directory(spec))
                except NotDirect as error:
                    why = str(error)
                else:
                    self._fill_direct(job, spec, command)
                    return
            if execution == "direct":
                raise WorkflowError(
                    f"Rule {spec.rule} cannot be run directly, as --{self._prefix}-execution or "
                    f"resource pipen_execution demands: {why}. Use 'auto'."
                )
        if (spec.rule, why) not in self._why:
            self._why.add((spec.rule, why))
            self.logger.debug(f"Rule {spec.rule} is run by a second Snakemake: {why}.")
        self._fill_respawned(job, spec)

    def _directory(self, spec: JobSpec) -> str:
        from .jobdir import JobDir

        assert self.scheduler is not None
        return JobDir.of("", spec, str(self.scheduler.workdir.mounted)).mounted

    def _fill_direct(self, job: Any, spec: JobSpec, command: Command) -> None:
        from snakemake.io import is_flagged

        from .command import NODE_TMPDIR

        declared = self.envvars()
        spec.secret = bool(declared)
        spec.env = {**_changes(command.env), **declared}
        spec.script = command.text + "\n"
        spec.argv = (command.shell,)
        spec.files = command.files
        spec.tmpdir_of_node = command.tmpdir_of_node
        spec.tmpdir_mark = NODE_TMPDIR
        spec.inputs = tuple(str(file) for file in job.input)
        kept = [file for file in job.output if not is_flagged(file, "update")]
        spec.removable = tuple(str(f) for f in kept if not is_flagged(f, "directory"))
        spec.removable_dirs = tuple(str(f) for f in kept if is_flagged(f, "directory"))
        spec.outputs = tuple(str(f) for f in job.output if not is_flagged(f, "touch"))
        precommand = self.workflow.remote_execution_settings.precommand
        if precommand or not self.is_default_jobscript:
            self._through_jobscript(job, spec, precommand)

    def _through_jobscript(self, job: Any, spec: JobSpec, precommand: str | None) -> None:
        """Honour --precommand and --jobscript for a direct job."""
        files = dict(spec.files)
        files["job.command"] = spec.script.encode(errors="surrogateescape")
        command = shlex.join([*spec.argv, f"{self._directory(spec)}/job.command"])
        spec.files = files
        spec.argv = ("/bin/sh",)
        spec.script = f"{precommand} && {command}\n" if precommand else f"{command}\n"
        if not self.is_default_jobscript:
            spec.script = self._format_jobscript(job, spec.script.rstrip("\n"))

    def _format_jobscript(self, job: Any, command: str) -> str:
        try:
            return str(self.jobscript.format(properties=job.properties(), exec_job=command)) + "\n"
        except (KeyError, IndexError, ValueError) as error:
            raise WorkflowError(
                f"--jobscript cannot be filled in ({error!r}); it may hold {{properties}} and "
                "{exec_job}, and other braces doubled."
            ) from error

    def _fill_respawned(self, job: Any, spec: JobSpec) -> None:
        declared = self.envvars()
        spec.direct = False
        spec.secret = bool(declared)
        spec.env = {**_changes(os.environ), **declared}
        self._spec_being_filled = spec
        spec.script = self._format_jobscript(job, self.format_job_exec(job))
        spec.argv = ("/bin/sh",)
        members = list(job.jobs) if job.is_group() else [job]
        code = [(member.rule.shellcmd or member.rule.run_func_src or "") for member in members]
        spec.files = {
            **spec.files,
            "job.properties": (job.properties() + "\n" + "\n".join(code)).encode(),
        }
        spec.inputs = tuple(str(file) for file in job.input)
        # Its own Snakemake waits for inputs and looks after outputs.

    # -- the respawned command line ------------------------------------------------------

    def get_job_exec_prefix(self, job: Any) -> str:
        """Change to the working directory of the workflow."""
        return f"cd {shlex.quote(self.workflow.workdir_init)}"

    def get_job_args(self, job: Any, **_: Any) -> str:
        """Return the arguments for one job.

        Other than the base class: all cores that the job asks for, so that
        ``{threads}`` stays what it is; the list of files to wait for lies in the job
        directory, which outlives this process.
        """
        threads = max(1, int(job.threads))
        arguments = RealExecutor.get_job_args(self, job, cores=threads)
        if SharedFSUsage.INPUT_OUTPUT in self.workflow.storage_settings.shared_fs_usage:
            files = [str(file) for file in job.get_wait_for_files()]
            if len(files) > 20:
                spec = self._spec_being_filled
                spec.files = {**spec.files, "job.waitfor": "\n".join(files).encode() + b"\n"}
                path = f"{self._directory(spec)}/job.waitfor"
                arguments += " " + format_cli_arg("--wait-for-files-file", path)
            elif files:
                arguments += " " + format_cli_arg("--wait-for-files", files)
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
            WorkflowError(
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
        for key, info in self._entries(job):
            handle = (info.aux or {}).get("handle")
            if handle is not None:
                handle.directory.settle()
            self._infos.pop(key, None)

    def _entries(self, job: Any) -> Iterable[tuple[str, SubmittedJobInfo]]:
        return [(key, info) for key, info in self._infos.items() if info.job is job]

    def print_job_error(self, job_info: SubmittedJobInfo, msg: Any = None, **kwargs: Any) -> None:
        """Print a failure without the base class's pointer to "the cluster log"."""
        if job_info.external_jobid is not None:
            kwargs["external_jobid"] = job_info.external_jobid
        AbstractExecutor.print_job_error(self, job_info, msg, **kwargs)


def _is_tbd(value: Any) -> bool:
    return str(value) == "<TBD>"


def _has_content(path: str) -> bool:
    try:
        return os.stat(path).st_size > 0
    except OSError:
        return False


def _changes(env: Any) -> dict[str, str | None]:
    """Return how an environment differs from the one that this process was started with."""
    changed: dict[str, str | None] = {
        name: value
        for name, value in env.items()
        if ENVIRONMENT_AT_IMPORT.get(name) != value and name.isidentifier()
    }
    for name in ENVIRONMENT_AT_IMPORT.keys() - env.keys():
        if name.isidentifier():
            changed[name] = None
    return changed
