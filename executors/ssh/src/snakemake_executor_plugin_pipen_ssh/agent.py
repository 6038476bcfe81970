"""Talking with the agent: the bash script that works on a machine (``agent.sh``)."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from importlib.resources import files
from typing import Any, Final

import asyncssh

from pipen_executors.exceptions import SchedulerError, TransientError

_GREETING: Final = b"pipen-agent "
_ENCODING: Final = "utf-8"
_ERRORS: Final = "surrogateescape"


def script(name: str) -> bytes:
    """Return the text of a bash script that lies beside this module."""
    return files(__package__).joinpath(name).read_bytes()


def frame(*fields: object) -> bytes:
    """Return a request: its fields, each ended by a null byte."""
    return b"".join(str(field).encode(_ENCODING, _ERRORS) + b"\0" for field in fields)


async def greet(process: Any, text: bytes, greeting: bytes, name: str) -> None:
    """Send a script to a bash and wait until it runs; what a login prints before is passed over.

    Parameters
    ----------
    process
        The session that runs bash (``asyncssh.SSHClientProcess`` with bytes).
    text
        The script, and what else it is to read.
    greeting
        How the first line begins that the script writes.
    name
        Of the machine, for messages.

    Raises
    ------
    SchedulerError
        If bash does not run it.
    """
    process.stdin.write(text)
    while not (line := await process.stdout.readline()).startswith(greeting):
        if not line:
            why = (await process.stderr.read()).decode(errors="replace").strip()
            raise SchedulerError(f"{name} does not run /bin/bash: {why or 'no reason'}")


class Agent:
    """The agent of one connection.

    Parameters
    ----------
    process
        The session that runs it, see :func:`greet`.
    name
        Of the machine, for messages.
    on_event
        Called with the name of each event.
    """

    def __init__(self, process: Any, name: str, on_event: Callable[[str], None]) -> None:
        self._process = process
        self._name = name
        self._on_event = on_event
        self._ids = itertools.count(1)
        self._asked: dict[str, asyncio.Future[str]] = {}

    async def greet(self) -> None:
        """Wait until it runs, see :func:`greet`."""
        await greet(self._process, script("agent.sh"), _GREETING, self._name)

    async def ask(self, operation: str, *fields: object) -> str:
        """Make a request and return its answer.

        Raises
        ------
        SchedulerError
            If the agent refuses it, in its words.
        TransientError
            If the connection is lost; the request may have been carried out.
        """
        number = str(next(self._ids))
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            self._process.stdin.write(frame(operation, number, *fields))
            return await answer
        except OSError as error:
            raise TransientError(f"{self._name}: the connection is lost ({error})") from None
        finally:
            del self._asked[number]

    async def listen(self) -> None:
        """Take in answers and events until the session, or its connection, ends."""
        with contextlib.suppress(OSError, asyncssh.Error):
            await self._take_lines()
        for answer in self._asked.values():
            if not answer.done():
                why = f"{self._name}: the connection was lost meanwhile"
                answer.set_exception(TransientError(why))

    async def _take_lines(self) -> None:
        async for line in self._process.stdout:
            kind, _, text = line.decode(_ENCODING, _ERRORS).rstrip("\n").partition(" ")
            if kind == "!":
                self._on_event(text)
            elif kind == "=":
                self._take(*text.split(" ", 2))

    def _take(self, number: str, verdict: str, text: str = "") -> None:
        answer = self._asked.get(number)
        if answer is None or answer.done():
            return
        if verdict == "ok":
            answer.set_result(text)
        else:
            answer.set_exception(SchedulerError(f"{self._name}: {text}"))
