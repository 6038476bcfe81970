"""What the jobs of each rule used, against what was asked for.

Drawn from the history of a run, so that it is the same on every scheduler and needs no
accounting: the efficiency report at the end of a run, and the report of
``pipen-executors``.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from .hooks import hookimpl
from .runs import JobStory, read_runs
from .states import Phase

MIB: Final = 1024 * 1024
_HEADROOM: Final = 1.25
"""A suggestion leaves a quarter above the most that was seen."""


@dataclass
class RuleUsage:
    """Measurements of the jobs of one rule that succeeded.

    Parameters
    ----------
    rule, threads
        Of which jobs.
    walls, waits
        Seconds that each ran, and waited in the queue.
    cpu
        Seconds of CPU of those in ``cpu_walls``, which are the run times of jobs whose CPU
        time is known.
    memory, sampled
        Peaks in bytes; whether one of them may have been missed.
    unmeasured, below
        Jobs whose peak is not known; what those stayed under of which that is known.
    mem_mb, runtime
        The most that a job asked for, in megabytes and minutes.
    """

    rule: str
    threads: int
    walls: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    cpu: float = 0.0
    cpu_walls: float = 0.0
    memory: list[int] = field(default_factory=list)
    sampled: bool = False
    unmeasured: int = 0
    below: int = 0
    mem_mb: int | None = None
    runtime: int | None = None

    def take(self, job: JobStory) -> None:
        """Take in a job that succeeded."""
        end = job.last
        if end.wall is None:
            return
        self.threads = max(self.threads, job.threads)
        self.walls.append(end.wall)
        if end.wait is not None:
            self.waits.append(end.wait)
        if end.cpu is not None:
            self.cpu += end.cpu
            self.cpu_walls += end.wall * job.threads
        if end.memory is not None:
            self.memory.append(end.memory)
            self.sampled = self.sampled or end.is_sampled
        elif end.memory_below is not None:
            self.below = max(self.below, end.memory_below)
        else:
            self.unmeasured += 1
        self.mem_mb = max(filter(None, (self.mem_mb, job.mem_mb)), default=None)
        self.runtime = max(filter(None, (self.runtime, job.runtime)), default=None)

    @property
    def busy(self) -> float | None:
        """Share of the CPUs asked for that was used; None if it is not known."""
        return self.cpu / self.cpu_walls if self.cpu_walls else None

    @property
    def peak(self) -> int | None:
        """Largest peak of memory in bytes; None unless it is known of all jobs."""
        if self.unmeasured or not (self.memory or self.below):
            return None
        return max(self.memory) if self.memory else None

    @property
    def peak_text(self) -> str:
        """The peak for people, with "<" where only that is known, "not known" where nothing."""
        if self.unmeasured:
            return "not known"
        if self.peak is not None:
            return f"{self.peak / MIB:,.0f} MB{' (sampled)' if self.sampled else ''}"
        return f"< {self.below / MIB:,.0f} MB" if self.below else "not known"

    def suggestion(self) -> str:
        """Return what to ask for, in the syntax of ``resources``; empty if there is no reason.

        A quarter above the most that was seen, where that is far from what is asked for.
        """
        parts = []
        bound = self.peak or (None if self.unmeasured else self.below or None)
        if bound is not None:
            wanted = _round_up(bound * _HEADROOM / MIB)
            # What a peak stayed under is alone no reason to ask for something, and one that may
            # have been missed none to ask for less.
            far = _far(wanted, self.mem_mb) if self.mem_mb else self.peak
            if far and not (self.sampled and wanted < (self.mem_mb or 0)):
                parts.append(f"mem_mb={wanted}")
        if self.runtime is not None and self.walls:
            wanted = max(1, _round_up(max(self.walls) * 2 / 60))
            if _far(wanted, self.runtime):
                parts.append(f"runtime={wanted}")
        return ", ".join(parts)

    def describe(self) -> str:
        """Return how long jobs ran and waited, and how busy they kept their threads."""
        count = len(self.walls)
        parts = [
            f"{count} job{'s' if count > 1 else ''}",
            f"ran {statistics.median(self.walls):.1f} s (median, longest {max(self.walls):.1f} s)",
        ]
        if self.waits:
            parts.append(f"waited {statistics.median(self.waits):.1f} s")
        if self.busy is not None:
            threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
            parts.append(f"kept {threads} {100 * self.busy:.0f} % busy")
        # That a job used less than more than it asked for says nothing.
        telling = self.peak is not None or self.below < (self.mem_mb or 0) * MIB
        if self.peak_text != "not known" and telling:
            of = f" of {self.mem_mb:,} MB" if self.mem_mb else ""
            parts.append(f"used {self.peak_text}{of} of memory")
        return ", ".join(parts)


def _far(wanted: int, asked: int) -> bool:
    return wanted > asked or wanted < asked / 1.5


def _round_up(value: float) -> int:
    """Return a number of two digits, not below the value."""
    if value <= 10:
        return math.ceil(value)
    unit: int = 10 ** (math.floor(math.log10(value)) - 1)
    return math.ceil(value / unit) * unit


def by_rule(jobs: Iterable[JobStory]) -> list[RuleUsage]:
    """Return what the rules used, those that used most CPU time first."""
    rules: dict[str, RuleUsage] = {}
    for job in jobs:
        if job.phase is Phase.DONE:
            rules.setdefault(job.rule, RuleUsage(job.rule, job.threads)).take(job)
    measured = (usage for usage in rules.values() if usage.walls)
    return sorted(measured, key=lambda usage: -usage.cpu)


class UsageReport:
    """Tells what jobs used when a run ends; a plugin (:mod:`pipen_executors.hooks`).

    Parameters
    ----------
    root
        Directory of the job directories.
    run
        Name of the run in its history.
    tell
        Called with one line at a time.
    """

    def __init__(self, root: str, run: str, tell: Callable[[str], None]) -> None:
        self._root = Path(root)
        self._run = run
        self._tell = tell

    @hookimpl
    def on_shutdown(self) -> None:
        """Tell it, after the history has been written."""
        for run in read_runs(self._root):
            if run.id == self._run:
                for usage in by_rule(run.jobs.values()):
                    self._tell(f"Used by {usage.rule}: {usage.describe()}")
