"""Submissions by sbatch, also those that went out and were never answered."""

from __future__ import annotations

import contextlib
import secrets
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from pipen_executors.exceptions import SchedulerError, TransientError
from pipen_executors.job import Job

from .commands import Commands
from .parse import LimitReached

_STUB = """#!/bin/bash -p
export PIPEN_KILL_GRACE={grace} PIPEN_SLURM_CLUSTER={cluster} PIPEN_JID=
set --{wrappers}
{task}exec /bin/bash -p "$1"
"""
# An array that nobody asked for is nothing that a command should see: programs that do know
# arrays would do one part of their work only (sbatch(1), OUTPUT ENVIRONMENT VARIABLES).
_TASK = """PIPEN_JID=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID$PIPEN_SLURM_CLUSTER
shift "$SLURM_ARRAY_TASK_ID"
unset -v ${!SLURM_ARRAY_@}
"""


class Submissions:
    """The submissions of one run.

    sbatch may give up waiting for slurmctld after the job has been taken. So each submission
    carries a mark in its comment, by which it is looked for before it is repeated.

    Parameters
    ----------
    slurm
        Slurm's commands.

    Attributes
    ----------
    array_sizes
        Number of tasks of each array, by its id.
    kill_grace
        Seconds that a cancelled command has before its wrapper kills it.
    """

    kill_grace = 10

    def __init__(self, slurm: Commands) -> None:
        self._slurm = slurm
        self._run = secrets.token_hex(4)
        self._doubtful: dict[str, str] = {}
        self.array_sizes: dict[str, int] = {}

    async def make(
        self,
        jobs: Sequence[Job],
        wrappers: Sequence[str],
        options: Mapping[str, Any],
        prefix: str,
        workdir: str,
    ) -> list[str]:
        """Submit one job, or several as an array; return their ids.

        Parameters
        ----------
        jobs
            Jobs that ask for the same things.
        wrappers
            Paths of their wrappers on the nodes.
        options
            sbatch's options for them.
        prefix
            What their names in the queue begin with.
        workdir
            Directory of the job directories, as the nodes see it.

        Raises
        ------
        SchedulerError
            If sbatch refuses them.
        TransientError
            If it is worth trying again.
        """
        clusters = options.get("clusters", "")
        mark = f"pipen {self._run}.{jobs[0].token}.{len(jobs)}"
        base, cluster = await self._came_through(mark)
        if not base:
            own = _own_options(jobs, prefix, workdir.replace("%", "%%"))
            comment = f"{options.get('comment', own.pop('comment'))} ({mark})"
            stub = _STUB.format(
                task=_TASK if len(jobs) > 1 else "",
                wrappers="".join(f" \\\n{shlex.quote(wrapper)}" for wrapper in wrappers),
                grace=self.kill_grace,
                cluster='";$SLURM_CLUSTER_NAME"' if clusters else "",
            )
            try:
                base, cluster = await self._slurm.submit(
                    {**own, **options, "comment": comment}, stub
                )
            except LimitReached:
                raise
            except TransientError:
                self._doubtful[mark] = clusters
                raise
        suffix = f";{cluster}" if cluster else ""
        if len(jobs) == 1:
            return [base + suffix]
        self.array_sizes[base] = len(jobs)
        return [f"{base}_{task}{suffix}" for task in range(len(jobs))]

    async def _came_through(self, mark: str) -> tuple[str, str]:
        """Return the id of a submission to which Slurm gave no answer, if it is there."""
        if mark not in self._doubtful:
            return "", ""
        clusters = self._doubtful[mark]
        found = await self._slurm.marked(mark, clusters)
        return next(iter(found), ""), clusters if found else ""

    async def cancel_doubtful(self) -> None:
        """Cancel what came through of submissions that seemed to have failed."""
        for clusters in set(self._doubtful.values()):
            with contextlib.suppress(SchedulerError):
                found = await self._slurm.marked(f"pipen {self._run}.", clusters)
                left = [
                    jid for jid, text in found.items() if any(m in text for m in self._doubtful)
                ]
                if left:
                    suffix = f";{clusters}" if clusters else ""
                    await self._slurm.cancel([jid + suffix for jid in left], {})


def queue_name(prefix: str, rule: str) -> str:
    """Return what the names in the queue of a rule's jobs begin with."""
    return f"{prefix}-{rule}"


def _own_options(jobs: Sequence[Job], prefix: str, workdir: str) -> dict[str, Any]:
    """Return the options that the user may replace."""
    first = jobs[0].spec
    name = queue_name(prefix, first.rule)
    if len(jobs) == 1 and first.wildcards:
        name += f"-{first.label}"
    options = {
        "job-name": name,
        "comment": f"jobid {','.join(job.spec.jobid for job in jobs[:20])}",
        "chdir": first.cwd,
        # The wrapper has its own files; this one is for what slurmstepd has to say.
        "output": f"{workdir}/.slurm/{'%A_%a' if len(jobs) > 1 else '%j'}.log",
    }
    return {**options, "array": f"0-{len(jobs) - 1}"} if len(jobs) > 1 else options
