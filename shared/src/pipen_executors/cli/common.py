"""What the commands have in common: options, choice of runs and jobs, output."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from ..exceptions import UserError
from ..runs import JobStory, Run, look, read_runs, roots_of

NOT_WELL: Final = 1
"""Exit status: a job has failed, a check has failed."""

Directory = Annotated[
    Path,
    typer.Option(
        "--directory",
        "-C",
        help="Working directory of the workflow, or the directory of job directories.",
        metavar="DIR",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Target = Annotated[
    str,
    typer.Argument(
        metavar="RULE|OUTPUT|JOBID",
        help="A rule, an output file, a job id of Snakemake's or of the scheduler's.",
    ),
]


def current(runs: Sequence[Run]) -> list[Run]:
    """Return, of the runs of one scheduler, the latest and any other that is under way."""
    return [run for run in runs[:-1] if run.over is None and run.is_alive] + list(runs[-1:])


def latest_runs(directory: Path) -> list[Run]:
    """Return the latest run of each scheduler, brought up to date from the job directories.

    Runs that are under way at the same time (``--nolock``) are all returned.
    """
    runs = [run for root in roots_of(directory) for run in current(read_runs(root))]
    for run in runs:
        look(run)
    return runs


def all_runs(directory: Path) -> list[Run]:
    """Return all runs, the oldest first; of each scheduler the latest brought up to date."""
    runs = []
    for root in roots_of(directory):
        of_root = read_runs(root)
        for run in current(of_root):
            look(run)
        runs += of_root
    return sorted(runs, key=lambda run: run.begun)


def choose(directory: Path, target: str) -> list[JobStory]:
    """Return the jobs that a word names, each as the last run that had it knows it.

    Raises
    ------
    UserError
        If there is none.
    """
    latest: dict[tuple[Path, str], JobStory] = {}
    for run in all_runs(directory):
        latest |= {(run.root, key): job for key, job in run.jobs.items()}
    jobs = list(latest.values())
    for is_meant in (_has_rule, _has_output, _has_id):
        if found := [job for job in jobs if is_meant(job, target)]:
            return found
    rules = ", ".join(sorted({job.rule for job in jobs})) or "none"
    raise UserError(f"no job is known by {target!r}. The rules of which jobs are known: {rules}.")


def _has_rule(job: JobStory, target: str) -> bool:
    return job.rule == target


def _has_output(job: JobStory, target: str) -> bool:
    # Relative to here as a shell completes it, or as the workflow names it.
    meant = {target, os.path.relpath(os.path.abspath(target), job.run.cwd)}
    return not meant.isdisjoint(job.outputs) or os.path.abspath(target) == job.files.path


def _has_id(job: JobStory, target: str) -> bool:
    return target in (job.jobid, job.key) or any(a.jid == target for a in job.attempts)


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    print(json.dumps(value, indent=2, default=str, ensure_ascii=False))


def console() -> Console:
    """Return the terminal; the width of a file or pipe is not limited."""
    terminal = Console(highlight=False, emoji=False, markup=False)
    return terminal if terminal.is_terminal else Console(
        highlight=False, emoji=False, markup=False, width=10_000
    )  # fmt: skip


def ago(moment: float) -> str:
    """Return how long ago something was, in words of one unit."""
    return f"{duration(time.time() - moment)} ago"


def duration(seconds: float | None) -> str:
    """Return a time for people: ``42 s``, ``3:05 min``, ``2:07 h``, ``4 d``."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{max(0.0, seconds):.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d} h" if hours < 48 else f"{hours // 24} d"


def unfinished(runs: Iterable[Run]) -> list[JobStory]:
    """Return the jobs that have not ended."""
    return [job for run in runs for job in run.jobs.values() if not job.phase.is_final]
