"""What Grid Engine's commands print, read: pure functions from text to facts.

Sources: qstat(1), sge_status(5), qsub(1), Grid Engine 8.1.9 and its relatives.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from pipen_executors.exceptions import SchedulerError, TransientError
from pipen_executors.states import Presence


class UnaskedArray(SchedulerError):
    """A job became an array that was not asked for; ``jid`` is its number."""

    def __init__(self, jid: str) -> None:
        super().__init__(
            "qsub made an array of it: a file sge_request(5) has -t, which pipen-sge sets itself"
        )
        self.jid = jid


def submitted_id(text: str, *, array: bool = False) -> str:
    """Read ``qsub -terse``: the number of the job, without the tasks of an array.

    Raises
    ------
    SchedulerError
        If there is no job id in it. Sites' wrappers may print lines before it.
    UnaskedArray
        If it is one of an array, where none was asked for.
    """
    for line in reversed(text.splitlines()):
        if match := re.fullmatch(r"(\d+)(\.[\d:-]+)?", line.strip()):
            if match[2] and not array:
                raise UnaskedArray(match[1])
            return match[1]
        if match := re.match(r"Your job(?:-array)? (\d+)[. ]", line.strip()):
            return match[1]  # where -terse is not known
    raise SchedulerError(f"qsub answered {text.strip()!r}, in which there is no job id")


def tasks_of(text: str) -> Iterator[int]:
    """Read task ids as qstat prints them: ``3``, ``5-9:2``, several with commas.

    >>> list(tasks_of("3,5-9:2"))
    [3, 5, 7, 9]
    """
    for part in text.split(","):
        first, _, rest = part.strip().partition("-")
        last, _, step = rest.partition(":")
        if first.isdigit():
            yield from range(int(first), int(last or first) + 1, int(step or 1))


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """One job or array task in the queue."""

    name: str
    state: str
    queue: str

    @property
    def presence(self) -> Presence:
        """Whether it waits or runs (sge_status(5), Job state)."""
        waiting = "q" in self.state or "w" in self.state
        return Presence.PENDING if waiting else Presence.RUNNING

    @property
    def is_known(self) -> bool:
        """Whether all of its state's letters are those of sge_status(5), Job state."""
        return set(self.state) <= set("dEhrRsStTqwNPzoxm")

    @property
    def is_error(self) -> bool:
        """Whether Grid Engine has given up starting it (``Eqw``)."""
        return "E" in self.state

    @property
    def is_deleted(self) -> bool:
        """Whether it is being deleted."""
        return "d" in self.state

    @property
    def is_held(self) -> bool:
        """Whether it waits for somebody to release it."""
        return "h" in self.state

    @property
    def is_requeued(self) -> bool:
        """Whether it runs, or is to run, once more."""
        return "R" in self.state


def queue(text: str) -> dict[str, QueueEntry]:
    """Read ``qstat -xml``: jobs by id, array tasks as ``job.task``.

    Raises
    ------
    TransientError
        If it is not what qstat prints, which says nothing about any job.
    """
    try:
        # Names of jobs may hold control characters, which XML does not allow.
        root = ElementTree.fromstring(re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", "?", text))
    except ElementTree.ParseError as error:
        raise TransientError(f"qstat answered what cannot be read: {error}") from None
    entries = {}
    for element in root.iter("job_list"):
        number = element.findtext("JB_job_number", "").strip()
        entry = QueueEntry(
            name=element.findtext("JB_name") or "",
            state=(element.findtext("state") or "").strip(),
            queue=element.findtext("queue_name") or "",
        )
        tasks = list(tasks_of(element.findtext("tasks") or ""))
        for jid in [f"{number}.{task}" for task in tasks] or [number]:
            entries[jid] = entry
    return entries


def error_reasons(text: str) -> dict[str, str]:
    """Read why jobs are in the error state from ``qstat -j``; jobs that are no arrays too.

    Tasks are named ``job.task``, a job that is no array ``job.1``.
    """
    reasons = {}
    number = ""
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        if name == "job_number":
            number = rest.strip()
        elif match := re.match(r"error reason\s+(\d+)", name):
            # Time and [uid:pid] come first.
            said = re.sub(r"^[\d/]+ [\d:]+ \[\d+:\d+\]:\s*(error:\s*)?", "", rest.strip())
            reasons[f"{number}.{match[1]}"] = said
    return reasons


def table(text: str) -> dict[str, str]:
    """Read what ``qconf -sconf`` and ``-sp`` print: a name and a value per line."""
    joined = re.sub(r"\\\n\s*", "", text)
    pairs = (line.split(None, 1) for line in joined.splitlines() if not line.startswith("#"))
    return {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}


def obvious_environment(rules: Mapping[str, str]) -> str | None:
    """Return the environment for threads: the one that keeps all slots on one host.

    Parameters
    ----------
    rules
        Allocation rules of all environments by name (sge_pe(5)).
    """
    fitting = [name for name, rule in rules.items() if rule == "$pe_slots"]
    return fitting[0] if len(fitting) == 1 else None


def compress(jids: Iterable[str], whole: Mapping[str, int]) -> list[str]:
    """Name jobs in as few words as qdel(1) allows: arrays as arrays, tasks as ranges.

    Parameters
    ----------
    jids
        Ids of jobs and array tasks (``7``, ``8.1``, ``8.2``).
    whole
        Number of tasks of each array by its id.

    >>> compress(["7", "8.1", "8.2", "9.1", "9.2", "9.4"], {"8": 2, "9": 4})
    ['7', '8', '9.1-2', '9.4']
    """
    tasks: dict[str, list[int]] = {}
    words = []
    for jid in jids:
        base, _, task = jid.partition(".")
        if task:
            tasks.setdefault(base, []).append(int(task))
        else:
            words.append(base)
    for base, numbers in tasks.items():
        if len(numbers) == whole.get(base):
            words.append(base)
            continue
        start = last = 0
        for number in [*sorted(numbers), 0]:
            if start and number != last + 1:
                words.append(f"{base}.{start}-{last}" if last > start else f"{base}.{start}")
                start = 0
            start, last = start or number, number
    return words
