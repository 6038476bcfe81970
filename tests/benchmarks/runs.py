"""Runs of a command, each in a directory of its own, and what they took."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from .environments import CACHE

PATIENCE = 900.0
"""Seconds after which a run is ended and counted as failed."""


@dataclass(frozen=True)
class Run:
    """What one run took.

    ``cpu`` are the CPU seconds of the command and all its descendants, ``main_cpu`` those of
    the command and the children it waited for; ``others`` is the share of the machine's CPUs
    that all other processes used meanwhile.
    """

    wall: float
    rc: int
    timed_out: bool
    cpu: float
    main_cpu: float
    others: float
    load: float
    commands: int = 0
    problem: str = ""


@dataclass(frozen=True)
class Candidate:
    """One way to do the work.

    Attributes
    ----------
    name
        What the table calls it.
    command
        What is run; the workflow lies in the working directory as ``Snakefile``.
    env
        Its complete environment.
    files
        Files that the command needs beside it, by name.
    runs
        How often to run it at most; None for as often as the others.
    """

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    files: Mapping[str, str] = field(default_factory=dict)
    runs: int | None = None


class Places:
    """Directories for runs, one for each.

    None is removed before the last run: a file system that has just deleted thousands of files
    may be slow to create new ones (ext4 without a journal passes over inodes deleted in the
    last minutes), and the next candidate would pay for the last one's tidying.
    """

    def __init__(self) -> None:
        (CACHE / "runs").mkdir(parents=True, exist_ok=True)
        self.base = Path(tempfile.mkdtemp(dir=CACHE / "runs"))
        self._count = 0
        self.latest = self.base

    def new(self, files: Mapping[str, str]) -> Path:
        """Return a new directory that holds some files."""
        place = self.latest = self.base / str(self._count)
        self._count += 1
        place.mkdir()
        for name, text in files.items():
            path = place / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            if text.startswith("#!"):
                path.chmod(0o755)
        return place

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        shutil.rmtree(self.base, ignore_errors=True)


def run_once(
    candidate: Candidate, place: Path, expected: Sequence[str], *, patience: float = PATIENCE
) -> Run:
    """Run a candidate in a directory and check that the work was done."""
    report, log = place / "report.json", place / "log.txt"
    launcher = Path(__file__).with_name("launch.py")
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, str(launcher), str(report), str(patience), *candidate.command],
            cwd=place,
            env=dict(candidate.env),
            stdout=stream,
            stderr=stream,
        )
        try:
            process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    run = Run(**json.loads(report.read_text()))
    missing = [name for name in expected if not (place / name).exists()]
    problem = ""
    if run.timed_out:
        problem = f"did not end within {patience:g} s"
    elif run.rc or missing:
        tail = " | ".join(log.read_text(errors="replace").splitlines()[-8:])
        problem = f"exit status {run.rc}, {len(missing)} outputs missing: {tail}"
    return Run(**{**run.__dict__, "problem": problem})


def alternate(
    candidates: Sequence[Candidate],
    workflow: str,
    expected: Sequence[str],
    places: Places,
    runs: int,
    *,
    around: Callable[[Callable[[], Run]], Run] = lambda measure: measure(),
) -> dict[str, list[Run]]:
    """Run all candidates in turn, A B A B, so that a change of the machine's load hits all.

    Parameters
    ----------
    around
        Called with each measurement, to prepare for it and to tidy up after it.
    """
    results: dict[str, list[Run]] = {candidate.name: [] for candidate in candidates}
    for number in range(runs):
        for candidate in candidates:
            if candidate.runs is not None and number >= candidate.runs:
                continue
            place = places.new({"Snakefile": workflow, **candidate.files})
            result = around(lambda c=candidate, p=place: run_once(c, p, expected))  # type: ignore[misc]
            said = result.problem or f"{result.wall:.2f} s"
            print(f"  {candidate.name}: {said}", file=sys.stderr, flush=True)
            results[candidate.name].append(result)
    return results


def median(values: Sequence[float]) -> float:
    """Return the median; nan of nothing."""
    return statistics.median(values) if values else float("nan")


def walls(runs: Sequence[Run]) -> list[float]:
    """Return the wall times of the runs that did the work."""
    return [run.wall for run in runs if not run.problem]
