"""What the page is drawn from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipen_executors.report import _failures
from pipen_executors.runs import Attempt, JobStory, Run
from pipen_executors.states import ExitReason, Phase

figures = pytest.importorskip("pipen_executors.report.figures")


def job(run: Run, rule: str, *attempts: Attempt) -> JobStory:
    story = JobStory(run, f"{rule}-key", rule, jobid=rule)
    story.attempts.extend(attempts)
    run.jobs[story.key] = story
    return story


def done(submitted: float, started: float, ended: float) -> Attempt:
    times = {"submitted": submitted, "started": started, "ended": ended}
    return Attempt(phase=Phase.DONE, node="n", **times)  # type: ignore[arg-type]


def failed(number: int) -> Attempt:
    return Attempt(number, Phase.FAILED, reason=ExitReason.NONZERO_EXIT, rc=1)


def drawn(run: Run, name: str) -> list[Any]:
    (figure,) = (f["figure"] for f in figures.draw([run]).figures if f["id"] == name)
    return list(figure["data"])


def test_jobs_that_start_before_their_submission_is_noted() -> None:
    """Their clocks differ, or they are quick: nobody waits for less than no time."""
    run = Run("r", Path("/nowhere"), over=130.0)
    job(run, "a", done(100.2, 100.0, 120.0))
    job(run, "b", done(100.001, 100.002, 125.0))
    (running,) = drawn(run, "at-once")
    assert min(running["y"]) == 0
    assert max(running["y"]) == 2
    job(run, "c", done(100.0, 110.0, 130.0))
    _, pending = drawn(run, "at-once")
    assert list(pending["y"]) == [1, 0]


def test_what_failed_in_the_end_comes_first() -> None:
    run = Run("r", Path("/nowhere"))
    first = job(run, "mended", failed(1), Attempt(2, Phase.DONE))
    second = job(run, "broken", failed(1), failed(2))
    shown, left_out = _failures([first, second])
    assert [(entry["job"], entry["attempt"]) for entry in shown] == [
        ("broken", 2),
        ("broken", 1),
        ("mended", 1),
    ]
    assert left_out == 0
