"""Asking again while somebody is away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import tenacity

from .exceptions import TransientError
from .job import Job

T = TypeVar("T")


async def persist(
    ask: Callable[[Sequence[Job]], Awaitable[T]],
    jobs: Sequence[Job],
    patience: float,
    *,
    warn: Callable[[str], None],
    unless: asyncio.Event | None = None,
) -> T:
    """Ask about jobs, again with back-off (with jitter) while the scheduler is away.

    Parameters
    ----------
    ask
        Raises :class:`TransientError` when it is worth asking again.
    jobs
        What is asked about.
    patience
        Seconds after which it is given up.
    warn
        Called with a line for the user, now and then.
    unless
        An event that ends the waiting early.

    Raises
    ------
    TransientError
        If it is still away after ``patience`` seconds.
    """

    async def ask_once() -> T:
        return await ask(jobs)

    return await repeat(ask_once, patience, warn=warn, unless=unless)


async def repeat(
    ask: Callable[[], Awaitable[T]],
    patience: float,
    *,
    warn: Callable[[str], None],
    unless: asyncio.Event | None = None,
    pauses: tuple[float, float, float] = (0.3, 0.5, 30),
) -> T:
    """Ask once, and again with back-off (with jitter) on :class:`TransientError`.

    Parameters
    ----------
    ask, patience, warn, unless
        As :func:`persist` has them.
    pauses
        Seconds: the shortest pause, what is doubled each time, and the longest.

    Raises
    ------
    TransientError
        If it is still so after ``patience`` seconds.
    """

    def tell(state: tenacity.RetryCallState) -> None:
        if state.attempt_number in (1, 4) or state.attempt_number % 10 == 0:
            assert state.outcome is not None
            warn(f"{state.outcome.exception()}; trying again")

    async def pause(seconds: float) -> None:
        event = unless or asyncio.Event()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(event.wait(), seconds)
            raise TransientError("given up")

    shortest, growing, longest = pauses
    retrying = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(TransientError),
        wait=tenacity.wait_random_exponential(multiplier=growing, max=longest, min=shortest),
        stop=tenacity.stop_after_delay(patience),
        sleep=pause,
        before_sleep=tell,
        reraise=True,
    )
    return await retrying(ask)
