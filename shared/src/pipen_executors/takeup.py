"""What earlier runs have left under way: found again by each job that comes into the DAG.

Snakemake marks the outputs of a job that runs. When it starts again after it was killed, it
stops with IncompleteFilesException, before any executor exists, if a marked file is there
whose job it has not seen end; its advice (``--cleanup-metadata``) would take half an output
for a whole one while the job is still writing it. And it looks at its markers only once, at
the start: a job that comes into the DAG later, behind a checkpoint, is taken for done if its
outputs are there, half written or not.

The job directories know better. Here every job that comes into the DAG, whenever it does, is
looked up before Snakemake decides what needs to be run. One that an earlier run has submitted
and not taken in is run again, which for these executors means that it is attached to,
collected or replaced. Marked files of which the job directories know nothing stay
Snakemake's business as long as nothing has been submitted. Behind a checkpoint that ends
later, their jobs are run again: to stop then would cancel what runs, and to go on as
Snakemake does would give a wrong result.

Two methods of Snakemake's DAG are replaced, by ones that behave like the originals for
every other executor.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from . import filesystem
from .jobdir import JobDir, Record, open_jobs

_ATTRIBUTE: Final = "_pipen_unfinished"


def install() -> None:
    """Let Snakemake ask the job directories; harmless when called again."""
    import snakemake.api  # noqa: F401 - first: its modules import each other
    from snakemake.dag import DAG

    for method in (check_incomplete, update_needrun):
        original = getattr(DAG, method.__name__)
        if not hasattr(original, "__wrapped__"):
            method.__wrapped__ = original  # type: ignore[attr-defined]
            setattr(DAG, method.__name__, method)


async def check_incomplete(dag: Any) -> None:
    """Leave it to :func:`update_needrun`, which comes next, to look for incomplete files."""
    if _unfinished(dag) is None:
        await check_incomplete.__wrapped__(dag)  # type: ignore[attr-defined]


async def update_needrun(dag: Any, *arguments: Any, **options: Any) -> None:
    """Decide what needs to be run as Snakemake does, and run jobs under way again."""
    unfinished = _unfinished(dag)
    if unfinished is not None:
        await unfinished.look_at_new_jobs()
    await update_needrun.__wrapped__(dag, *arguments, **options)  # type: ignore[attr-defined]


def _unfinished(dag: Any) -> Unfinished | None:
    """Return what earlier runs have left, if the run is one of our executors'."""
    from .executor import PipenExecutor

    plugin = dag.workflow.executor_plugin
    if plugin is None or not issubclass(plugin.executor, PipenExecutor) or dag.ignore_incomplete:
        return None
    if not hasattr(dag, _ATTRIBUTE):
        # Snakemake's Python interface may give no settings at all.
        settings = dag.workflow.executor_settings or plugin.settings_cls()
        roots = plugin.executor.roots(settings)
        setattr(dag, _ATTRIBUTE, Unfinished(dag, plugin.name, roots))
    found: Unfinished = getattr(dag, _ATTRIBUTE)
    return found


def unfinished_of(dag: Any) -> Unfinished | None:
    """Return what was found for the DAG of a run, if it was looked for."""
    return getattr(dag, _ATTRIBUTE, None)


