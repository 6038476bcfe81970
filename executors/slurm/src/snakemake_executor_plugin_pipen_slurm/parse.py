"""What Slurm's commands print, read: pure functions from text to facts.

Sources: sbatch(1), squeue(1) JOB STATE CODES and JOB REASON CODES, sacct(1), Slurm 22.05
and later.
"""

from __future__ import annotations

import math
import pwd
import re
import signal
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from pipen_executors.exceptions import SchedulerError, TransientError
from pipen_executors.states import ExitReason, Outcome, Presence

from .tables import ENDS, NEVER, PRESENCE

SQUEUE_FORMAT: Final = "%i|%T|%N|%r|%j|%k"
"""Job (array task) id, state, nodes, reason, name, comment; the comment is free text and comes
last."""
SACCT_FORMAT: Final = "JobID,State,ExitCode,NodeList,End,Submit,Comment"
"""What :func:`accounting` reads; the comment is kept by few sites (slurm.conf(5),
AccountingStoreFlags)."""
MARK: Final = re.compile(r"\(pipen [0-9a-f]+\.(\w+)\.(\d+)\)")
"""What a submission has in its comment: a token, that of its first job, and how many jobs it is."""
SACCT_USED_FORMAT: Final = "JobID,State,ExitCode,ElapsedRaw,TotalCPU,MaxRSS,ReqMem,AllocCPUS"

_TRANSIENT: Final = (
    "unable to contact slurm controller",
    "socket timed out",
    "temporarily unavailable",
    "connection refused",
    "connection reset",
    "connect failure",
    "zero bytes were transmitted",
    "slurm backup controller",
    "unable to establish controller machine",
    "message send failure",
    "transport endpoint is not connected",
    "rpc rate limit",
    "problem talking to the database",
    "open_persist_conn",
    "slurm_persist_conn",
    "protocol authentication error",
)
_POLICY: Final = "violates accounting/qos policy"
_FULL: Final = "temporarily unable to accept job"


class LimitReached(TransientError):
    """Slurm takes no more jobs of this user for the time being."""


def refusal(text: str, command: str) -> SchedulerError:
    """Turn what a command wrote on its standard error into the error that fits.

    Parameters
    ----------
    text
        Standard error of the command.
    command
        Its name, for the message.
    """
    lines = [line.split("error: ", 1)[-1].strip() for line in text.splitlines() if line.strip()]
    said = "; ".join(dict.fromkeys(lines)) or "no reason given"
    lowered = said.lower()
    if _FULL in lowered or (_POLICY in lowered and _is_submit_limit(lines)):
        return LimitReached(f"{command}: {said}")
    if any(phrase in lowered for phrase in _TRANSIENT):
        return TransientError(f"{command}: {said}")
    return SchedulerError(f"{command}: {said}")


def _is_submit_limit(lines: Iterable[str]) -> bool:
    """Tell whether a policy is violated by the number of jobs, which passes.

    sbatch names the limit on a line of its own (``AssocMaxSubmitJobLimit``). Others forbid
    the job itself, where the QOS has DenyOnLimit (sacctmgr(1)).
    """
    names = [line for line in lines if re.fullmatch(r"\w+", line)]
    return not names or any("submit" in name.lower() for name in names)


def submitted_id(text: str) -> tuple[str, str]:
    """Read ``sbatch --parsable``: job id, and the cluster where one was named.

    Raises
    ------
    SchedulerError
        If there is no job id in it. Sites' wrappers may print lines before it.
    """
    for line in reversed(text.splitlines()):
        if match := re.fullmatch(r"(\d+)(?:;(\S+))?", line.strip()):
            return match[1], match[2] or ""
    raise SchedulerError(f"sbatch answered {text.strip()!r}, in which there is no job id")


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """One line of squeue."""

    jid: str
    state: str
    nodes: str
    reason: str
    name: str = ""
    comment: str = ""

    @property
    def presence(self) -> Presence:
        """Whether the job waits, runs, or has ended.

        A state that a later release of Slurm may have is taken for running: the job is there.
        """
        return PRESENCE.get(self.state, Presence.RUNNING if not self.is_known else Presence.GONE)

    @property
    def is_known(self) -> bool:
        """Whether the state is one of squeue(1)'s, JOB STATE CODES."""
        return self.state in PRESENCE or self.state in ENDS

    def is_of(self, token: str, name: Callable[[], str], first: str | None = None) -> bool:
        """Tell whether it is a job's entry, and not that of another one with the same id.

        Slurm uses its ids again: in the course of years, or at once when a slurmctld that was
        killed comes back with the state of some seconds before. Where a site puts something
        else into comments, the name has to do.

        Parameters
        ----------
        token
            Of the job's submission.
        name
            Returns what the job's name in the queue begins with; asked for only if need be.
        first
            The token of the first job of its array, which the whole array has; None where
            that is not known.
        """
        if marks := MARK.findall(self.comment):
            marked, count = marks[-1]
            if "_" in self.jid and first is None:
                return int(count) > 1
            return bool(marked == (first or token))
        return self.name.startswith(name())

    @property
    def dead_end(self) -> Outcome | None:
        """What becomes of a job that waits for what will not come; None for all others."""
        if self.presence is not Presence.PENDING:
            return None
        if self.reason.replace("_", " ").startswith("launch failed requeued held"):
            return Outcome(ExitReason.LAUNCH_FAILURE, detail=f"Slurm says {self.reason}")
        word = re.split(r"[ ,(]", self.reason, maxsplit=1)[0]
        if word in NEVER:
            return Outcome(ExitReason.UNSCHEDULABLE, detail=f"Slurm says {self.reason}")
        return None


