"""Finding out from the scheduler how jobs ended that did not say so themselves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from . import filesystem
from .exceptions import TransientError
from .job import Job
from .scheduler import SchedulerPostInit
from .states import ExitReason, Outcome, Tentative

_TOGETHER: Final = 0.03
"""Seconds for which questions are collected."""
_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 5.0

NOTHING: Final = Outcome(ExitReason.LOST)
"""Stands for the scheduler's knowing nothing of a job's end."""


@dataclass(slots=True)
class _Question:
    """A job whose end needs an explanation."""

    answer: asyncio.Future[Outcome | None]
    lost: bool
    first_asked: float = 0.0


class Explainer:
    """Asks accounting about all jobs whose end needs an explanation, in one call.

    Parameters
    ----------
    scheduler
        Whose accounting is asked.
    warn_once
        Called with a line for the user that need not be repeated.
    """

    def __init__(self, scheduler: SchedulerPostInit, warn_once: Callable[[str], None]) -> None:
        self._scheduler = scheduler
        self._warn_once = warn_once
        self._questions: dict[Job, _Question] = {}
        self._wake = asyncio.Event()

    async def ask(self, job: Job, *, lost: bool) -> Outcome | None:
        """Return how a job ended; None if it has not, because the scheduler runs it again.

        :data:`NOTHING` is the answer where nobody knows.

        Parameters
        ----------
        job
            The job.
        lost
            Whether it left no exit status: then it is not given up while accounting
            cannot be reached.
        """
        question = _Question(asyncio.get_running_loop().create_future(), lost)
        self._questions[job] = question
        self._wake.set()
        return await question.answer

    async def run(self) -> None:
        """Answer questions for ever.

        Accounting may lag behind: an answer that is missing is asked for again for as
        long as the scheduler says that makes sense.
        """
        pause = _PAUSE
        while True:
            await self._wake.wait()
            await asyncio.sleep(_TOGETHER)
            self._wake.clear()
            if await self._answer_some():
                pause = _PAUSE
            if self._questions:
                asyncio.get_running_loop().call_later(pause, self._wake.set)
                pause = min(pause * 1.5, _LONGEST_PAUSE)

    async def _explain_one(
        self, job: Job
    ) -> Mapping[Job, Outcome | Tentative | TransientError | None]:
        try:
            return await self._scheduler.explain_jobs([job])
        except TransientError as error:
            return {job: error}
        except Exception as error:
            self._warn_once(
                f"Why job {job.jid} ended could not be found out: {filesystem.describe(error)}"
            )
            return {job: NOTHING}

    async def _answer_some(self) -> bool:
        """Ask about all jobs once; tell whether any answer could be given."""
        jobs = list(self._questions)
        known: dict[Job, Outcome | Tentative | TransientError | None] = {}
        try:
            known |= await self._scheduler.explain_jobs(jobs)
        except TransientError as error:
            known |= dict.fromkeys(jobs, error)
        except Exception:  # of one of them, whose files cannot be read: each is asked about alone
            for job in jobs:
                known |= await self._explain_one(job)
        for text in {str(a) for a in known.values() if isinstance(a, TransientError)}:
            self._warn_once(f"{text}; asking again")
        now = time.monotonic()
        answered = False
        for job in jobs:
            question = self._questions[job]
            answer = known.get(job, NOTHING)
            if isinstance(answer, TransientError):
                if question.lost:
                    continue
                answer = NOTHING
            question.first_asked = question.first_asked or now
            over = now - question.first_asked >= self._scheduler.accounting_lag
            if isinstance(answer, Tentative):
                answer = answer.outcome if over else NOTHING
            if answer is not NOTHING or over:
                del self._questions[job]
                question.answer.set_result(answer)
                answered = True
        return answered
