"""A scheduler without a run: for what is done from a second terminal."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from .exceptions import SchedulerError, UserError
from .history import write_accounted
from .hooks import Hooks
from .profiles import Profile, read_profile
from .runs import Attempt, JobStory, Run
from .settings import Checked, check
from .spec import JobSpec
from .states import Presence

if TYPE_CHECKING:
    from .job import Job
    from .scheduler import SchedulerPostInit

BACKENDS: Final = ("local", "slurm", "sge", "ssh", "container", "gbatch")
_PATIENCE: Final = 120.0


def plugin_of(backend: str) -> Any:
    """Return the module of an executor by the name of its scheduler.

    Raises
    ------
    UserError
        If it is not installed.
    """
    name = f"snakemake_executor_plugin_pipen_{backend}"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise UserError(
            f"there is no executor pipen-{backend} here: pip install "
            f"snakemake-executor-plugin-pipen-{backend}"
        ) from None


def checked_settings(backend: str, given: dict[str, Any]) -> Checked:
    """Return the settings of an executor, read as a run reads them.

    Raises
    ------
    UserError
        If it is not installed, or a setting cannot be right.
    """
    import snakemake.api  # noqa: F401  - whose modules import each other, in this order only

    prefix = f"pipen-{backend}"
    settings = plugin_of(backend).ExecutorSettings(**given)
    profile = read_profile(settings.profile, f"--{prefix}-profile") if settings.profile else None
    return check(settings, prefix, profile)


def checked_options(backend: str, profile: Profile) -> Checked:
    """Return the settings of an executor where a profile alone gives them.

    Raises
    ------
    UserError
        If it is not installed, or a setting cannot be right.
    """
    import snakemake.api  # noqa: F401  - see checked_settings

    return check(plugin_of(backend).ExecutorSettings(), f"pipen-{backend}", profile)


class NoRun:
    """What a scheduler may ask of the run that it is for, where there is none.

    Parameters
    ----------
    tell
        Called with what would be told to the user of a run, and ``warning=True`` for a warning.
    """

    def __init__(self, tell: Callable[..., None] = lambda text, warning=False: None) -> None:
        from snakemake.settings.types import ExecutionSettings, StorageSettings

        self._tell = tell
        self.workflow = SimpleNamespace(
            execution_settings=ExecutionSettings(),
            storage_settings=StorageSettings(),
            workdir_init=os.getcwd(),
            included=(),
            overwrite_configfiles=(),
            sourcecache=SimpleNamespace(cache_path="", runtime_cache_path=""),
        )

    def on_message(self, text: str, *, warning: bool = False) -> None:
        """Tell the user something."""
        self._tell(text, warning=warning)


def make_scheduler(backend: str, root: Path, given: dict[str, Any]) -> SchedulerPostInit:
    """Return a scheduler as a run with the same settings has it, not started yet."""
    checked = checked_settings(backend, given)
    executor = plugin_of(backend).Executor
    scheduler: SchedulerPostInit = executor.make_scheduler(NoRun(), root, checked)
    scheduler.hooks = Hooks((), lambda text: None)
    return scheduler


def cancel(run: Run, stories: Sequence[JobStory]) -> list[JobStory]:
    """End jobs of a run that is no more, through its scheduler; return those that were there.

    What waits is claimed first (:meth:`JobDir.claim`): should the scheduler start it after
    all, it ends without doing anything.

    Raises
    ------
    UserError
        If the run is another user's.
    SchedulerError
        If the scheduler cannot be used, or jobs are still there after two minutes.
    """
    from .job import Job

    if not run.is_mine:
        raise UserError(
            f"the run in {run.root} is another user's ({run.owner}): only they can cancel its jobs"
        )
    jobs: dict[Job, JobStory] = {}
    for story in stories:
        record = story.files.record()
        if record is None:
            continue
        story.files.claim(record.token)
        spec = JobSpec(
            story.rule, story.wildcards, story.outputs, story.jobid, (), "", run.cwd, run.cwd
        )  # fmt: skip
        job = Job(len(jobs), spec, story.files)
        job.record = record
        job._jid = story.files.jid(record.token) or None
        if job.jid:
            jobs[job] = story
    if not jobs:
        return []
    scheduler = make_scheduler(run.scheduler, run.root, dict(run.settings))
    found = asyncio.run(_end(scheduler, list(jobs)))
    return [jobs[job] for job in found]


def add_accounting(run: Run) -> None:
    """Add to a run what its scheduler's accounting has of jobs that did not measure all.

    It is asked once for all of them, and what it says is kept in the history.

    Raises
    ------
    SchedulerError, UserError
        If accounting could not be asked.
    """
    wanted: dict[str, tuple[JobStory, Attempt]] = {}
    for job in run.jobs.values():
        for attempt in job.attempts:
            measured = attempt.cpu is not None and attempt.memory is not None
            if attempt.phase.is_final and attempt.jid and not (measured or attempt.accounted):
                wanted[attempt.jid] = job, attempt
    if not wanted or run.scheduler not in BACKENDS:
        return
    if not plugin_of(run.scheduler).Executor.has_accounting:
        return
    since = min(attempt.submitted or run.begun for _, attempt in wanted.values())
    # A history of another user's must not say which commands are run.
    scheduler = make_scheduler(run.scheduler, run.root, dict(run.settings) if run.is_mine else {})
    known = asyncio.run(scheduler.accounted(list(wanted), since))
    told = []
    for jid, facts in known.items():
        job, attempt = wanted[jid]
        attempt.add_accounting(facts)
        told.append((job.key, attempt.number, facts))
    if told and run.is_mine:
        with contextlib.suppress(OSError):
            write_accounted(str(run.root), run.id, told)


async def _end(scheduler: SchedulerPostInit, jobs: Sequence[Job]) -> list[Job]:
    await scheduler.start()
    try:
        present = await _present(scheduler, jobs)
        for start in range(0, len(present), scheduler.kill_chunk):
            await scheduler.kill_jobs(present[start : start + scheduler.kill_chunk])
        try:
            async with asyncio.timeout(_PATIENCE):
                while await _present(scheduler, present):
                    await asyncio.sleep(0.2)
        except TimeoutError:
            left = ", ".join(job.jid for job in await _present(scheduler, present))
            raise SchedulerError(f"still there after {_PATIENCE:g} s: {left}") from None
    finally:
        await scheduler.stop()
    return present


async def _present(scheduler: SchedulerPostInit, jobs: Sequence[Job]) -> list[Job]:
    if not jobs:
        return []
    reports = await scheduler.query_jobs(jobs)
    return [
        job for job in jobs if job in reports and reports[job].presence is not Presence.GONE
    ]  # fmt: skip
