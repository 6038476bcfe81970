"""The states of a job, and the reasons for which a job ends."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from enum import Enum, StrEnum

from .plain_text import plain_line


class JobState(Enum):
    """State of a job as the engine sees it.

    The value is the number that xqute writes into ``job.status``
    (``xqute.defaults.JobStatus``).
    """

    QUEUED = 2
    SUBMITTED = 3
    RUNNING = 4
    KILLING = 5
    FINISHED = 6
    FAILED = 7

    @property
    def is_final(self) -> bool:
        """Whether the job has ended."""
        return self in (JobState.FINISHED, JobState.FAILED)


class Phase(StrEnum):
    """State of a job as users read it: in the history and all that is drawn from it."""

    QUEUED = "queued"
    """Handed over by Snakemake, not yet by the engine."""
    PENDING = "pending"
    """In the scheduler's queue."""
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the job, or this attempt of it, has ended."""
        return self in (Phase.DONE, Phase.FAILED, Phase.CANCELLED)


class ExitReason(Enum):
    """Why a job ended. The value is the phrase that users read."""

    COMPLETED = "completed"
    NONZERO_EXIT = "the command failed"
    SIGNAL = "killed by a signal"
    TIMEOUT = "ran longer than allowed"
    OUT_OF_MEMORY = "out of memory"
    CANCELLED = "cancelled"
    PREEMPTED = "preempted"
    NODE_FAILURE = "the node failed"
    LAUNCH_FAILURE = "could not be started on the node"
    IMAGE_FAILURE = "its image cannot be had"
    UNSCHEDULABLE = "can never be scheduled"
    SUBMIT_FAILURE = "could not be submitted"
    PRESCRIPT = "the prescript failed"
    MISSING_INPUT = "input not visible on the node"
    MISSING_OUTPUT = "output missing"
    NOT_FETCHED = "its files could not be fetched"
    UNREADABLE = "its job directory cannot be read"
    LOST = "lost: the scheduler no longer knows the job and it left no exit status"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one attempt of a job ended.

    Parameters
    ----------
    reason
        Why it ended.
    rc
        Exit status of the command; None if it is not known.
    detail
        One line in the scheduler's or the system's own words; may be empty.
    """

    reason: ExitReason
    rc: int | None = None
    detail: str = ""

    def __post_init__(self) -> None:
        """Keep others' words to one line without control characters."""
        object.__setattr__(self, "detail", plain_line(self.detail))

    @property
    def ok(self) -> bool:
        """Whether the attempt succeeded."""
        return self.reason is ExitReason.COMPLETED

    def describe(self) -> str:
        """Return one line for the user: reason, exit status and detail."""
        parts = [self.reason.value]
        if self.rc is not None:
            parts.append(f"exit status {self.rc}")
        text = ", ".join(parts)
        return f"{text}: {self.detail}" if self.detail else text


@dataclass(frozen=True, slots=True)
class Tentative:
    """How a job ended as far as is known by now; accounting may soon know more.

    Parameters
    ----------
    outcome
        What to say if it does not.
    """

    outcome: Outcome


class Presence(Enum):
    """What a scheduler says of one job when it is asked."""

    PENDING = "pending"
    RUNNING = "running"
    GONE = "gone"
    """It has ended or is not known; its job directory or accounting tells how."""
    UNKNOWN = "unknown"
    """The scheduler could not be asked about this job, only about others."""


@dataclass(frozen=True, slots=True)
class Report:
    """The scheduler's answer for one job.

    Parameters
    ----------
    presence
        Whether the job waits, runs, or is no longer there.
    reason
        For a waiting job the scheduler's reason (for example ``Priority``).
    outcome
        Set when the scheduler itself knows how the job ended, or that it can
        never run (then with ``presence`` PENDING, and the engine removes it).
    """

    presence: Presence
    reason: str = ""
    outcome: Outcome | None = None

    def __post_init__(self) -> None:
        """Keep the scheduler's words to one line without control characters."""
        object.__setattr__(self, "reason", plain_line(self.reason))


def outcome_of(rc: int) -> Outcome:
    """Return the outcome that an exit status alone tells.

    By the shell's convention 128 + n stands for signal n (bash(1), EXIT STATUS).

    Parameters
    ----------
    rc
        Exit status as the shell reports it, 0 to 255.
    """
    if rc == 0:
        return Outcome(ExitReason.COMPLETED, 0)
    if rc > 128:
        try:
            name = signal.Signals(rc - 128).name
        except ValueError:
            return Outcome(ExitReason.NONZERO_EXIT, rc)
        return Outcome(ExitReason.SIGNAL, rc, name)
    known = {126: "permission denied, or not executable", 127: "command not found"}
    return Outcome(ExitReason.NONZERO_EXIT, rc, known.get(rc, ""))
