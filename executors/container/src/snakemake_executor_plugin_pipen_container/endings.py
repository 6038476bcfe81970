"""How jobs ended that did not say so themselves: what their runtime or the kernel says."""

from __future__ import annotations

from collections.abc import Sequence

from pipen_executors.job import Job
from pipen_executors.sessions import Sessions
from pipen_executors.states import ExitReason, Outcome, outcome_of

from . import ends
from .commands import Containers


def of_sessions(jobs: Sequence[Job], sessions: Sessions) -> dict[Job, Outcome]:
    """Say how sessions ended: those of Apptainer, and of what runs outside containers."""
    outcomes = sessions.explain(jobs)
    for job in jobs:
        status = sessions.status(job)
        if status and not job.spec.on_host and not ends.has_claimed(job):
            words = " ".join(job.directory.tail("job.stderr", 5))
            outcomes[job] = Outcome(ExitReason.LAUNCH_FAILURE, status, words)
    return outcomes


async def of_containers(
    jobs: Sequence[Job], containers: Containers, label: str, user: str | None
) -> dict[Job, Outcome]:
    """Say how containers ended: the wrapper's notes, then the runtime with one ``inspect``.

    Parameters
    ----------
    jobs
        Of Docker or Podman.
    containers
        Theirs.
    label
        What they all have.
    user
        Who jobs are in them, if that was set.
    """
    statuses = {job: job.directory.rc() for job in jobs}
    silent = [job for job, rc in statuses.items() if rc is None]
    known = await containers.ends([job.jid for job in silent], label) if silent else {}
    outcomes = {}
    for job, rc in statuses.items():
        end = known.get(job.jid)
        if rc is not None:
            outcomes[job] = ends.of_command(job, outcome_of(rc))
        elif end is None:
            outcomes[job] = Outcome(ExitReason.LOST, None, "somebody has removed its container")
        elif ends.has_claimed(job):
            outcomes[job] = ends.of_container(job, end)
        else:
            words = await containers.last_words(job.jid)
            outcomes[job] = ends.of_start(end, words, user)
    return outcomes
