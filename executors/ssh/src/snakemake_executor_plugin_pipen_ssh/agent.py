"""Talking with the agent: the bash script that works on a machine (``agent.sh``)."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from importlib.resources import files
from typing import Final

from pipen_executors.exceptions import SchedulerError, TransientError
from pipen_executors.plain_text import plain_line

from . import answers
from .answers import Answer, Event, Nonsense, Silence
from .client import Session

_GREETING: Final = b"pipen-agent "
_ENCODING: Final = "utf-8"
_ERRORS: Final = "surrogateescape"
PATIENCE: Final = 180.0
"""Seconds after which a machine that leaves a request without an answer is connected to again."""


class NoShellError(Exception):
    """A session has ended before bash ran in it; the text is what it said."""


def _shown(text: str) -> str:
    return plain_line(text.encode(_ENCODING, "replace").decode(_ENCODING))


def script(name: str) -> bytes:
    """Return the text of a bash script that lies beside this module."""
    return files(__package__).joinpath(name).read_bytes()


def frame(*fields: object) -> bytes:
    """Return a request: its fields, each ended by a null byte."""
    return b"".join(str(field).encode(_ENCODING, _ERRORS) + b"\0" for field in fields)


async def greet(session: Session, text: bytes, greeting: bytes) -> None:
    """Send a script to a bash and wait until it runs; what a login prints before is passed over.

    Parameters
    ----------
    session
        The session that runs bash.
    text
        The script, and what else it is to read.
    greeting
        How the first line begins that the script writes.

    Raises
    ------
    NoShellError
        If bash does not run it.
    """
    with contextlib.suppress(ConnectionError):  # what it says of that is more telling
        session.stdin.write(text)
        await session.stdin.drain()
    try:
        while not (line := await session.stdout.readline()).startswith(greeting):
            if not line:
                break
        else:
            return
    except ValueError:  # no end of the line
        raise NoShellError("what the login prints has no end") from None
    raise NoShellError(await session.why())


class Agent:
    """The agent of one connection.

    Parameters
    ----------
    session
        The session that runs it, see :func:`greet`.
    name
        Of the machine, for messages.
    on_event
        Called with the name of each event.

    Attributes
    ----------
    failure
        What was wrong with what it sent, or that it sent nothing, if anything was.
    """

    def __init__(self, session: Session, name: str, on_event: Callable[[str], None]) -> None:
        self._session = session
        self._name = name
        self._on_event = on_event
        self._ids = itertools.count(1)
        self._asked: dict[str, asyncio.Future[str]] = {}
        self.failure: Nonsense | Silence | None = None

    async def greet(self) -> None:
        """Wait until it runs, see :func:`greet`."""
        await greet(self._session, script("tree.sh") + script("agent.sh"), _GREETING)

    async def ask(self, operation: str, *fields: object, patience: float = PATIENCE) -> str:
        """Make a request and return its answer.

        Raises
        ------
        SchedulerError
            If the agent refuses it, in its words.
        TransientError
            If the connection is lost; the request may have been carried out.
        Silence
            If there is no answer in time, likewise.
        """
        number = str(next(self._ids))
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            async with asyncio.timeout(patience):
                self._session.stdin.write(frame(operation, number, *fields))
                return await answer
        except TimeoutError:
            raise Silence(f"no answer to '{operation}' within {patience:g} s") from None
        except OSError as error:
            raise TransientError(f"{self._name}: the connection is lost ({error})") from None
        finally:
            del self._asked[number]

    async def listen(self) -> None:
        """Take in answers and events until the session, or its connection, ends."""
        try:
            while line := await self._session.stdout.readline():
                self._take(line.decode(_ENCODING, _ERRORS).rstrip("\n"))
        except OSError:
            pass
        except Nonsense as error:
            self.failure = error
        except ValueError:
            self.failure = Nonsense("it sent a line without an end")
        for answer in self._asked.values():
            if not answer.done():
                why = f"{self._name}: {self.failure or 'the connection was lost meanwhile'}"
                answer.set_exception(TransientError(why))

    def _take(self, line: str) -> None:
        match answers.line(line):
            case Event(name):
                self._on_event(name)
            case Answer(number, is_ok, text):
                answer = self._asked.get(number)
                if answer is None or answer.done():
                    return
                if is_ok:
                    answer.set_result(text)
                else:
                    answer.set_exception(SchedulerError(f"{self._name}: {_shown(text)}"))
