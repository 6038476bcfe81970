"""Running a scheduler's commands."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from .exceptions import SchedulerError, TransientError

_PATIENCE: Final = 120.0
_calls: contextvars.ContextVar[Counter[str]] = contextvars.ContextVar("calls")


def count_calls_in(counter: Counter[str]) -> None:
    """Count the calls to the scheduler in here, in this task and those that it starts."""
    _calls.set(counter)


def count_call(name: str) -> None:
    """Count one call to the scheduler, by the name of its command or method."""
    with contextlib.suppress(LookupError):
        _calls.get()[name] += 1


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended."""

    rc: int
    stdout: str
    stderr: str


async def run(
    words: Sequence[str],
    *,
    stdin: str = "",
    env: Mapping[str, str] | None = None,
    patience: float = _PATIENCE,
) -> Done:
    """Run a command, without a shell, and wait for its end; cancelled, it is ended.

    Parameters
    ----------
    words
        The command and its arguments.
    stdin
        Text for its standard input.
    env
        Its complete environment; this process's by default.
    patience
        Seconds after which a command that hangs is ended.

    Raises
    ------
    SchedulerError
        If there is no such command.
    TransientError
        If it could not be started for want of resources, hangs, or is ended by a signal.
    """
    count_call(os.path.basename(words[0]))
    try:
        process = await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=env,
            # Ctrl-C at the terminal is for Snakemake; the command must come to its end.
            start_new_session=True,
        )
    except FileNotFoundError:
        raise SchedulerError(f"there is no command {words[0]!r}") from None
    except PermissionError as error:
        raise SchedulerError(f"{words[0]}: {error.strerror}") from None
    except OSError as error:
        raise TransientError(f"{words[0]}: {error.strerror}") from None
    try:
        async with asyncio.timeout(patience):
            out, err = await process.communicate(stdin.encode(errors="surrogateescape") or None)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise TransientError(f"{words[0]} has not answered for {patience:g} s") from None
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    if process.returncode < 0:
        # Ctrl-C at the terminal may reach it before it has a session of its own.
        raise TransientError(f"{words[0]} was ended by signal {-process.returncode}")
    return Done(process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))