def queue(text: str) -> dict[str, QueueEntry]:
    """Read squeue in :data:`SQUEUE_FORMAT` with ``--array``."""
    entries = {}
    for line in text.splitlines():
        fields = line.strip().split("|", 5)
        if len(fields) == 6:
            jid, state, nodes, reason, name, comment = fields
            reason = "" if reason == "None" else reason
            entries[jid] = QueueEntry(jid, state, nodes, reason, name, comment)
    return entries


@dataclass(frozen=True, slots=True)
class Ended:
    """What accounting has of an ended job: its end, when it was submitted, and its comment.

    ``submitted`` is in seconds since the epoch, or None where that cannot be read.
    """

    outcome: Outcome
    submitted: float | None
    comment: str

    def is_of(self, token: str, since: float) -> bool:
        """Tell whether it is a job's record, and not an older one of the same id.

        Parameters
        ----------
        token
            Of the job's submission.
        since
            Time before which it was not submitted, in seconds since the epoch.
        """
        if marks := MARK.findall(self.comment):
            marked, count = marks[-1]
            if int(count) == 1 and marked != token:
                return False
        return self.submitted is None or self.submitted >= since


def accounting(text: str) -> dict[str, Ended]:
    """Read ``sacct --parsable2`` in :data:`SACCT_FORMAT`: how jobs ended.

    Jobs that have not ended for accounting, or were requeued, are left out. Where slurmctld
    registers a job late, with a final state already, the record of its end follows (in
    as_mysql_job.c, the start writes the state, and only the end its time and by whom).
    """
    outcomes = {}
    for line in text.splitlines():
        fields = line.strip().split("|", 6)
        if len(fields) < 7:
            continue
        jid, state, exit_code, nodes, end, submit, comment = fields
        outcome = ending(state, exit_code, nodes)
        if outcome is not None and end != "Unknown":
            submitted = float(submit) if submit.isdecimal() else None
            outcomes[jid] = Ended(outcome, submitted, comment)
    return outcomes


@dataclass(frozen=True, slots=True)
class Used:
    """What an ended job used: seconds of CPU, and peak of memory in bytes if it was sampled."""

    cpu: float
    memory: int | None


def used(text: str) -> dict[str, Used]:
    """Read ``sacct --parsable2`` in :data:`SACCT_USED_FORMAT`: what ended jobs used.

    The allocation has the CPU time of all steps, the steps have the memory (sacct(1), MaxRSS).
    Jobs of less than a second or so were never sampled.
    """
    cpu: dict[str, float] = {}
    memory: dict[str, int] = {}
    for line in text.splitlines():
        fields = line.strip().split("|")
        if len(fields) < 8:
            continue
        jid, _, step = fields[0].partition(".")
        if not step and ending(fields[1]) is not None:
            cpu[jid] = _cpu_seconds(fields[4])
        elif step and (peak := _bytes(fields[5])):
            memory[jid] = max(memory.get(jid, 0), peak)
    return {jid: Used(seconds, memory.get(jid)) for jid, seconds in cpu.items()}


def _cpu_seconds(text: str) -> float:
    """Read ``[days-[hours:]]minutes:seconds[.milliseconds]`` (sacct(1), TotalCPU)."""
    days, _, clock = text.rpartition("-")
    total = 0.0
    for part in clock.split(":"):
        total = total * 60 + float(part or 0)
    return total + int(days or 0) * 86_400


def _bytes(text: str) -> int:
    match = re.fullmatch(r"([\d.]+)([KMGTP]?)", text)
    return round(float(match[1]) * 1024 ** " KMGTP".index(match[2] or " ")) if match else 0


