"""What Batch says of jobs and tasks, read."""

from __future__ import annotations

from typing import Any

import pytest
from google.cloud import batch_v1

from pipen_executors.states import ExitReason, Presence
from snakemake_executor_plugin_pipen_gbatch import ends

Job = batch_v1.JobStatus.State
Task = batch_v1.TaskStatus.State

# The wording is that of Batch's documentation, "Troubleshooting".
QUOTA = (
    "VM in Managed Instance Group meets error: Batch Error: code - CODE_GCE_QUOTA_EXCEEDED, "
    "description - error count is 4, latest message example: Instance 'x' creation failed: "
    "Quota 'CPUS' exceeded.  Limit: 8.0 in region us-central1."
)


def task(state: int, *events: tuple[str, int | None]) -> batch_v1.TaskStatus:
    return batch_v1.TaskStatus(
        state=state,
        status_events=[
            batch_v1.StatusEvent(
                description=text,
                task_execution=None if code is None else {"exit_code": code},
            )
            for text, code in events
        ],
    )


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (50001, ExitReason.PREEMPTED),
        (50002, ExitReason.NODE_FAILURE),
        (50003, ExitReason.NODE_FAILURE),
        (50004, ExitReason.NODE_FAILURE),
        (50005, ExitReason.TIMEOUT),
        (50006, ExitReason.NODE_FAILURE),
    ],
)
def test_reserved_exit_codes_are_named(code: int, reason: ExitReason) -> None:
    outcome = ends.end_of(task(Task.FAILED, ("failed", code)), None)
    assert outcome is not None
    assert outcome.reason is reason
    assert str(code) in outcome.detail
    assert outcome.rc is None, "it is no exit status of the command"


def test_the_last_attempt_counts() -> None:
    again = task(Task.RUNNING, ("taken away", 50001), ("Task state is updated to RUNNING", None))
    assert ends.end_of(again, None) is None
    well = task(Task.FAILED, ("x", 50001), ("Task … with exit code 127.", None))
    outcome = ends.end_of(well, None)
    assert outcome is not None
    assert (outcome.reason, outcome.rc) == (ExitReason.LAUNCH_FAILURE, 127)


def test_success_without_the_script_is_a_failure() -> None:
    outcome = ends.end_of(task(Task.SUCCEEDED), None)
    assert outcome is not None
    assert outcome.reason is ExitReason.LAUNCH_FAILURE


def test_cancelled_in_the_console() -> None:
    job = batch_v1.JobStatus(state=Job.CANCELLED)
    outcome = ends.end_of(task(Task.RUNNING), job)
    assert outcome is not None
    assert outcome.reason is ExitReason.CANCELLED
    assert ends.end_of_job(job).reason is ExitReason.CANCELLED


def test_a_stall_is_shown() -> None:
    status = batch_v1.JobStatus(
        state=Job.SCHEDULED,
        status_events=[{"description": QUOTA}, {"description": "Job state is set from QUEUED"}],
    )
    report = ends.report_of(status)
    assert report.presence is Presence.PENDING
    assert "CODE_GCE_QUOTA_EXCEEDED" in report.reason
    assert "Limit: 8.0" in report.reason
    running = batch_v1.JobStatus(state=Job.RUNNING, status_events=status.status_events)
    assert ends.report_of(running).reason == ""


@pytest.mark.parametrize(
    ("state", "presence"),
    [
        (Job.QUEUED, Presence.PENDING),
        (Job.SCHEDULED, Presence.PENDING),
        (Job.RUNNING, Presence.RUNNING),
        (Job.CANCELLATION_IN_PROGRESS, Presence.RUNNING),
        (Job.SUCCEEDED, Presence.GONE),
        (Job.FAILED, Presence.GONE),
        (Job.CANCELLED, Presence.GONE),
    ],
)
def test_states(state: batch_v1.JobStatus.State, presence: Presence) -> None:
    assert ends.presence_of(state) is presence


def test_ended_tasks_are_counted() -> None:
    def job(state: Any, **counts: int) -> batch_v1.Job:
        groups = {"group0": {"counts": counts}} if counts else {}
        return batch_v1.Job(
            task_groups=[{"task_count": 10}], status={"state": state, "task_groups": groups}
        )

    running = job(Job.RUNNING, RUNNING=2, SUCCEEDED=3, FAILED=1, PENDING=4)
    assert ends.is_behind(running, 7)
    assert not ends.is_behind(running, 6)
    assert not ends.is_behind(job(Job.QUEUED), 10)
    assert not ends.is_behind(job(Job.FAILED, FAILED=10), 10)


def test_files_that_were_lost_with_the_machine() -> None:
    assert ends.end_of_command(task(Task.SUCCEEDED)).ok
    assert ends.end_of_command(task(Task.FAILED, ("x", 1))).reason is ExitReason.NONZERO_EXIT


def test_a_task_that_ended_well_is_waited_for() -> None:
    assert ends.ended_badly(task(Task.FAILED))
    assert ends.ended_badly(task(Task.UNEXECUTED))
    assert not ends.ended_badly(task(Task.SUCCEEDED))
    assert not ends.ended_badly(task(Task.RUNNING))
