"""The commands that change something: cancel and clean."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from .. import requests
from ..exceptions import UserError
from ..history import HISTORY, write_cancelled
from ..jobdir import EVENTS, JobDir
from ..runs import JobStory, Run, read_runs, roots_of
from ..settings import read
from ..units import parse_seconds
from .common import (
    AsJson,
    Directory,
    choose,
    console,
    latest_runs,
    print_json,
    unfinished,
)

_PATIENCE: Final = 90.0


def cancel(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="RULE|OUTPUT|JOBID",
            help="Which jobs; all, and the run with them, if not given.",
        ),
    ] = None,
    directory: Directory = Path(),
    as_json: AsJson = False,
) -> None:
    """Cancel jobs of this directory, waiting or running, through the run that has them.

    A run that is under way does it itself. Where there is none any more, the jobs that it
    left are cancelled through the scheduler, and nobody else's.
    """
    if target is None:
        # One that has ended may have left jobs: the third Ctrl-C, an error of its own.
        runs = latest_runs(directory)
        chosen = unfinished(runs)
    else:
        chosen = [job for job in choose(directory, target) if not job.phase.is_final]
        runs = list({run.id: run for run in (job.run for job in chosen)}.values())
    cancelled = []
    for run in runs:
        jobs = [job for job in chosen if job.run is run]
        if run.is_alive is False:
            cancelled += _without_run(run, jobs)
        elif target is None:
            _through_run(run, [requests.ALL])
            cancelled += jobs
        else:
            _through_run(run, [job.key for job in jobs])
            cancelled += jobs
    if as_json:
        print_json([{"key": job.key, "rule": job.rule, "id": job.last.jid} for job in cancelled])
    else:
        console().print(f"Cancelled: {len(cancelled)} jobs.", soft_wrap=True)


def _through_run(run: Run, keys: Sequence[str]) -> None:
    """Ask a run, and wait until it has heard."""
    asked = [requests.ask_to_cancel(str(run.root), run.id, key) for key in keys]
    deadline = time.monotonic() + _PATIENCE
    while any(map(os.path.exists, asked)):
        if time.monotonic() > deadline or run.is_alive is False:
            for path in filter(os.path.exists, asked):
                os.unlink(path)
            requests.close(str(run.root), run.id)
            raise UserError(
                f"the run (process {run.pid} on {run.host}) has not answered. If it is no more, "
                f"run this command on {run.host}: there that can be seen."
            )
        time.sleep(0.1)


def _without_run(run: Run, jobs: Sequence[JobStory]) -> list[JobStory]:
    from ..standalone import cancel as cancel_by_scheduler

    found = cancel_by_scheduler(run, jobs)
    for job in found:
        write_cancelled(str(run.root), run.id, job.key, job.last.number)
    return found


def clean(
    older_than: Annotated[
        str, typer.Option("--older-than", metavar="TIME", help="Such as 10d, 12h, 30m.")
    ],
    directory: Directory = Path(),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Only say what would be removed.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Remove the directories of jobs that ended some time ago, and runs as old from history.

    What a run has not taken in yet is kept, and everything while a run is under way.
    """
    age = read("--older-than", older_than, parse_seconds)
    before = time.time() - age
    removed: list[str] = []
    for root in roots_of(directory):
        runs = read_runs(root)
        for run in runs:
            # One on another host that has been silent for so long has ended.
            if run.is_alive or (run.is_alive is None and run.last_sign >= before):
                where = f"process {run.pid} on {run.host}"
                raise UserError(f"a run is under way in {root} ({where}); nothing was removed")
        old = list(_old_directories(root, before))
        removed += map(str, old)
        if not dry_run:
            for path in old:
                shutil.rmtree(path)
                if not any(path.parent.iterdir()):
                    path.parent.rmdir()
            _remove_events(root, before)
            gone = {run.id for run in runs if run.last_sign < before}
            _keep_lines(root / HISTORY, lambda line, gone=gone: not _is_of(line, gone))  # type: ignore[misc]
    if as_json:
        print_json({"removed": removed, "dry_run": dry_run})
    else:
        done = "would be removed" if dry_run else "removed"
        console().print(f"{len(removed)} job directories {done}.", soft_wrap=True)


def _old_directories(root: Path, before: float) -> Iterator[Path]:
    for path in root.glob("*/*-*/job.script"):
        files = JobDir(str(path.parent))
        settled = Path(files.file("job.settled"))
        if files.record() is None and settled.exists() and settled.lstat().st_mtime < before:
            ended = Path(files.file("job.rc"))
            if not ended.exists() or ended.lstat().st_mtime < before:
                yield path.parent


def _remove_events(root: Path, before: float) -> None:
    """Remove events that no run has taken in; a job that is under way is known by its files."""
    for path in (root / EVENTS).iterdir():
        if path.lstat().st_mtime < before:
            path.unlink()


def _is_of(line: str, runs: set[str]) -> bool:
    return any(f'"run":"{run}"' in line for run in runs)


def _keep_lines(path: Path, wanted: Callable[[str], bool]) -> None:
    """Write a file anew with some of its lines; nobody else writes it now."""
    new = path.with_name(f"{path.name}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as target, path.open(encoding="utf-8") as source:
        target.writelines(line for line in source if wanted(line))
    os.replace(new, path)
