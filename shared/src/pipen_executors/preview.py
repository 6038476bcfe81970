"""What a run would submit: Snakemake is started as it would be, and ends before its first job.

Snakemake's own ``--dry-run`` puts another executor in the place of the one that is asked for, so
it cannot tell. Here the executor is the right one with all its settings, up to the point at which
it would start its engine; Snakemake takes it for a dry run, so that it locks nothing, makes no
environment and uploads nothing.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from unittest.mock import patch

from .exceptions import SchedulerError, UserError
from .executor import Lane, PipenExecutor
from .jobdir import Record, is_script
from .spec import JobSpec

NO_TOKEN: Final = "00000000"
"""Stands in a wrapper for the random name that each submission has."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A job as it would be submitted.

    Parameters
    ----------
    spec
        The job.
    files
        Its scripts, or the wrapper around them: paths that they would have, and texts.
    """

    spec: JobSpec
    files: Mapping[str, str]


def planned_jobs(
    arguments: Sequence[str], target: str, *, wrapped: bool
) -> tuple[list[Planned], list[UserError]]:
    """Return the jobs that a command line of Snakemake would submit.

    With them come the reasons why nothing can be told of others that are meant.

    Parameters
    ----------
    arguments
        What would follow ``snakemake`` (which may be there as well).
    target
        Which jobs: a rule, an output file, or a job id of Snakemake's.
    wrapped
        Whether their wrappers are wanted, not their scripts.

    Raises
    ------
    UserError
        If Snakemake fails, another executor is asked for, there is no such job to be run, or
        nothing can be told of any.
    """
    from snakemake.cli import main

    arguments = list(arguments)
    if os.path.basename(arguments[0]) == "snakemake":
        del arguments[0]
    # Behind "--" all words are targets.
    end = arguments.index("--") if "--" in arguments else len(arguments)
    arguments[end:end] = ["--quiet", "progress", "rules", "reason", "host"]
    planned: list[Planned] = []
    unknown: list[UserError] = []
    reached = False

    def look(executor: PipenExecutor) -> None:
        nonlocal reached
        reached = True
        for job in _jobs(executor, target, meant):
            try:
                planned.append(_as_planned(executor, job, wrapped))
            except UserError as error:
                unknown.append(error)

    meant = os.path.abspath(target)
    with _in_place_of_runs(look), contextlib.redirect_stdout(sys.stderr):
        try:
            main(arguments)
        except SystemExit as end:
            if end.code:
                raise UserError("Snakemake cannot run this; it says why above.") from None
    if not reached:
        raise UserError(
            "nothing is to be done, or not by a pipen executor: --executor pipen-… must be on the "
            "command line or in the profile that it names."
        )
    if not planned:
        none = UserError(f"Snakemake would submit no job that is known by {target!r}.")
        raise unknown[0] if unknown else none
    return planned, unknown


@contextlib.contextmanager
def _in_place_of_runs(look: Callable[[PipenExecutor], None]) -> Iterator[None]:
    """Let Snakemake end where an executor would begin, after a look at one of ours."""
    from snakemake.api import SnakemakeApi
    from snakemake.workflow import Workflow
    from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

    def another(real: type) -> type:
        class Another(real):  # type: ignore[misc]
            def __init__(self, *_: Any, **__: Any) -> None:
                raise SystemExit(0)

        return Another

    def one_of_ours(real: type[PipenExecutor]) -> type:
        class Preview(real):  # type: ignore[misc, valid-type]
            def _open(self, lane: Lane) -> None:
                """Start nothing."""

            def __post_init__(self) -> None:
                super().__post_init__()
                look(self)
                raise SystemExit(0)

        return Preview

    registry = ExecutorPluginRegistry()
    plugins = [registry.get_plugin(name) for name in registry.get_registered_plugins()]
    with contextlib.ExitStack() as stack:
        # Not before: Snakemake 9.20 drops --jobs while it reads the command line of a dry run.
        begin = SnakemakeApi.workflow

        def as_dry_run(*arguments: Any, **settings: Any) -> Any:
            for plugin in plugins:
                stack.enter_context(patch.object(plugin.common_settings, "dryrun_exec", True))
            return begin(*arguments, **settings)

        stack.enter_context(patch.object(SnakemakeApi, "workflow", as_dry_run))
        for plugin in plugins:
            make = one_of_ours if issubclass(plugin.executor, PipenExecutor) else another
            stack.enter_context(patch.object(plugin, "executor", make(plugin.executor)))
        # In a dry run Snakemake has groups where the run would have none.
        groups = property(lambda workflow: workflow.non_local_exec)
        stack.enter_context(patch.object(Workflow, "non_local_exec_or_dryrun", groups))
        yield


def _jobs(executor: PipenExecutor, target: str, path: str) -> list[Any]:
    """Return the jobs and groups to be run that a word names, whether they are ready or not."""
    dag = executor.workflow.dag
    found: dict[int, Any] = {}
    for job in dag.needrun_jobs():
        if job.is_norun or (job.is_local and not executor.workflow.local_exec):
            continue  # Snakemake's main process runs it
        outputs = {os.path.abspath(str(file)) for file in job.output}
        if target in (job.rule.name, str(job.jobid)) or path in outputs:
            whole = dag.get_job_group(job) or job
            found[id(whole)] = whole
    return list(found.values())


def _as_planned(executor: PipenExecutor, job: Any, wrapped: bool) -> Planned:
    """Return what would be submitted for a job.

    Raises
    ------
    UserError
        If that cannot be told, such as because it depends on files that are still to be made.
    """
    rule = ", ".join(sorted(job.rules)) if job.is_group() else job.rule.name
    if depends := sorted({*_to_be_determined(job)}):
        raise UserError(f"{rule}: files that are not there yet decide {', '.join(depends)}.")
    try:
        lane = executor.lane_for(job.resources, rule)
        spec = lane.specifier.specify(job)
        handle = lane.engine.make_job(spec)
        handle.record = Record(
            NO_TOKEN, handle.fingerprint, 1, spec.rule, spec.jobid, spec.products, None, 0.0
        )
        files = {"job.script": spec.script}
        if wrapped:
            name = os.path.basename(lane.scheduler.wrapper_path(handle))
            files = {name: lane.scheduler.wrap_job_script(handle)}
        else:
            own = ((name, data) for name, data in spec.files.items() if is_script(name))
            files |= {name: data.decode(errors="replace") for name, data in own}
        return Planned(spec, {handle.directory.file(name): files[name] for name in files})
    except (UserError, SchedulerError) as error:
        raise UserError(f"{rule}: {error}") from error
    except Exception as error:
        raise UserError(f"{rule}: what would be submitted cannot be told: {error!r}") from error


def _to_be_determined(job: Any) -> Iterator[str]:
    """Yield the parameters and resources that Snakemake cannot tell yet."""
    for member in job.jobs if job.is_group() else [job]:
        for kind, values in (("params", member.params), ("resources", member.resources)):
            for name, value in values.items():
                # The directory for temporary files is a matter of the node.
                if "<TBD>" in str(value) and name != "tmpdir":
                    yield f"{kind}.{name}"