class Unfinished:
    """Submissions of earlier runs whose results have not been taken in.

    Parameters
    ----------
    dag
        Snakemake's DAG.
    executor
        Name of the executor.
    roots
        Directories of job directories.
    """

    def __init__(self, dag: Any, executor: str, roots: Sequence[Path]) -> None:
        self._dag = dag
        self._executor = executor
        self._seen: set[str] = set()
        self._by_key: dict[str, tuple[JobDir, Record]] = {}
        self._by_product: dict[str, set[str]] = {}
        self.taken_in: list[JobDir] = []
        """Jobs whose results Snakemake has taken in, although their records are still there:
        it was killed in between, or another executor has run them since."""
        for root in roots:
            self._by_key |= filesystem.repeat(open_jobs, os.path.abspath(root))
        for key, (_, record) in self._by_key.items():
            for product in record.products:
                self._by_product.setdefault(product, set()).add(key)

    def with_outputs(self, outputs: Iterable[str]) -> dict[str, tuple[JobDir, Record]]:
        """Return the submissions, by the keys of their jobs, that write any of some files."""
        keys = {key for output in outputs for key in self._by_product.get(output, ())}
        return {key: self._by_key[key] for key in keys}

    async def look_at_new_jobs(self) -> None:
        """Let jobs be run again that are under way, of those that have come into the DAG.

        Raises
        ------
        IncompleteFilesException
            If there are marked files that no executor of ours knows, before anything has
            been submitted.
        """
        from snakemake.exceptions import IncompleteFilesException

        dag, first = self._dag, not self._seen
        persistence = dag.workflow.persistence
        under_way: set[Any] = set()
        unknown: list[Any] = []
        submitted: dict[str, list[Any]] = {}
        for job in list(dag.jobs):
            outputs = [str(file) for file in job.output]
            if self._seen.issuperset(outputs):
                continue
            self._seen.update(outputs)
            if found := self.with_outputs(outputs):
                for key in found:
                    submitted.setdefault(key, []).append(job)
                continue
            marked = [file for file in await persistence.incomplete(job) if file is not None]
            if marked and self._is_ours(job):  # killed while it was being submitted
                under_way.update(marked)
            else:
                unknown += marked
        for key, jobs in submitted.items():
            directory, record = self._by_key[key]
            rc = filesystem.repeat(directory.rc)
            if not await is_taken_in(jobs, rc, record.direct, persistence):
                # All jobs of a group, or those that are left would be another group.
                under_way.update(record.products)
            elif self._seen.issuperset(record.products):
                self.taken_in.append(directory)
        if under_way and first and persistence.locked:
            _explain_lock(self._executor)
        dag.forcefiles.update(under_way)  # what --rerun-incomplete does with marked files
        if not unknown:
            return
        if not dag.workflow.dag_settings.force_incomplete:
            if dag.workflow.scheduler is None:
                raise IncompleteFilesException(unknown)
            _warn_of_unknown(unknown)
        dag.forcefiles.update(unknown)

    def _is_ours(self, job: Any) -> bool:
        """Tell whether Snakemake's marker names a job of ours."""
        jobids = self._dag.workflow.persistence.external_jobids(job)
        return any(jobid.startswith("pipen") and ":" in jobid for jobid in jobids)


async def is_taken_in(jobs: Sequence[Any], rc: int | None, direct: bool, persistence: Any) -> bool:
    """Tell whether Snakemake has taken in the result of a submission.

    It removes its markers last. Those of a job that is not direct are gone earlier: its second
    Snakemake removes them, and leaves it to the main process to write metadata. What has
    metadata that are about the very outputs that are there was taken in, by whichever
    executor.

    Parameters
    ----------
    jobs
        The job, or the members of the group.
    rc
        Exit status of the submission, if it has ended.
    direct
        Whether it was the rule's own command.
    persistence
        Snakemake's.
    """
    from snakemake.io import is_flagged

    for job in jobs:
        if any(await persistence.incomplete(job)):
            return False
    if rc == 0 and direct:
        return not any(persistence.external_jobids(job) for job in jobs)
    described = False
    for job in jobs:
        for file in job.output:
            if not await file.exists():
                if is_flagged(file, "temp"):
                    continue
                return False
            metadata = persistence.metadata(file) or {}
            if metadata.get("endtime") != (await file.mtime()).local_or_storage():
                return False
            described = True
    return described


def _explain_lock(executor: str) -> None:
    from snakemake.logging import logger

    logger.warning(
        f"An earlier run with {executor} in this directory was cut off; its jobs go on, and "
        "nothing of them is lost. If no other Snakemake is at work here, run 'snakemake --unlock' "
        "and then the same command again: running jobs are taken up, finished ones are collected."
    )


def _warn_of_unknown(files: Sequence[Any]) -> None:
    from snakemake.logging import logger

    shown = ", ".join(map(str, files[:5])) + (" …" if len(files) > 5 else "")
    logger.warning(
        f"Marked as incomplete by an earlier run of another executor: {shown}. The jobs behind "
        "the checkpoint that make these files are run again, as with --rerun-incomplete."
    )