def ending(state: str, exit_code: str = "", nodes: str = "") -> Outcome | None:
    """Return how a job ended that is in a final state; None for any other state.

    Parameters
    ----------
    state
        A state, possibly with words behind it (``CANCELLED by 1000``).
    exit_code
        ``exit status:signal`` as sacct prints it.
    nodes
        Where it ran.
    """
    word, _, rest = state.partition(" ")
    reason = ENDS.get(word)
    if reason is None:
        return None
    detail = f"Slurm says {word}"
    if rest.startswith("by "):
        detail += f" by {_user(rest[3:])}"
    if nodes and nodes != "None assigned":
        detail += f" on {nodes}"
    if reason is not ExitReason.LAUNCH_FAILURE:
        return Outcome(reason, None, detail)
    status, _, number = exit_code.partition(":")
    if number.isdigit() and 0 < int(number) < 32:
        killed_by = signal.Signals(int(number)).name
        return Outcome(ExitReason.SIGNAL, 128 + int(number), f"{detail} by {killed_by}")
    # Greater numbers are Slurm's own: 53 is an output file that could not be opened.
    return Outcome(reason, int(status) if status.isdigit() and int(status) else None, detail)


def _user(uid: str) -> str:
    try:
        return pwd.getpwuid(int(uid)).pw_name
    except (KeyError, ValueError):
        return f"user {uid}"


_STEP_MESSAGES: Final = (
    (
        re.compile(r"exceeded memory limit|oom[-_ ]kill|Exceeded job memory"),
        ExitReason.OUT_OF_MEMORY,
    ),
    (re.compile(r"DUE TO TIME LIMIT"), ExitReason.TIMEOUT),
    (re.compile(r"DUE TO PREEMPTION"), ExitReason.PREEMPTED),
    (re.compile(r"DUE TO NODE FAIL"), ExitReason.NODE_FAILURE),
    (re.compile(r"CANCELLED AT"), ExitReason.CANCELLED),
)
"""What slurmstepd writes into a job's output before it ends the job, the most telling first."""

FINAL: Final = (ExitReason.OUT_OF_MEMORY, ExitReason.TIMEOUT)
"""What slurmstepd says of jobs that Slurm does not requeue."""


def step_message(text: str) -> Outcome | None:
    """Read why slurmstepd ended a job from what it wrote into the job's output.

    Needs no accounting, and outlives slurmctld's memory of the job (MinJobAge).
    """
    for pattern, reason in _STEP_MESSAGES:
        for line in text.splitlines():
            if "slurmstepd" in line and pattern.search(line):
                return Outcome(reason, None, line.split("error: ", 1)[-1].strip("* "))
    return None


def configuration(text: str) -> dict[str, str]:
    """Read ``scontrol show config``."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def largest_array(config: Mapping[str, str]) -> int:
    """Return how many tasks an array may have (slurm.conf(5), MaxArraySize)."""
    limits = [config.get("MaxArraySize", "")]
    limits += re.findall(r"max_array_tasks=(\d+)", config.get("SchedulerParameters", ""))
    return min((int(limit) for limit in limits if limit.isdigit()), default=1001) or 1


def kill_grace(config: Mapping[str, str], most: float) -> int:
    """Return the seconds from TERM to KILL that let a wrapper finish before Slurm's own KILL.

    Slurm may not find what has left the process tree of a job (proctrack/linuxproc), but ends
    the wrapper, which does, KillWait seconds after the TERM (slurm.conf(5)).
    """
    wait = config.get("KillWait", "").partition(" ")[0]
    return max(1, math.ceil(min(most, int(wait) - 3) if wait.isdigit() else most))


def tracks_all(config: Mapping[str, str]) -> bool:
    """Tell whether Slurm ends every process of a job when its script has ended.

    Only a control group holds what has left the process tree and the process group of the
    script (slurm.conf(5), ProctrackType).

    >>> tracks_all({"ProctrackType": "proctrack/linuxproc"})
    False
    """
    return config.get("ProctrackType") == "proctrack/cgroup"


def compress(jids: Iterable[str], whole: Mapping[str, int]) -> list[str]:
    """Name jobs in as few words as scancel(1) allows: arrays as arrays.

    Parameters
    ----------
    jids
        Ids of jobs and array tasks (``7``, ``8_0``, ``8_1``).
    whole
        Number of tasks of each array by its id.

    >>> compress(["7", "8_0", "8_1", "9_0", "9_3"], {"8": 2, "9": 4})
    ['7', '8', '9_[0,3]']
    """
    tasks: dict[str, list[int]] = {}
    words = []
    for jid in jids:
        base, _, task = jid.partition("_")
        if task:
            tasks.setdefault(base, []).append(int(task))
        else:
            words.append(base)
    for base, numbers in tasks.items():
        if len(numbers) == whole.get(base):
            words.append(base)
        elif len(numbers) == 1:
            words.append(f"{base}_{numbers[0]}")
        else:
            words.append(f"{base}_[{','.join(map(str, sorted(numbers)))}]")
    return words
