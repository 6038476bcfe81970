"""What Grid Engine's commands say when they refuse, read: pure functions from text to errors.

Sources: sge_submit(1) (EXIT STATUS, -w), Grid Engine 8.1.9 and its relatives.
"""

from __future__ import annotations

import re
from typing import Final

from pipen_executors.exceptions import SchedulerError, TransientError

_TRANSIENT: Final = (
    "unable to contact qmaster",
    "unable to send message to qmaster",
    "cannot reach qmaster",
    "got select error",
    "got send error",
    "got read error",
    "got no connection",
    "commlib error",
    "failed receiving gdi request",
    "connection refused",
    "connection reset",
    "communication problem",
    "temporarily unavailable",
    "timed out",
)
_TOO_MANY_TASKS: Final = re.compile(r"more than (\d+) tasks")
_LIMIT: Final = re.compile(r"only \d+ jobs are allowed|job rejected: only \d+", re.IGNORECASE)
_NEVER: Final = "no suitable queues"
_TRY_AGAIN: Final = 25
"""Exit status of qsub for a limit of the moment (sge_submit(1), EXIT STATUS)."""
_BECAUSE: Final = re.compile(r"because (?:job requests )?([^;]+)")
_UNKNOWN_RESOURCE: Final = re.compile(r"unknown resource \((\S+)\)")
_MOST_REASONS: Final = 3


class LimitReached(TransientError):
    """Grid Engine takes no more jobs of this user for the time being."""


class TooManyTasks(SchedulerError):
    """An array has more tasks than ``max_aj_tasks`` (sge_conf(5)) allows."""

    def __init__(self, text: str, most: int) -> None:
        super().__init__(text)
        self.most = most


class NoSuitableQueue(SchedulerError):
    """No queue could run the job (qsub ``-w``).

    Attributes
    ----------
    reasons
        Why not, each reason once; a few of them.
    unknown
        Resources that some queue is not known to have.
    away
        Whether some queues were left out because their hosts are not heard of.
    """

    def __init__(self, text: str, said: str) -> None:
        super().__init__(text)
        reasons = list(dict.fromkeys(match.strip() for match in _BECAUSE.findall(said)))
        more = ", …" if len(reasons) > _MOST_REASONS else ""
        self.reasons = ", ".join(reasons[:_MOST_REASONS]) + more
        self.unknown = set(_UNKNOWN_RESOURCE.findall(said))
        self.away = "temporarily not available" in said


def refusal(text: str, command: str, rc: int) -> SchedulerError:
    """Turn what a command wrote into the error that fits.

    Parameters
    ----------
    text
        What the command wrote.
    command
        Its name, for the message.
    rc
        Its exit status.
    """
    lines = (line.strip().removeprefix("Unable to run job:") for line in text.splitlines())
    lines = (line.strip().removeprefix("error:").strip() for line in lines)
    said = "; ".join(dict.fromkeys(line for line in lines if line and line != "Exiting."))
    message = f"{command}: {said or f'exit status {rc}, no reason given'}"
    lowered = said.lower()
    if match := _TOO_MANY_TASKS.search(lowered):
        return TooManyTasks(message, int(match[1]))
    if _NEVER in lowered:
        return NoSuitableQueue(message, said)
    if _LIMIT.search(said) or (command == "qsub" and rc == _TRY_AGAIN):
        return LimitReached(message)
    if any(phrase in lowered for phrase in _TRANSIENT):
        return TransientError(message)
    return SchedulerError(message)
