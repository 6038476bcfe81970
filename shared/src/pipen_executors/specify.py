"""From a job of Snakemake to a job specification."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from snakemake.io import is_flagged

from .command import NODE_TMPDIR, NotDirect, capture, why_not_direct
from .exceptions import SettingError, UserError
from .group import group_script, prepare_group, why_group_not_direct
from .jobdir import JobDir
from .settings import ENVIRONMENT_AT_IMPORT, READERS, Checked, read
from .spec import JobSpec, Resources
from .units import parse_megabytes

if TYPE_CHECKING:
    from .executor import PipenExecutor
    from .hooks import Hooks
    from .scheduler import SchedulerPostInit

RULE_SETTINGS: Final = (
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


class Specifier:
    """Makes job specifications for one run.

    Parameters
    ----------
    executor
        The executor, for Snakemake's own command line and job script.
    checked
        The settings of the run.
    scheduler, hooks
        Who has a say in what a job asks for.
    prefix
        Name of the executor, for messages.
    """

    def __init__(
        self,
        executor: PipenExecutor,
        checked: Checked,
        scheduler: SchedulerPostInit,
        hooks: Hooks,
        prefix: str,
    ) -> None:
        self._executor = executor
        self._workflow = executor.workflow
        self._checked = checked
        self._scheduler = scheduler
        self._hooks = hooks
        self._prefix = prefix
        self._told: set[tuple[str, str]] = set()
        self._names = {f"pipen_{name}" for name in RULE_SETTINGS} | scheduler.own_resources

    # -- before the first job ------------------------------------------------------------

    def check_run(self) -> None:
        """Refuse what any rule asks for and cannot get, before the first job of any runs.

        Resources that are functions of inputs still to be made are checked when their
        job is ready.

        Raises
        ------
        SettingError
            Naming the rule, the resource, its value, and what would be right.
        """
        for rule in self._workflow.rules:
            for name, resource in rule.resources.items():
                self._check_name(name, rule.name)
                value = getattr(resource, "raw", resource)
                value = getattr(value, "value", value)
                if name.startswith("pipen_") and isinstance(value, (str, int)):
                    self._rule_setting(name, value, rule.name)
        seen = set()
        for job in self._workflow.dag.needrun_jobs():
            if job.is_norun or job.rule.name in seen:
                continue
            seen.add(job.rule.name)
            try:
                spec, execution = self._outline(job)
                self._scheduler.check(spec)
            except SettingError:
                raise
            except Exception:
                continue  # it depends on what other jobs have yet to make
            why = why_not_direct(job, self._workflow, piped=True)
            if execution == "direct" and why is not None:
                raise self._cannot_be_direct(spec.rule, why)

    def _check_name(self, name: str, rule: str) -> None:
        if name.startswith("pipen_") and name not in self._names:
            where = f"resource {name} of rule {rule}"
            raise SettingError(where, "set", f"one of {', '.join(sorted(self._names))}")

    def _rule_setting(self, name: str, value: Any, rule: str) -> Any:
        reader = READERS.get(name.removeprefix("pipen_"))
        if reader is None or (isinstance(value, str) and value.startswith("<function")):
            return value
        return read(f"resource {name} of rule {rule}", value, reader)

    def _cannot_be_direct(self, rule: str, why: str) -> UserError:
        return UserError(
            f"Rule {rule} cannot be run directly, as --{self._prefix}-execution or resource "
            f"pipen_execution demands: {why}. Use 'auto'."
        )

    # -- one job ---------------------------------------------------------------------------

    def specify(self, job: Any) -> JobSpec:
        """Return the specification of a job or group that is ready.

        Raises
        ------
        SettingError
            For a value that cannot be right.
        Exception
            Whatever formatting the rule's command raises.
        """
        spec, execution = self._outline(job)
        why = self._fill_direct(job, spec) if execution != "snakemake" else "it is asked for"
        if why is not None:
            if execution == "direct":
                raise self._cannot_be_direct(spec.rule, why)
            if (spec.rule, why) not in self._told:
                self._told.add((spec.rule, why))
                self._executor.logger.debug(
                    f"Rule {spec.rule} is run by a second Snakemake: {why}."
                )
            self._fill_respawned(job, spec)
        spec.volatile = self._volatile(job)
        self._scheduler.check(spec)
        return spec

    def _volatile(self, job: Any) -> tuple[str, ...]:
        """Return what is another in every run: a directory of Snakemake's, numbers of jobs."""
        cache = str(self._workflow.sourcecache.runtime_cache_path)
        if job.is_group():
            return cache, str(job.jobid), str(job.groupid)
        return cache, f'"jobid": {job.jobid}'

    def _outline(self, job: Any) -> tuple[JobSpec, str]:
        """Return the specification of a job without its command, and how it is to run."""
        group = job.is_group()
        members = list(job.jobs) if group else [job]
        # The name of a group of piped jobs is another in every run; its rules are not.
        rule = "group_" + "_".join(sorted(job.rules))[:90] if group else job.rule.name
        own = {name: value for name, value in job.resources.items() if name.startswith("pipen_")}
        for name, value in own.items():
            self._check_name(name, rule)
            own[name] = self._rule_setting(name, value, rule)

        def setting(name: str) -> Any:
            return own.get(f"pipen_{name}", getattr(self._checked, name))

        options = {**self._checked.options, **own.get("pipen_options", {})}
        spec = JobSpec(
            rule=rule,
            wildcards={} if group else dict(job.wildcards_dict or {}),
            products=tuple(sorted(str(file) for member in members for file in member.output)),
            jobid=str(job.jobid),
            argv=(),
            script="",
            cwd=os.path.abspath(setting("cwd") or os.getcwd()),
            resources=self._resources(job, rule),
            options=options,
            prescript=setting("prescript"),
            postscript=setting("postscript"),
            timeout=setting("timeout"),
            error_strategy=setting("error_strategy"),
            num_retries=setting("num_retries"),
            latency_wait=self._workflow.execution_settings.latency_wait,
        )
        self._hooks.call("job_options", spec=spec, options=options)
        return spec, setting("execution")

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
        defaults = self._workflow.resource_settings.default_resources
        if defaults is None:
            return frozenset()
        return frozenset(
            name
            for name in rule.resources
            if not name.startswith("_")
            and name in defaults
            and rule.resources[name].raw == defaults[name].raw
        )

    # -- direct ------------------------------------------------------------------------------

    def _fill_direct(self, job: Any, spec: JobSpec) -> str | None:
        """Let a job run as its own command; return why not, where it cannot."""
        directory = self.directory(spec)
        declared = self._executor.envvars()
        try:
            if job.is_group():
                if (why := why_group_not_direct(job, self._workflow)) is not None:
                    return why
                script = group_script(job, self._workflow, directory, changes)
                spec.argv, spec.script, spec.files = ("/bin/bash",), script.text, script.files
                spec.env = declared
            else:
                if (why := why_not_direct(job, self._workflow)) is not None:
                    return why
                command = capture(job, self._workflow, directory)
                spec.argv, spec.script = (command.shell,), command.text + "\n"
                spec.files = command.files
                spec.env = {**changes(command.env), **declared}
                spec.tmpdir_of_node = command.tmpdir_of_node
                spec.tmpdir_mark = NODE_TMPDIR
        except NotDirect as error:
            return str(error)
        spec.secret = bool(declared)
        self._fill_files(job, spec)
        precommand = self._workflow.remote_execution_settings.precommand
        if precommand or not self._executor.is_default_jobscript:
            self._through_jobscript(job, spec, precommand)
        return None

    def _fill_files(self, job: Any, spec: JobSpec) -> None:
        members = list(job.jobs) if job.is_group() else [job]
        spec.inputs = tuple(str(file) for file in job.input)
        made = [
            file
            for file in chain.from_iterable(member.output for member in members)
            if not is_flagged(file, "pipe")
        ]
        kept = [file for file in made if not is_flagged(file, "update")]
        spec.removable = tuple(str(f) for f in kept if not is_flagged(f, "directory"))
        spec.removable_dirs = tuple(str(f) for f in kept if is_flagged(f, "directory"))
        spec.outputs = tuple(str(f) for f in made if not is_flagged(f, "touch"))

    def _through_jobscript(self, job: Any, spec: JobSpec, precommand: str | None) -> None:
        """Honour --precommand and --jobscript for a direct job."""
        content = spec.script.encode(errors="surrogateescape")
        spec.files = {**spec.files, "job.command": content}
        command = shlex.join([*spec.argv, f"{self.directory(spec)}/job.command"])
        if precommand:
            command = f"{precommand} && {command}"
        spec.argv = ("/bin/sh",)
        if self._executor.is_default_jobscript:
            spec.script = command + "\n"
        else:
            spec.script = self._format_jobscript(job, command)

    def prepare(self, job: Any, spec: JobSpec) -> None:
        """Do what Snakemake does before a direct job: remove old outputs, make directories."""
        if not spec.direct:
            return
        if job.is_group():
            self._workflow.async_run(prepare_group(job))
        else:
            self._workflow.async_run(job.prepare())
            if job.shadow_dir:
                self.use_shadow(job, spec, job.shadow_dir)

    def take_back(self, job: Any, spec: JobSpec) -> None:
        """Undo what a start of a direct job may have done that ``prepare()`` does not undo."""
        if not spec.direct or job.is_group():
            return
        for file in job.output:
            if not is_flagged(file, "update") or not os.path.lexists(file):
                continue
            if not self._workflow.persistence.restore_output(Path(file)):
                # Without a copy of before there was no file before.
                shutil.rmtree(file) if os.path.isdir(file) else os.unlink(file)
        if spec.shadow_dir:
            shutil.rmtree(spec.shadow_dir, ignore_errors=True)

    def use_shadow(self, job: Any, spec: JobSpec, directory: str) -> None:
        """Let a job run in a shadow directory."""
        job.shadow_dir = spec.shadow_dir = directory
        spec.cwd = os.path.abspath(directory)

    # -- respawned -----------------------------------------------------------------------------

    def _fill_respawned(self, job: Any, spec: JobSpec) -> None:
        """Let a job run by a second Snakemake, which waits for inputs and minds outputs."""
        declared = self._executor.envvars()
        spec.direct = False
        spec.secret = bool(declared)
        spec.env = {**changes(os.environ), **declared}
        command = self._executor.respawn_command(job, spec)
        spec.script = self._format_jobscript(job, command)
        spec.argv = ("/bin/sh",)
        members = list(job.jobs) if job.is_group() else [job]
        # Part of what makes the job this very work (see JobSpec.fingerprint).
        code = [member.rule.shellcmd or member.rule.run_func_src or "" for member in members]
        properties = "\n".join([job.properties(), *code])
        spec.files = {**spec.files, "job.properties": properties.encode()}
        spec.inputs = tuple(str(file) for file in job.input)

    def _format_jobscript(self, job: Any, command: str) -> str:
        template = self._executor.jobscript
        try:
            return str(template.format(properties=job.properties(), exec_job=command)) + "\n"
        except (KeyError, IndexError, ValueError) as error:
            raise UserError(
                f"--jobscript cannot be filled in ({error!r}); it may hold {{properties}} and "
                "{exec_job}, and other braces doubled."
            ) from error

    def directory(self, spec: JobSpec) -> str:
        """Return the job directory as the job sees it."""
        return JobDir.of("", spec, str(self._scheduler.workdir.mounted)).mounted


def _is_tbd(value: Any) -> bool:
    return str(value) == "<TBD>"


def changes(env: Mapping[str, str]) -> dict[str, str | None]:
    """Return how an environment differs from the one that this process was started with."""
    names: Iterable[str] = (name for name in env if name.isidentifier())
    changed: dict[str, str | None] = {
        name: env[name] for name in names if ENVIRONMENT_AT_IMPORT.get(name) != env[name]
    }
    for name in ENVIRONMENT_AT_IMPORT.keys() - env.keys():
        if name.isidentifier():
            changed[name] = None
    return changed
