"""How jobs ended that did not say so themselves: what Batch says, beside what they left."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence

from pipen_executors.exceptions import SchedulerError, TransientError
from pipen_executors.job import Job
from pipen_executors.states import ExitReason, Outcome

from . import ends, logs
from .calls import Calls
from .jobs import Jid

Answer = Outcome | TransientError | None


async def explain(jobs: Sequence[Job], calls: Calls, project: str) -> Mapping[Job, Answer]:
    """Say how tasks ended, by their events.

    Parameters
    ----------
    jobs
        Tasks of any number of jobs of Batch, which are asked for at once.
    calls
        Of the Batch API.
    project
        In whose log is what a task wrote whose script never ran.

    Returns
    -------
    For each job how it ended, None if Batch runs it again, the error if Batch did not answer.
    A job of which Batch knows nothing that it has not said itself is left out.
    """
    members: dict[str, list[Job]] = {}
    for job in jobs:
        if job.jid:
            members.setdefault(Jid.parse(job.jid).job, []).append(job)
    found = await asyncio.gather(
        *(_explain(base, some, calls, project) for base, some in members.items())
    )
    return {job: answer for answers in found for job, answer in answers.items()}


async def _explain(
    base: str, members: Sequence[Job], calls: Calls, project: str
) -> dict[Job, Answer]:
    """Say how tasks of one job of Batch ended."""
    try:
        found = await calls.job(base)
        tasks = await calls.tasks(base) if found is not None else {}
    except TransientError as error:
        return dict.fromkeys(members, error)
    if found is None:
        return {}
    answers: dict[Job, Answer] = {}
    for job in members:
        number = Jid.parse(job.jid).task
        task = tasks.get(number)
        answer = ends.end_of_job(found.status) if task is None else ends.end_of(task, found.status)
        told = job.directory.rc() is not None
        if told and answer is None:
            continue  # the task is about to end
        if answer is not None and answer.reason is ExitReason.LAUNCH_FAILURE:
            if task is None or not job.directory.info(job.token):
                await _keep_log(job, project, found.uid, number)
            elif told:
                continue  # its own exit status is all there is to say
            else:
                answer = ends.end_of_command(task)
        answers[job] = answer
    return answers


async def _keep_log(job: Job, project: str, uid: str, task: int) -> None:
    """Fetch what a task wrote whose script never ran, in place of its stderr."""
    with contextlib.suppress(SchedulerError):
        if lines := await logs.last_lines(project, uid, task):
            job.directory.write("job.stderr", "\n".join(lines) + "\n")
