"""What the engine and the one that gives it jobs must know of each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from .job import Job


class Client(Protocol):
    """What the engine tells the one that gave it the jobs, always from its own thread."""

    def on_submitted(self, job: Job) -> None:
        """Tell that the scheduler has taken a job."""

    def on_ended(self, jobs: Sequence[Job]) -> None:
        """Tell that jobs have ended for good; ``job.outcome`` says how."""

    def on_halt(self, job: Job) -> None:
        """Tell that a job failed whose error strategy ends the run."""

    def on_cancelled(self) -> None:
        """Tell that all jobs have been cancelled because the user asked for it elsewhere."""

    def on_broken(self, error: BaseException) -> None:
        """Tell that the engine itself cannot go on."""

    def on_message(self, text: str, *, warning: bool = False) -> None:
        """Tell the user something."""

    def prepare(self, job: Job) -> None:
        """Make ready for a fresh start a job that was first thought to be under way.

        Called in a thread of its own; an exception fails the job.
        """


@dataclass(frozen=True, slots=True)
class Limits:
    """How fast the engine may be.

    Parameters
    ----------
    forks
        Jobs submitted and not ended at a time; None for no limit.
    submitters
        Calls of ``submit_jobs`` under way at a time.
    submit_rate
        Jobs and seconds: no more than that many submissions in that time; or None.
    query_ceiling
        Longest time between two queries of the scheduler, in seconds.
    submit_patience
        Seconds for which a submission is repeated while the scheduler cannot be
        reached, or a disk is full, before the job fails.
    files_patience
        Seconds for which the files of an ended job are looked for while their file system
        fails, before the job fails.
    """

    forks: int | None = None
    submitters: int = 8
    submit_rate: tuple[int, float] | None = None
    query_ceiling: float = 60
    submit_patience: float = 3600
    files_patience: float = 600
