"""What machines send, read and checked: pure functions.

A machine may be broken, or somebody else's by now. What is not as ``agent.sh`` writes it raises
:class:`Nonsense`, and the session is not listened to any further.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from pipen_executors.exceptions import TransientError

Version = tuple[int, int]
"""Size and time of modification (in nanoseconds) of a file; for a directory, the sizes of all
files in it, and a number that stands for what there is in it."""

_EVENT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.(?:start|end\.[0-9]{1,3})", re.ASCII)
_NUMBER: Final = re.compile(r"[0-9]{1,18}", re.ASCII)
_TIME: Final = re.compile(r"(-?)([0-9]{1,12})(?:\.([0-9]{1,30}))?", re.ASCII)
_PID: Final = re.compile(r"[1-9][0-9]{0,9}", re.ASCII)
_DIGEST: Final = re.compile(r"(?:[0-9a-f]{64})?", re.ASCII)
_LATEST: Final = 1 << 33
"""Seconds since 1970 beyond which no file system of this machine keeps a time."""
_SHOWN: Final = 80


class Nonsense(TransientError):
    """What a machine sent cannot be right; the request may have been carried out."""


class Silence(TransientError):
    """A machine sent no answer in time, as in a network that fails; otherwise likewise."""


@dataclass(frozen=True, slots=True)
class Event:
    """A job has ended: the name of a file in the events directory."""

    name: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What the agent says to a request.

    Parameters
    ----------
    number
        Of the request.
    is_ok
        Whether it was carried out.
    text
        What it answers, or why it refuses.
    """

    number: str
    is_ok: bool
    text: str


@dataclass(frozen=True, slots=True)
class Hello:
    """What a machine says of itself.

    Parameters
    ----------
    cores, mem_mb
        Its size.
    oom_kills
        How many processes its kernel has killed for want of memory.
    time
        Its clock, in nanoseconds since 1970.
    stock
        Name of what lies in its tree, which is the same on all machines that have the same tree.
    tree
        Where its files begin.
    """

    cores: int
    mem_mb: int
    oom_kills: int
    time: int
    stock: str
    tree: str


def nonsense(what: str) -> Nonsense:
    """Return an error that shows the beginning of what a machine sent."""
    return Nonsense(f"it sent {what[:_SHOWN]!r}{' …' if len(what) > _SHOWN else ''}")


def line(text: str) -> Event | Answer | None:
    """Read a line of the agent; None for one that means nothing to anybody.

    >>> line("= 7 ok 12 0")
    Answer(number='7', is_ok=True, text='12 0')

    Raises
    ------
    Nonsense
        If it is an answer that is none.
    """
    kind, _, rest = text.partition(" ")
    if kind == "!":
        return Event(rest) if _EVENT.fullmatch(rest) else None  # another file, by somebody else
    if kind != "=":
        return None
    number, _, rest = rest.partition(" ")
    verdict, _, words = rest.partition(" ")
    if not _NUMBER.fullmatch(number) or verdict not in ("ok", "error"):
        raise nonsense(text)
    return Answer(number, verdict == "ok", words)


def number(text: str) -> int:
    """Read a number that is not below zero."""
    if not _NUMBER.fullmatch(text):
        raise nonsense(text)
    return int(text)


def nanoseconds(text: str) -> int:
    """Read a time in seconds as exactly as it is written: a float holds no nanoseconds.

    >>> nanoseconds("1600000000.123456789")
    1600000000123456789
    """
    match = _TIME.fullmatch(text)
    if match is None or int(match[2]) > _LATEST:
        raise nonsense(text)
    size = int(match[2]) * 10**9 + int((match[3] or "").ljust(9, "0")[:9])
    return -size if match[1] else size


def seconds(time: int) -> str:
    """Write a time in nanoseconds as seconds, the reverse of :func:`nanoseconds`."""
    whole, part = divmod(abs(time), 10**9)
    return f"{'-' if time < 0 else ''}{whole}.{part:09d}"


def hello(text: str) -> Hello:
    """Read the answer to ``hello``."""
    words = text.split(" ", 5)
    if len(words) != 6 or not words[5].startswith("/"):
        raise nonsense(text)
    cores, memory, oom_kills, time, stock, tree = words
    return Hello(number(cores), number(memory), number(oom_kills), nanoseconds(time), stock, tree)


def started(text: str) -> tuple[str, int]:
    """Read the answer to ``start``: the process id, and the count of memory kills."""
    pid, _, oom_kills = text.partition(" ")
    if not _PID.fullmatch(pid):
        raise nonsense(text)
    return pid, number(oom_kills)


def states(text: str, count: int) -> tuple[int, list[str]]:
    """Read the answer to ``query``: the count of memory kills, and a word for each job.

    The word is ``running``, ``gone`` or an exit status.
    """
    oom_kills, *words = text.split() or [""]
    known = all(w in ("running", "gone") or (w.isascii() and w.isdigit()) for w in words)
    if len(words) != count or not known or any(w.isdigit() and int(w) > 255 for w in words):
        raise nonsense(text)
    return number(oom_kills), words


def versions(text: str, count: int) -> list[Version | str | None]:
    """Read the answer to ``stat``: a word for each name, None where there is nothing.

    A directory has its digest, in hexadecimal; an empty one if it cannot be looked into.
    """
    words = text.split(" ") if text else []
    if len(words) != count:
        raise nonsense(text)
    return [_version(word) for word in words]


def _version(word: str) -> Version | str | None:
    if word == "-":
        return None
    if word.startswith("d:"):
        if not _DIGEST.fullmatch(word[2:]):
            raise nonsense(word)
        return word[2:]
    size, _, time = word.partition(":")
    return number(size), nanoseconds(time)
