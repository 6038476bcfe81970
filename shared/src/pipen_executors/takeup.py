"""Telling Snakemake that output of a job under way is not "incomplete".

After a killed run Snakemake stops with IncompleteFilesException, before any executor
exists, when a file is there whose job it has not seen end; its advice
(``--cleanup-metadata``) would take half an output for a whole one while the job is still
writing it. The job directories know better: such a job is run again, which for these
executors means that it is taken up. What they do not know of stays Snakemake's business.

This is the one place where a method of Snakemake is replaced. It behaves like the
original for every other executor.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import filterfalse
from pathlib import Path
from typing import Any

from .jobdir import JobDir, place
from .spec import job_key, job_label


def install() -> None:
    """Let Snakemake ask the job directories; harmless when called again."""
    import snakemake.api  # noqa: F401 - first: its modules import each other
    from snakemake.dag import DAG

    if not hasattr(DAG.check_incomplete, "__wrapped__"):
        check_incomplete.__wrapped__ = DAG.check_incomplete  # type: ignore[attr-defined]
        DAG.check_incomplete = check_incomplete


async def check_incomplete(dag: Any) -> None:
    """Check for incomplete files as Snakemake does, but run jobs under way again."""
    from snakemake.exceptions import IncompleteFilesException

    from .executor import PipenExecutor

    plugin = dag.workflow.executor_plugin
    if plugin is None or not issubclass(plugin.executor, PipenExecutor):
        await check_incomplete.__wrapped__(dag)  # type: ignore[attr-defined]
        return
    roots = plugin.executor.roots(dag.workflow.executor_settings)
    if dag.workflow.persistence.locked and any(_under_way(job, roots) for job in dag.jobs):
        _explain_lock(plugin.name)
    if dag.ignore_incomplete or dag.workflow.dag_settings.force_incomplete:
        await check_incomplete.__wrapped__(dag)  # type: ignore[attr-defined]
        return
    unknown = []
    for job in filterfalse(dag.needrun, dag.jobs):
        files = [file for file in await dag.workflow.persistence.incomplete(job) if file]
        if files and _under_way(job, roots):
            dag.forcefiles.update(files)  # what --rerun-incomplete would do
        else:
            unknown += files
    if unknown:
        raise IncompleteFilesException(unknown)


def _under_way(job: Any, roots: Sequence[Path]) -> bool:
    """Tell whether a job was submitted and its result has not been taken in."""
    wildcards = dict(job.wildcards_dict or {})
    products = [str(file) for file in job.output]
    below = place(job.rule.name, job_label(wildcards), job_key(job.rule.name, products, wildcards))
    return any(JobDir(str(root / below)).record() is not None for root in roots)


def _explain_lock(executor: str) -> None:
    from snakemake.logging import logger

    logger.warning(
        f"An earlier run with {executor} in this directory was cut off; its jobs go on, and "
        "nothing of them is lost. If no other Snakemake is at work here, run 'snakemake --unlock' "
        "and then the same command again: running jobs are taken up, finished ones are collected."
    )
