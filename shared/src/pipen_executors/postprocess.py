"""What Snakemake does after a direct job of which only some things are shared with its node.

``Job.postprocess`` decides by ``--shared-fs-usage`` what a second Snakemake has done on the
node already. A direct job had none: for it the setting is what its files were like.
"""

from __future__ import annotations

import shutil
from typing import Any

from snakemake.io import IOFile, is_flagged
from snakemake_interface_executor_plugins.settings import SharedFSUsage

from .staging import in_storage

_WORK_FILES = frozenset({SharedFSUsage.INPUT_OUTPUT, SharedFSUsage.STORAGE_LOCAL_COPIES})


def postprocess_direct(job: Any, workflow: Any, *, staged: bool) -> None:
    """Let Snakemake do after a direct job or group what nobody has done on its node.

    Parameters
    ----------
    job
        The job or group.
    workflow
        Its workflow.
    staged
        Whether it has copied its files to its node and back by itself.
    """
    settings = workflow.storage_settings
    usage = frozenset(settings.shared_fs_usage)
    if staged:
        wanted = usage - _WORK_FILES if any(map(_makes_in_storage, _members(job))) else usage
    else:
        wanted = usage | _WORK_FILES
    original = type(job).postprocess

    async def postprocess(error: bool = False, **options: Any) -> None:
        settings.shared_fs_usage = wanted
        try:
            await original(job, error=error, **options)
        finally:
            settings.shared_fs_usage = usage
            kept = error and workflow.execution_settings.keep_incomplete
            if staged and not kept and not job.is_group() and job.shadow_dir:
                shutil.rmtree(job.shadow_dir, ignore_errors=True)

    job.postprocess = postprocess


def postprocess_respawned(job: Any) -> None:
    """Let Snakemake do after a job what it does by itself, should it have been direct before."""
    vars(job).pop("postprocess", None)


async def check_ensured(job: Any, stored: dict[str, str]) -> None:
    """Check the outputs in storage that a rule has marked with ``ensure()``.

    Raises
    ------
    WorkflowError
        If one is empty, or has another checksum.
    """
    for member in _members(job):
        files = []
        for file in member.output:
            if is_flagged(file, "ensure") and str(file) in stored:
                files.append(IOFile(stored[str(file)], rule=member.rule))
                files[-1].clone_flags(file, skip_storage_object=True)
        await member.dag.handle_ensure(member, files)


def _members(job: Any) -> list[Any]:
    return list(job.jobs) if job.is_group() else [job]


def _makes_in_storage(job: Any) -> bool:
    return bool(in_storage([*job.output, *job.log, job.benchmark]))
