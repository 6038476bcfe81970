"""What the jobs of each rule used, against what was asked for: a line per rule at the end.

Measured by the wrapper on the node, so it is the same on every scheduler and needs no
accounting. A plugin like any other (see :mod:`pipen_executors.hooks`).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .hooks import hookimpl

if TYPE_CHECKING:
    from .job import Job


@dataclass
class RuleUsage:
    """Measurements of the jobs of one rule that succeeded; times in seconds."""

    threads: int
    walls: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    cpu: float = 0.0

    def describe(self) -> str:
        """Return how long jobs ran and waited, and how busy they kept their threads."""
        wall = sum(self.walls)
        busy = 100 * self.cpu / (wall * self.threads) if wall else 0.0
        jobs = f"{len(self.walls)} job{'s' if len(self.walls) > 1 else ''}"
        return (
            f"{jobs}, ran {statistics.median(self.walls):.1f} s (median, longest "
            f"{max(self.walls):.1f} s), waited {statistics.median(self.waits):.1f} s, "
            f"kept {self.threads} thread{'s' if self.threads > 1 else ''} {busy:.0f} % busy"
        )


class UsageReport:
    """Collects what jobs used and tells it when the run ends.

    Parameters
    ----------
    tell
        Called with one line at a time.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._rules: dict[str, RuleUsage] = {}

    @hookimpl
    def on_job_succeeded(self, job: Job) -> None:
        """Take in the wrapper's notes of one job."""
        info = job.directory.info(job.token)
        try:
            start, end, cpu = (float(info[name]) for name in ("start", "end", "cpu"))
        except (KeyError, ValueError):
            return
        usage = self._rules.setdefault(job.spec.rule, RuleUsage(job.spec.resources.threads))
        usage.walls.append(max(0.0, end - start))
        usage.waits.append(max(0.0, start - job.record.submitted if job.record else 0.0))
        usage.cpu += cpu

    @hookimpl
    def on_shutdown(self) -> None:
        """Tell it, the rules that used most CPU time first."""
        for rule, usage in sorted(self._rules.items(), key=lambda item: -item[1].cpu):
            self._tell(f"Used by {rule}: {usage.describe()}")
