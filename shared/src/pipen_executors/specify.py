"""From a job of Snakemake to a job specification."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from snakemake.exceptions import WorkflowError
from snakemake.io import is_flagged, wait_for_files
from snakemake_interface_executor_plugins.settings import SharedFSUsage

from . import meter, shadow, staging
from .command import NotDirect, capture, own_image, why_not_direct, why_python
from .exceptions import UserError
from .group import (
    SHELL,
    dispensable,
    group_script,
    prepare_group,
    unprotect,
    why_group_not_direct,
)
from .jobdir import JobDir, Record
from .layers import asked_for, disagreement, known, layers
from .postprocess import postprocess_direct, postprocess_respawned
from .settings import (
    ENVIRONMENT_AT_IMPORT,
    ONLY_OPTIONS,
    READERS,
    Checked,
    is_shared_setting,
    read,
)
from .spec import JobSpec, Resources
from .units import parse_gpus, parse_megabytes, parse_minutes, parse_variables
from .work import movable_words, places_of, work_of

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

_STANDARD_NAMES: Final = {
    name + unit: f"{name}_mb" for name in ("mem", "disk") for unit in ("", "_mb", "_mib")
}
"""What Snakemake calls memory and scratch space, whatever they are called in the rule."""

LANE_RESOURCES: Final = ("pipen_profile", "pipen_scheduler")
"""Resources that send a rule to one of several schedulers (``--executor pipen``)."""


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
    """

    def __init__(
        self,
        executor: PipenExecutor,
        checked: Checked,
        scheduler: SchedulerPostInit,
        hooks: Hooks,
    ) -> None:
        self._executor = executor
        self._workflow = executor.workflow
        self._checked = checked
        self._scheduler = scheduler
        self._hooks = hooks
        self._told: set[tuple[str, str]] = set()
        self._source_files: tuple[str, ...] | None = None
        self._names = {f"pipen_{name}" for name in RULE_SETTINGS} | scheduler.own_resources
        self._names |= set(LANE_RESOURCES)

    # -- before the first job ------------------------------------------------------------

    def check_rule(self, rule: Any) -> None:
        """Refuse a setting that a rule gives itself and that cannot be right.

        Resources that are functions are checked with the first job.

        Raises
        ------
        SettingError
            Naming the rule, the resource, its value, and what would be right.
        """
        for name in rule.resources:
            self._check_name(name, rule.name)
        for name, value in static_resources(rule).items():
            if name.startswith("pipen_"):
                self._rule_setting(name, value, rule.name)

    def check_job(self, job: Any) -> str | None:
        """Refuse what a job asks for and cannot get, before the first job of any runs.

        What depends on inputs still to be made is checked when the job is ready.

        Returns
        -------
        str or None
            Why it is run by a second Snakemake, if that is known and was not asked for.

        Raises
        ------
        SettingError
            Naming the rule, the resource, its value, and what would be right.
        UserError
            If it cannot be run as it asks to be.
        """
        try:
            spec, execution = self._outline(job)
            self._scheduler.check(spec)
        except UserError:
            raise
        except Exception:
            return None  # it depends on what other jobs have yet to make
        why = self._why_not_direct(job, piped=True)
        if why is not None and execution == "direct":
            raise self._cannot_be_direct(spec.rule, why)
        return why if execution == "auto" else None

    def tell_respawned(self, why: str, rules: Iterable[str]) -> None:
        """Say, once for each rule and reason, that jobs are run by a second Snakemake."""
        rules = [rule for rule in rules if (rule, why) not in self._told]
        self._told.update((rule, why) for rule in rules)
        if rules:
            some = ", ".join(rules[:5]) + (f" and {len(rules) - 5} more" if rules[5:] else "")
            rule, command = "Rule {} is", "its command"
            if len(rules) > 1:
                rule, command = "Rules {} are", "their commands"
            self._executor.logger.info(
                f"{rule.format(some)} run by a second Snakemake, which takes longer than running "
                f"{command} directly: {why}."
            )

    def check_group(self, group: Any) -> None:
        """Refuse what a group asks for as a whole and cannot get, before the first job runs.

        Raises
        ------
        UserError
            Naming the resource and the rules whose jobs are in the group.
        """
        try:
            spec, _ = self._outline(group)
            self._scheduler.check(spec)
        except UserError:
            raise
        except WorkflowError:
            if (why := disagreement(group)) is not None:
                raise UserError(why) from None
        except Exception:
            return  # it depends on what other jobs have yet to make
        finally:
            group._resources = None  # they are worked out once more when the group is ready

    def _check_name(self, name: str, rule: str) -> None:
        if name.startswith("pipen_") and name not in self._names:
            raise UserError(
                f"There is no resource {name}, as of rule {rule}; there are "
                f"{', '.join(sorted(self._names))}."
            )

    def _rule_setting(self, name: str, value: Any, rule: str) -> Any:
        reader = READERS.get(name.removeprefix("pipen_"))
        if reader is None or (isinstance(value, str) and value.startswith("<function")):
            return value
        value = read(f"resource {name} of rule {rule}", value, reader)
        if name == "pipen_options":
            self._check_options(value, rule)
        return value

    def _check_options(self, options: Mapping[str, Any], rule: str) -> None:
        for name, value in options.items():
            if name == "mounted_workdir":
                right = "it holds for all jobs of a run"
            elif is_shared_setting(self._checked.settings, name, value):
                own = f"pipen_{name}"
                right = "it holds for all jobs of a run"
                if own in self._names:
                    right = f"use resource {own}"
            elif not self._checked.settings.takes_options and name not in ONLY_OPTIONS:
                self._warn_of_option(name, rule)
                continue
            else:
                continue
            raise UserError(
                f"resource pipen_options of rule {rule}: {name} is a setting and no option of the "
                f"scheduler; {right}."
            )

    def _warn_of_option(self, name: str, rule: str) -> None:
        """Say once that an option changes nothing: rules are written for other schedulers too."""
        if (rule, name) not in self._told:
            self._told.add((rule, name))
            self._executor.on_message(
                f"resource pipen_options of rule {rule}: scheduler {self._scheduler.name} has no "
                f"option {name}; it is passed over.",
                warning=True,
            )

    def _cannot_be_direct(self, rule: str, why: str) -> UserError:
        setting = self._checked.where("execution")
        return UserError(
            f"Rule {rule} cannot be run directly, as {setting} or resource pipen_execution "
            f"demands: {why}. Use 'auto'."
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
            spec.why_respawned = why
            if execution == "direct":
                raise self._cannot_be_direct(spec.rule, why)
            if execution == "auto":
                self.tell_respawned(why, [spec.rule])
            self._fill_respawned(job, spec)
        spec.work = work_of(job, self._workflow)
        spec.movable = movable_words(job)
        spec.volatile = self._volatile(job)
        self._scheduler.check(spec)
        return spec

    def _volatile(self, job: Any) -> tuple[str, ...]:
        """Return what may be another in every run: numbers of jobs, where things are kept."""
        cache = self._workflow.sourcecache
        places = (cache.runtime_cache_path, cache.cache_path, *places_of(job, self._workflow))
        numbers = (job.jobid, job.groupid) if job.is_group() else (f'"jobid": {job.jobid}',)
        return tuple(sorted({str(text) for text in (*places, *numbers) if text}, key=len))[::-1]

    def _outline(self, job: Any) -> tuple[JobSpec, str]:
        """Return the specification of a job without its command, and how it is to run."""
        group = job.is_group()
        members = list(job.jobs) if group else [job]
        # The name of a group of piped jobs is another in every run; its rules are not.
        rule = "group_" + "_".join(sorted(job.rules))[:90] if group else job.rule.name
        resources = self._resources(job, rule)
        own = {name: value for name, value in resources.extra.items() if name.startswith("pipen_")}
        for name, value in own.items():
            self._check_name(name, rule)
            own[name] = self._rule_setting(name, value, rule)

        def setting(name: str) -> Any:
            return own.get(f"pipen_{name}", getattr(self._checked, name))

        options = {**self._checked.options, **own.get("pipen_options", {})}
        envs = read(
            f"envs in resource pipen_options of rule {rule}",
            options.pop("envs", None),
            parse_variables,
        )
        spec = JobSpec(
            rule=rule,
            wildcards={} if group else dict(job.wildcards_dict or {}),
            products=tuple(sorted(str(file) for member in members for file in member.output)),
            jobid=str(job.jobid),
            argv=(),
            script="",
            cwd="",
            base=os.getcwd(),
            addresses=_addresses(members),
            resources=resources,
            options=options,
            env={**self._checked.envs, **envs},
            prescript=setting("prescript"),
            postscript=setting("postscript"),
            timeout=self._timeout_of_group(job) if group else setting("timeout"),
            error_strategy=setting("error_strategy"),
            num_retries=setting("num_retries"),
            latency_wait=self._workflow.execution_settings.latency_wait,
        )
        spec.cwd = os.path.abspath(setting("cwd") or self._scheduler.working_directory(spec))
        self._fill_surroundings(job, members, spec)
        if setting("execution") == "snakemake":
            spec.python_for = "a second Snakemake"
        self._hooks.call("job_options", spec=spec, options=options)
        return spec, setting("execution")

    def _timeout_of_group(self, group: Any) -> float:
        """Return how long the jobs of a group may take together; 0 for no limit."""
        total = 0.0
        for row in layers(group):
            longest = 0.0
            for job in row:
                value = known(job).get("pipen_timeout")
                own = value is not None
                name = job.rule.name
                limit = self._rule_setting("pipen_timeout", value, name) if own else None
                seconds = float(self._checked.timeout if limit is None else limit)
                if seconds == 0:
                    return 0
                longest = max(longest, seconds)
            total += longest
        return total

    def _fill_surroundings(self, job: Any, members: Sequence[Any], spec: JobSpec) -> None:
        """Note what must be there around the command of a job, or of the members of a group."""
        images = {own_image(member, self._workflow) for member in members}
        spec.images = tuple(sorted(image for image in images if image is not None))
        names = {member.rule.name for member in members}
        spec.on_host = None in images or not names.isdisjoint(self._workflow._localrules)
        spec.logs = tuple(
            str(file) for member in members for file in (*member.log, member.benchmark) if file
        )
        # A job that is connected by a pipe comes in a group in the end.
        reasons = (
            self._why_not_direct(job, piped=True),
            *(why_python(member, self._workflow) for member in members),
        )
        spec.python_for = next(filter(None, reasons), "")

    def _why_not_direct(self, job: Any, *, piped: bool = False) -> str | None:
        """Return why a job or group has to be run by a second Snakemake; None if it need not."""
        stages = self._scheduler.stages
        if job.is_group():
            why = why_group_not_direct(job, self._workflow, stages=stages)
        else:
            why = why_not_direct(job, self._workflow, stages=stages, piped=piped)
            prefix = self._workflow.execution_settings.shadow_prefix
            if why is None and job.is_shadow and prefix and not self._scheduler.runs_here:
                why = f"its shadow directory lies below --shadow-prefix {prefix} of the node"
        if why is None and not stages and not self._scheduler.copies_storage:
            members = list(job.jobs) if job.is_group() else [job]
            if staging.stage(members, self._workflow, "", "") is not None:
                why = (
                    "its files in storage are copied to where it runs (where the directory of "
                    "--local-storage-prefix is shared, add storage-local-copies and input-output "
                    "to --shared-fs-usage)"
                )
        return why

    def _resources(self, job: Any, rule: str) -> Resources:
        if job.is_group():
            scheduler = self._scheduler
            asked, defaulted = asked_for(
                job,
                defaulted=self._defaulted,
                once=scheduler.asked_once,
                counted=scheduler.counted_resources,
            )
        else:
            asked, defaulted = dict(job.resources.items()), self._defaulted(job.rule)
        known = {}
        for name, reader in (
            ("mem_mb", parse_megabytes),
            ("disk_mb", parse_megabytes),
            ("runtime", parse_minutes),
            ("gpu", parse_gpus),
        ):
            value = asked.get(name)
            if value is not None and not _is_tbd(value):
                known[name] = read(f"resource {name} of rule {rule}", value, reader)
        extra = {
            name: value
            for name, value in asked.items()
            if not name.startswith("_") and not _is_tbd(value)
            if name not in known or (name == "gpu" and not _is_number(value))
        }
        return Resources(
            threads=max(1, job.threads),
            mem_mb=known.get("mem_mb"),
            disk_mb=known.get("disk_mb"),
            runtime=known.get("runtime"),
            gpus=known.get("gpu"),
            extra=extra,
            defaulted=defaulted,
            assumed=self._assumed(defaulted),
            overwritten=self._overwritten(job),
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
            and _is_same(rule.resources[name], defaults[name])
        )

    def _overwritten(self, job: Any) -> frozenset[str]:
        """Return the resources of a job or group that --set-resources asks for."""
        members = job.jobs if job.is_group() else [job]
        overwritten = self._workflow.resource_settings.overwrite_resources
        names = chain.from_iterable(overwritten.get(member.rule.name, ()) for member in members)
        return frozenset(_STANDARD_NAMES.get(name, name) for name in names)

    def _assumed(self, defaulted: frozenset[str]) -> frozenset[str]:
        """Return those of the defaults that are Snakemake's own and not the user's."""
        defaults = self._workflow.resource_settings.default_resources
        return frozenset(
            name
            for name in defaulted & set(_STANDARD_NAMES.values())
            if defaults[name].raw is None or "(2*input.size" in str(defaults[name].raw)
        )

    # -- direct ------------------------------------------------------------------------------

    def _fill_direct(self, job: Any, spec: JobSpec) -> str | None:
        """Let a job run as its own command; return why not, where it cannot."""
        if (why := self._why_not_direct(job)) is not None:
            return why
        directory = self._directory_of_command(job, spec)
        declared = self._executor.envvars()
        members = list(job.jobs) if job.is_group() else [job]
        copied = None
        if not self._scheduler.stages:
            copied = staging.stage(members, self._workflow, directory, spec.cwd)

        def seen(path: str) -> str:
            if copied is not None and path in copied.paths:
                return copied.paths[path]
            return self._scheduler.seen(path, spec.addresses.get(path, ""))

        try:
            if job.is_group():
                settled = {**spec.env, **declared}

                def of_member(env: Mapping[str, str], own: Sequence[str]) -> dict[str, str | None]:
                    # All else is set around the script, where a prescript may change it.
                    return {
                        name: value
                        for name, value in changes(env, own).items()
                        if name not in settled and (name in own or os.environ.get(name) != value)
                    }

                script = group_script(job, self._workflow, directory, seen, of_member)
                spec.argv, spec.script, spec.files = SHELL, script.text, script.files
                spec.env = {**changes(os.environ), **settled}
            else:
                places: dict[str, Any] = {}
                if copied is not None:
                    places["stored"] = copied.stored
                    places["runtime_paths"] = [copied.prefix, *self._workflow.runtime_paths[1:]]
                command = capture(job, self._workflow, directory, seen, **places)
                spec.argv, spec.script = (command.shell,), command.text + "\n"
                spec.files = command.files
                spec.env = {**changes(command.env, command.own), **spec.env, **declared}
                name = "job.command" if self._has_jobscript else "job.script"
                spec.tmpdir_code, path = command.place(directory, name)
                spec.script_file = os.path.basename(path)
                spec.measured = job.benchmark is not None
        except NotDirect as error:
            return str(error)
        if copied is not None:
            self._stage(job, spec, copied)
        self._fill_files(job, spec)
        if self._has_jobscript:
            self._through_jobscript(job, spec)
        return None

    @property
    def _has_jobscript(self) -> bool:
        """Whether the user has a say in what is around each command."""
        precommand = self._workflow.remote_execution_settings.precommand
        return bool(precommand) or not self._executor.is_default_jobscript

    def _stage(self, job: Any, spec: JobSpec, copied: staging.Staging) -> None:
        """Let a direct job copy its files to its node and back."""
        directory = self.directory(spec)
        wait = self._workflow.storage_settings.wait_for_free_local_storage
        usage = f"{directory}/{meter.FILE}" if spec.measured else ""
        text = staging.script(copied, directory, spec.cwd, wait=wait or 0, usage=usage)
        spec.files = {**spec.files, staging.FILE: text.encode(errors="surrogateescape")}
        spec.argv = ("/bin/bash", f"{directory}/{staging.FILE}", *spec.argv)
        spec.postscript = "\n".join(
            part for part in (staging.removal(copied, directory), spec.postscript) if part
        )
        # What the engine looks for, and removes, lies in storage: as Snakemake names it,
        # unless the job runs in another directory.
        moved = not job.is_group() and job.is_shadow
        spec.stored = {
            path: source if moved else os.path.relpath(source, spec.cwd)
            for path, source in copied.stored.items()
        }
        spec.logs = tuple(spec.stored.get(path, path) for path in spec.logs)

    def _fill_files(self, job: Any, spec: JobSpec) -> None:
        members = list(job.jobs) if job.is_group() else [job]

        def lies(file: Any) -> str:
            return spec.stored.get(str(file), str(file))

        spec.inputs = tuple(lies(file) for file in job.input)
        made = [
            file
            for file in chain.from_iterable(member.output for member in members)
            if not is_flagged(file, "pipe")
        ]
        kept = [file for file in made if not is_flagged(file, "update")]
        spec.removable = tuple(lies(f) for f in kept if not is_flagged(f, "directory"))
        spec.removable_dirs = tuple(lies(f) for f in kept if is_flagged(f, "directory"))
        if job.is_group():
            if not self._scheduler.stages:  # its script does that, for each at its moment
                spec.removable = spec.removable_dirs = ()
            gone = dispensable(job, self._workflow)
            made = [file for file in made if file not in gone]
        spec.outputs = tuple(lies(f) for f in made if not is_flagged(f, "touch"))
        spec.touched = tuple(lies(f) for f in made if is_flagged(f, "touch"))

    def _through_jobscript(self, job: Any, spec: JobSpec) -> None:
        """Honour --precommand and --jobscript for a direct job."""
        content = spec.script.encode(errors="surrogateescape")
        spec.files = {**spec.files, "job.command": content}
        name = "job.command" if job.is_group() else spec.script_file
        spec.script_file = "job.script"
        command = shlex.join([*spec.argv, f"{self._directory_of_command(job, spec)}/{name}"])
        precommand = self._workflow.remote_execution_settings.precommand
        if precommand:
            command = f"{precommand} && {command}"
        spec.argv = ("/bin/sh",)
        if self._executor.is_default_jobscript:
            spec.script = command + "\n"
        else:
            spec.script = self._format_jobscript(job, command)

    def prepare(self, job: Any, spec: JobSpec) -> None:
        """Do what Snakemake does before a direct job: remove old outputs, make directories."""
        spec.kept = tuple(map(str, _updated(job)))
        if not spec.direct:
            return
        if spec.stored and not (not job.is_group() and job.is_shadow):
            self._workflow.async_run(_prepare_staged(job, self._workflow))
        elif job.is_group():
            removes = self._scheduler.stages
            self._workflow.async_run(prepare_group(job, self._workflow, removes=removes))
        else:
            self._workflow.async_run(job.prepare())
            if job.shadow_dir:
                self.use_shadow(job, spec, job.shadow_dir)

    def let_postprocess(self, job: Any, spec: JobSpec) -> None:
        """See to it that Snakemake does after a job what has not been done on its node."""
        usage = self._workflow.storage_settings.shared_fs_usage
        if spec.direct and not self._scheduler.stages and usage != SharedFSUsage.all():
            postprocess_direct(job, self._workflow, staged=bool(spec.stored))
        else:
            postprocess_respawned(job)

    def take_back(self, job: Any, spec: JobSpec, record: Record | None) -> None:
        """Undo what a start of a direct job may have done that ``prepare()`` does not undo.

        Parameters
        ----------
        job
            The job.
        spec
            Its specification.
        record
            The submission that is given up, if there was one.
        """
        if not spec.direct:
            return
        if job.is_group():
            unprotect(job)
        for file in _updated(job):
            restored = self._workflow.persistence.restore_output(Path(file))
            # What was there before and has no copy was not touched: the job never started.
            if not restored and record is not None and str(file) not in record.kept:
                shutil.rmtree(file) if os.path.isdir(file) else os.unlink(file)
        if spec.shadow_dir:
            shutil.rmtree(spec.shadow_dir, ignore_errors=True)

    def keep_updated(self, job: Any) -> None:
        """Keep update() outputs of a failed job that a second Snakemake has brought back.

        Snakemake brings them back here too, and removes what it has no copy of.
        """
        persistence = self._workflow.persistence
        for file in _updated(job):
            if not persistence._get_backup_path(Path(file)).exists():
                persistence.backup_output(Path(file))

    def use_shadow(self, job: Any, spec: JobSpec, directory: str) -> None:
        """Let a job run in a shadow directory."""
        job.shadow_dir = spec.shadow_dir = directory
        spec.cwd = os.path.abspath(directory)

    # -- respawned -----------------------------------------------------------------------------

    def _fill_respawned(self, job: Any, spec: JobSpec) -> None:
        """Let a job run by a second Snakemake, which waits for inputs and minds outputs."""
        declared = self._executor.envvars()
        spec.direct = False
        spec.env = {**changes(os.environ), **spec.env, **declared}
        apart = self._scheduler.seen if self._scheduler.brings_files else None
        command = self._executor.respawn_command(job, spec, self.directory(spec), apart=apart)
        spec.script = self._format_jobscript(job, command)
        spec.argv = ("/bin/sh",)
        members = list(job.jobs) if job.is_group() else [job]
        if self._scheduler.brings_files:
            self._fill_files(job, spec)
            spec.inputs += self._sources()
            # Pipes are made beforehand; a service's file goes away with the service, and what
            # only members of a group need with the group.
            gone = dispensable(job, self._workflow) if job.is_group() else set()
            spec.outputs = tuple(
                str(file)
                for member in members
                for file in member.output
                if not (is_flagged(file, "pipe") or is_flagged(file, "service") or file in gone)
            )
            spec.logs += tuple(str(member.benchmark) for member in members if member.benchmark)
        else:
            spec.inputs = tuple(str(file) for file in job.input)

    def _sources(self) -> tuple[str, ...]:
        """Return the files that the workflow is written in: Snakefiles, scripts, environments."""
        if self._source_files is None:
            found = (os.path.normpath(file) for file in self._workflow.dag.get_sources())
            kept = {file for file in found if not file.startswith(".snakemake/")}
            configs = map(os.path.relpath, self._workflow.overwrite_configfiles)
            self._source_files = tuple(sorted(kept.union(configs)))
        return self._source_files

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
        return JobDir.of("", spec, self._scheduler.seen_root()).mounted

    def _directory_of_command(self, job: Any, spec: JobSpec) -> str:
        """Return the job directory as the command of a direct job sees it.

        A relative path begins in the directory in which the command runs, and that may be a
        shadow directory: one level below the directory of all of them, whatever its name.
        """
        path = self.directory(spec)
        if os.path.isabs(path) or job.is_group() or not job.is_shadow:
            return path
        return os.path.relpath(path, f"{shadow.root(self._workflow)}/any")


def static_resources(rule: Any) -> dict[str, str | int]:
    """Return the resources of a rule that are the same for all of its jobs."""
    found = {}
    for name, resource in rule.resources.items():
        value = getattr(resource, "raw", resource)
        value = getattr(value, "value", value)
        if isinstance(value, (str, int)):
            found[name] = value
    return found


async def _prepare_staged(job: Any, workflow: Any) -> None:
    """Do what ``prepare()`` of a job does in storage; the rest is done where it runs."""
    for member in list(job.jobs) if job.is_group() else [job]:
        await member.remove_existing_output()
    await wait_for_files(job.input, latency_wait=workflow.execution_settings.latency_wait)


def _updated(job: Any) -> list[Any]:
    """Return the update() outputs of a job or group that are there."""
    members = list(job.jobs) if job.is_group() else [job]
    files = chain.from_iterable(member.output for member in members)
    return [file for file in files if is_flagged(file, "update") and os.path.lexists(file)]


def _addresses(jobs: Iterable[Any]) -> dict[str, str]:
    """Return where the files of jobs lie in Snakemake's storage, by their path here."""
    files = chain.from_iterable(chain(job.input, job.output, job.log) for job in jobs)
    return {str(file): file.storage_object.query for file in files if file.is_storage}


def _is_same(resource: Any, default: Any) -> bool:
    """Tell whether a resource of a rule is a default: by its text, or by its function."""
    value, usual = (getattr(r, "_value", None) for r in (resource, default))
    return bool(resource.raw == default.raw and (value == usual or not callable(usual)))


def _is_number(value: Any) -> bool:
    return re.fullmatch(r"\d+(\.0*)?", str(value).strip()) is not None


def _is_tbd(value: Any) -> bool:
    return str(value) == "<TBD>"


def changes(env: Mapping[str, str], own: Sequence[str] = ()) -> dict[str, str | None]:
    """Return how an environment differs from the one that this process was started with.

    With it come the variables named by ``own``, since a job may have none of this process's.
    """
    names: Iterable[str] = (name for name in env if name.isidentifier())
    changed: dict[str, str | None] = {
        name: env[name] for name in names if ENVIRONMENT_AT_IMPORT.get(name) != env[name]
    }
    changed |= {name: env[name] for name in own}
    for name in ENVIRONMENT_AT_IMPORT.keys() - env.keys():
        if name.isidentifier():
            changed[name] = None
    return changed
