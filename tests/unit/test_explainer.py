"""Asking accounting how jobs ended."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from pipen_executors.explainer import NOTHING, Explainer
from pipen_executors.states import ExitReason, Outcome, Tentative

BY_SOMEBODY = Outcome(ExitReason.CANCELLED)
BY_ROOT = Outcome(ExitReason.CANCELLED, None, "by root")


class Accounting:
    """Gives one answer after the other, the last for ever."""

    accounting_lag = 60.0

    def __init__(self, *answers: Outcome | Tentative | None) -> None:
        self.answers = list(answers)

    async def explain_jobs(self, jobs: Sequence[Any]) -> Mapping[Any, Any]:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return {} if answer is NOTHING else dict.fromkeys(jobs, answer)


def ask(scheduler: Any, monkeypatch: pytest.MonkeyPatch) -> Outcome | None:
    monkeypatch.setattr("pipen_executors.explainer._PAUSE", 0.01)

    async def both() -> Outcome | None:
        explainer = Explainer(scheduler, print)
        task = asyncio.create_task(explainer.run())
        try:
            job: Any = "a job"
            return await explainer.ask(job, lost=True)
        finally:
            task.cancel()

    return asyncio.run(both())


def test_what_is_tentative_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = Accounting(NOTHING, Tentative(BY_SOMEBODY), BY_ROOT)
    assert ask(scheduler, monkeypatch) == BY_ROOT


@pytest.mark.parametrize(
    ("last", "told"), [(Tentative(BY_SOMEBODY), BY_SOMEBODY), (NOTHING, NOTHING)]
)
def test_what_stays_tentative_is_told_in_the_end(
    last: Outcome | Tentative, told: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = Accounting(last)
    scheduler.accounting_lag = 0.1
    assert ask(scheduler, monkeypatch) == told


def test_a_job_that_runs_again_has_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(Accounting(None), monkeypatch) is None
