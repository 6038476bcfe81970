"""How a job ended, put together from all that is known of it: pure functions.

Three witnesses, each with gaps: slurmstepd's words in the job's output (no accounting
needed, and they outlive slurmctld's memory of the job), squeue (until MinJobAge), and
sacct (where a site has it; it lags, but alone knows who cancelled a job).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from pipen_executors.states import ExitReason, Outcome, Presence, outcome_of

from . import parse


class Standing(Enum):
    """What is to be thought of a job that has not, or not clearly, ended."""

    AGAIN = "requeued by Slurm: it will run, or runs, once more"
    UNSETTLED = "Slurm has not come to terms with its end yet"


@dataclass(frozen=True, slots=True)
class Facts:
    """What one look found out about a job.

    Parameters
    ----------
    entry
        Its line of squeue; None if slurmctld has forgotten it.
    said
        What slurmstepd said, read by :func:`parse.step_message`.
    rc
        Exit status that the wrapper wrote, if it came to that.
    started
        Whether the wrapper had begun.
    """

    entry: parse.QueueEntry | None
    said: Outcome | None
    rc: int | None
    started: bool


def from_queue(facts: Facts) -> Outcome | Standing | None:
    """Return what slurmstepd and squeue tell; None if they tell nothing."""
    entry, said = facts.entry, facts.said
    if entry is None:
        return said
    if entry.presence is Presence.PENDING:
        return Standing.AGAIN
    if not entry.is_known:
        return Standing.UNSETTLED if facts.rc is None else said
    if entry.presence is Presence.RUNNING:
        # The wrapper empties its exit status when it is started once more.
        again = entry.state != "COMPLETING" and facts.rc is None
        return Standing.AGAIN if again else Standing.UNSETTLED
    ended = parse.ending(entry.state, nodes=entry.nodes)
    if said is None or (said.reason is ExitReason.CANCELLED and not _is_vague(ended)):
        return ended
    return said


def wants_accounting(answer: Outcome | Standing | None, facts: Facts) -> bool:
    """Tell whether sacct knows more: how a job failed, and who cancelled it."""
    if isinstance(answer, Standing):
        return False
    if answer is not None and answer.reason is ExitReason.CANCELLED:
        return True
    return _is_vague(answer) and facts.rc is None


def refine(outcome: Outcome, facts: Facts) -> Outcome:
    """Prefer the exit status that the job itself wrote to Slurm's general terms."""
    if _is_vague(outcome):
        if facts.rc is not None:
            return outcome_of(facts.rc)
        if facts.started and outcome.reason is ExitReason.LAUNCH_FAILURE:
            return Outcome(ExitReason.LOST, outcome.rc, outcome.detail)
    if outcome.reason is ExitReason.TIMEOUT and facts.rc is None and not facts.started:
        return Outcome(ExitReason.UNSCHEDULABLE, None, outcome.detail)  # before its deadline
    return Outcome(outcome.reason, facts.rc if facts.rc is not None else outcome.rc, outcome.detail)


def forgotten(facts: Facts) -> Outcome:
    """Return what is left to say of a job that nobody remembers: no accounting, MinJobAge over."""
    if facts.started:
        return Outcome(ExitReason.LOST)
    return Outcome(ExitReason.CANCELLED, None, "it left the queue before it began")


def _is_vague(outcome: Outcome | None) -> bool:
    """Tell whether no more is known than that a job failed, or is over."""
    return outcome is None or outcome.reason in (ExitReason.LAUNCH_FAILURE, ExitReason.LOST)
