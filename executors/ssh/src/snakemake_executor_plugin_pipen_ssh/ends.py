"""How jobs ended, beyond what their wrappers say: pure functions."""

from __future__ import annotations

from dataclasses import replace
from signal import SIGKILL

from pipen_executors.job import Job
from pipen_executors.states import ExitReason, Outcome, outcome_of


def of_signal(job: Job, status: int | None) -> Outcome | None:
    """Return which signal ended a job; None if none did, as far as is known.

    Parameters
    ----------
    job
        The job.
    status
        Exit status of its wrapper, where that is known to the agent.
    """
    rc = job.directory.rc()
    if rc is None:
        rc = status
    if rc is None or (outcome := outcome_of(rc)).reason is not ExitReason.SIGNAL:
        return None
    return outcome


def may_be_memory(outcome: Outcome) -> bool:
    """Tell whether the kernel's out-of-memory killer may have sent a signal."""
    return outcome.rc == 128 + SIGKILL


def out_of_memory(outcome: Outcome, server: str) -> Outcome:
    """Return how a job ended on a machine whose out-of-memory killer was at work."""
    detail = f"the kernel's out-of-memory killer was at work on {server} (oom_kill in /proc/vmstat)"
    return Outcome(ExitReason.OUT_OF_MEMORY, outcome.rc, detail)


def of_command(job: Job, outcome: Outcome, server: str) -> Outcome:
    """Say which rule needs Snakemake on the machine, and why, where that is missing."""
    missing = outcome.rc in (126, 127) or any(
        "No module named" in line and "snakemake" in line
        for line in job.directory.tail("job.stderr")
    )
    if job.spec.direct or not missing:
        return outcome
    detail = (
        f"rule {job.spec.rule} needs Snakemake on {server} "
        f"({job.spec.why_respawned}), which is not to be found there"
    )
    return replace(outcome, detail=detail)
