from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipen_executors.states import ExitReason

from ..conformance.harness import wait_for
from .fake import Run


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path / "jobs", query_ceiling=0.2, forks=2)
    try:
        yield run
    finally:
        run.close()


def test_forks(run: Run) -> None:
    run.submit(*(run.spec(f"a{n}", "sleep 0.1\n") for n in range(7)))
    run.wait(7)
    assert max(len(batch) for batch in run.scheduler.submissions) <= 2
    assert len(run.scheduler.submissions) >= 4


def test_halt_cancels_the_rest(run: Run) -> None:
    run.submit(
        run.spec("bad", "exit 3\n", error_strategy="halt"),
        *(run.spec(f"a{n}", "sleep 60\n") for n in range(5)),
    )
    ended = run.wait(6)
    wait_for(lambda: run.halted, "the halt")
    assert run.halted == ["bad"]
    reasons = {job.outcome.reason for name, job in ended.items() if name != "bad" and job.outcome}
    assert reasons == {ExitReason.CANCELLED}
    run.submit(run.spec("late", ":\n"))
    outcome = run.wait(7)["late"].outcome
    assert outcome is not None
    assert outcome.reason is ExitReason.CANCELLED


def test_scheduler_with_a_bug_does_not_hang_the_run(run: Run) -> None:
    run.scheduler.bug = RuntimeError("a bug in somebody's scheduler class")
    run.submit(run.spec("a", ":\n"))
    wait_for(lambda: run.broken or run.ended, "the report", timeout=10)
    run.close()


def test_cancel_twice_and_without_jobs(run: Run) -> None:
    run.engine.cancel()
    run.engine.cancel()
    run.close()
    run.close()
