"""What Batch says of jobs and tasks, read: pure functions over its messages.

The states are those of ``JobStatus.State`` and ``TaskStatus.State``; the reserved exit codes
are in Batch's documentation, "Troubleshooting", "Reserved exit codes".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from google.cloud import batch_v1

from pipen_executors.states import ExitReason, Outcome, Presence, Report

_Job: Final = batch_v1.JobStatus.State
_Task: Final = batch_v1.TaskStatus.State

_WAITS: Final = (_Job.STATE_UNSPECIFIED, _Job.QUEUED, _Job.SCHEDULED)
_RUNS: Final = (_Job.RUNNING, _Job.CANCELLATION_IN_PROGRESS, _Job.DELETION_IN_PROGRESS)
_TASK_ENDED: Final = (_Task.SUCCEEDED, _Task.FAILED, _Task.UNEXECUTED)
_TASK_GOES_ON: Final = (_Task.PENDING, _Task.ASSIGNED, _Task.RUNNING)

RESERVED: Final = {
    50001: (ExitReason.PREEMPTED, "the Spot machine was taken away"),
    50002: (ExitReason.NODE_FAILURE, "the machine no longer reported"),
    50003: (ExitReason.NODE_FAILURE, "the machine was rebooted"),
    50004: (ExitReason.NODE_FAILURE, "the task did not respond any more"),
    50005: (ExitReason.TIMEOUT, "over maxRunDuration"),
    50006: (ExitReason.NODE_FAILURE, "the machine was recreated"),
}
"""Exit codes by which Batch itself ends a task."""

_EXIT_CODE: Final = re.compile(r"exit code (\d+)")
_STALLED: Final = re.compile(
    r"quota|RESOURCE_POOL_EXHAUSTED|STOCKOUT|not have enough resources", re.I
)


def presence_of(state: batch_v1.JobStatus.State) -> Presence:
    """Say whether a job waits, runs, or has ended."""
    if state in _WAITS:
        return Presence.PENDING
    return Presence.RUNNING if state in _RUNS else Presence.GONE


def report_of(status: batch_v1.JobStatus) -> Report:
    """Return what a job's own state says of all of its tasks."""
    presence = presence_of(status.state)
    return Report(presence, stall_of(status) if presence is Presence.PENDING else "")


def stall_of(status: batch_v1.JobStatus) -> str:
    """Say why a job waits, where that is not just its turn: quotas, or no machines left."""
    for event in reversed(status.status_events):
        if _STALLED.search(event.description):
            return " ".join(event.description.split())
    return ""


def is_behind(job: batch_v1.Job, untold: int) -> bool:
    """Tell whether fewer tasks of a job go on than have not told their end themselves.

    By the counts that come with the job.
    """
    if presence_of(job.status.state) is Presence.GONE:
        return False
    groups = job.status.task_groups
    counts = groups["group0"].counts if "group0" in groups else {}
    ended = sum(counts.get(_Task(state).name, 0) for state in _TASK_ENDED)
    return job.task_groups[0].task_count - ended < untold


def goes_on(task: batch_v1.TaskStatus) -> bool:
    """Tell whether a task waits, runs, or is run once more."""
    return task.state in _TASK_GOES_ON


def ended_badly(task: batch_v1.TaskStatus) -> bool:
    """Tell whether a task has ended without success.

    Of one that ended well, while others of its job go on, the word is still on its way.
    """
    return task.state in _TASK_ENDED and task.state != _Task.SUCCEEDED


def exit_code(events: Sequence[batch_v1.StatusEvent]) -> int | None:
    """Return the exit code of the last attempt of a task; earlier attempts do not count."""
    for event in reversed(events):
        if code := event.task_execution.exit_code:
            return int(code)
        if match := _EXIT_CODE.search(event.description):
            return int(match[1])
    return None


def end_of(task: batch_v1.TaskStatus, job: batch_v1.JobStatus | None) -> Outcome | None:
    """Say how a task ended whose wrapper left no exit status; None if it has not ended.

    Parameters
    ----------
    task
        The task.
    job
        Its job, where that has been asked for.
    """
    if job is not None and job.state in (_Job.CANCELLED, _Job.CANCELLATION_IN_PROGRESS):
        return Outcome(ExitReason.CANCELLED, detail="the job was cancelled in Batch")
    if goes_on(task):
        return None
    code = exit_code(task.status_events)
    if code in RESERVED:
        reason, words = RESERVED[code]
        return Outcome(reason, detail=f"{words} (exit code {code} of Batch)")
    if task.state == _Task.SUCCEEDED:
        detail = "the task ended well, but the job's script did not run: see its commands"
        return Outcome(ExitReason.LAUNCH_FAILURE, detail=detail)
    said = task.status_events[-1].description if task.status_events else ""
    return Outcome(ExitReason.LAUNCH_FAILURE, code, " ".join(said.split()))


def end_of_command(task: batch_v1.TaskStatus) -> Outcome:
    """Say how a task ended whose wrapper ran and whose files were lost with the machine.

    A task ends well only if its command has (``GbatchScheduler.final_exit``).
    """
    if task.state == _Task.SUCCEEDED:
        return Outcome(ExitReason.COMPLETED, 0)
    return Outcome(ExitReason.NONZERO_EXIT, detail="what it wrote was lost with the machine")


def end_of_job(job: batch_v1.JobStatus) -> Outcome:
    """Say how a job ended of which there is no task."""
    said = job.status_events[-1].description if job.status_events else ""
    if job.state in (_Job.CANCELLED, _Job.CANCELLATION_IN_PROGRESS, _Job.DELETION_IN_PROGRESS):
        return Outcome(ExitReason.CANCELLED, detail="the job was cancelled in Batch")
    return Outcome(ExitReason.LAUNCH_FAILURE, detail=" ".join(said.split()))
