"""Jobs into the queue: as arrays, under names that tell submissions apart."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from pipen_executors.exceptions import SchedulerError, TransientError
from pipen_executors.job import Job

from .commands import Commands
from .parse import QueueEntry
from .refusals import LimitReached, TooManyTasks

_LARGEST_ARRAY: Final = 2000
"""Tasks of an array at most, whatever the site allows: their wrappers' paths go with it."""
_LOG_NAME: Final = re.compile(r"[\w/.+=@-]+")
_STUB: Final = """#!/bin/bash -p
export PIPEN_JID=
set --{wrappers}
{task}exec /bin/bash -p "$1"
"""
# An array that nobody asked for is nothing that a command should see: programs that do know
# arrays would do one part of their work only. The values are those of a single job (qsub(1),
# ENVIRONMENTAL VARIABLES).
_TASK: Final = """PIPEN_JID=$JOB_ID.$SGE_TASK_ID
shift "$((SGE_TASK_ID - 1))"
SGE_TASK_ID=undefined SGE_TASK_FIRST=undefined SGE_TASK_LAST=undefined SGE_TASK_STEPSIZE=undefined
"""


def is_of(name: str, job: Job) -> bool:
    """Tell whether a name in the queue or in accounting is that of a job's submission.

    Grid Engine uses its job ids again. A submission has a token in its name: its job's, or
    that of the first job of an array.
    """
    return is_ours(name) if "." in job.jid else name.endswith(f".{job.token}")


def is_ours(name: str) -> bool:
    """Tell whether a name is that of any submission of a run."""
    return re.search(r"\.[0-9a-f]{8}$", name) is not None


class Submitter:
    """Submits jobs, each once.

    Parameters
    ----------
    commands
        Grid Engine.
    prefix
        What names in the queue begin with.
    log
        Where what comes before the wrapper is written; a path with ``$JOB_ID``.
    wrapper
        Returns the path of a job's wrapper, as the job sees it.
    """

    def __init__(
        self, commands: Commands, prefix: str, logs: str, wrapper: Callable[[Job], str]
    ) -> None:
        self._sge = commands
        self._prefix = prefix
        self._logs = logs
        self._wrapper = wrapper
        self._most_tasks = _LARGEST_ARRAY
        self._doubtful: set[str] = set()
        self.array_sizes: dict[str, int] = {}

    async def submit(
        self, jobs: Sequence[Job], options: Mapping[str, Any]
    ) -> Mapping[Job, str | SchedulerError]:
        """Submit one job, or several as an array, or as arrays as large as the site allows.

        Raises
        ------
        TransientError
            If Grid Engine could not be asked.
        """
        answers: dict[Job, str | SchedulerError] = {}
        rest = list(jobs)
        while rest:
            part = rest[: self._most_tasks]
            try:
                jids = await self._submit_together(part, options)
            except TooManyTasks as error:
                if len(part) > error.most > 0:
                    self._most_tasks = error.most
                    continue
                answers |= dict.fromkeys(part, error)
            except TransientError as error:
                if not answers and not isinstance(error, LimitReached):
                    raise
                return answers | dict.fromkeys(rest, error)
            except SchedulerError as error:
                answers |= dict.fromkeys(part, error)
            else:
                answers |= dict(zip(part, jids, strict=True))
            rest = rest[len(part) :]
        return answers

    async def _submit_together(self, jobs: Sequence[Job], options: Mapping[str, Any]) -> list[str]:
        array = len(jobs) > 1
        name = self._name(jobs[0], options, array)
        log = f"{self._logs}/$JOB_ID" + (".$TASK_ID" if array else "")
        options = {
            "wd": shlex.quote(jobs[0].spec.cwd),
            "j": "y",
            # The wrapper has its own files; this one is for what comes before it. qsub
            # takes "," ":" and "$" in a path for its own (sge_submit(1), -o).
            "o": shlex.quote(log) if _LOG_NAME.fullmatch(self._logs) else "/dev/null",
            **({"t": f"1-{len(jobs)}"} if array else {}),
            **options,
            "N": name,
        }
        if not array:
            options.pop("tc", None)  # qsub refuses it for what is no array
        wrappers = "".join(f" \\\n{shlex.quote(self._wrapper(job))}" for job in jobs)
        stub = _STUB.format(task=_TASK if array else "", wrappers=wrappers)
        base = await self._came_through(name) or await self._submit_once(name, options, stub)
        if not array:
            return [base]
        self.array_sizes[base] = len(jobs)
        return [f"{base}.{task}" for task in range(1, len(jobs) + 1)]

    async def _submit_once(self, name: str, options: Mapping[str, Any], stub: str) -> str:
        try:
            return await self._sge.submit(options, stub)
        except LimitReached:
            raise
        except TransientError:
            self._doubtful.add(name)
            raise

    async def _came_through(self, name: str) -> str:
        """Return the number of a submission that had no answer, if it is in the queue."""
        if name not in self._doubtful:
            return ""
        found = self._named(await self._sge.queue(), {name})
        return found[0].partition(".")[0] if found else ""

    async def remove_strays(self) -> None:
        """Delete what came through of submissions that seemed to have failed."""
        if self._doubtful:
            left = self._named(await self._sge.queue(), self._doubtful)
            if left:
                await self._sge.delete(left, {})

    @staticmethod
    def _named(queue: Mapping[str, QueueEntry], names: set[str]) -> list[str]:
        return [jid for jid, entry in queue.items() if entry.name in names]

    def _name(self, job: Job, options: Mapping[str, Any], array: bool) -> str:
        """Return the name in the queue; qsub -N allows few characters, and no leading digit."""
        spec = job.spec
        name = str(options.get("N", f"{self._prefix}-{spec.rule}"))
        if spec.wildcards and not array and "N" not in options:
            name += f"-{spec.label}"
        name = re.sub(r"[^\w.+=-]", "_", name, flags=re.ASCII)[:120]
        return f"{'j' if name[:1].isdigit() else ''}{name}.{job.token}"
