"""How jobs ended that left no exit status: what qacct prints, and what it means.

Sources: accounting(5), sge_status(5), queue_conf(5), Grid Engine 8.1.9 and its relatives.
"""

from __future__ import annotations

import calendar
import re
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pipen_executors.states import ExitReason, Outcome


@dataclass(frozen=True, slots=True)
class Record:
    """One record of an ended job or array task (accounting(5))."""

    jid: str
    name: str
    submitted: float | None
    host: str
    failed: int
    failed_text: str
    exit_status: int
    wallclock: float
    cpu: float
    memory: float
    resident: float
    category: str

    def limit(self, name: str) -> str:
        """Return what the job asked for of a resource; empty if it did not."""
        match = re.search(rf"-l (?:\S*,)?{re.escape(name)}=([^,\s]+)", self.category)
        return match[1] if match else ""


_SECONDS: Final = re.compile(r"([\d.]+)s?$")
_BYTES: Final = re.compile(r"([\d.]+)([KMGT]?)B?$", re.IGNORECASE)


def read(text: str) -> list[Record]:
    """Read ``qacct -j``, oldest first; a job that was requeued has several records."""
    records = []
    for block in re.split(r"^=+$", text, flags=re.MULTILINE):
        pairs = (line.split(None, 1) for line in block.splitlines() if line.strip())
        facts = {pair[0]: pair[1].strip() if len(pair) > 1 else "" for pair in pairs}
        if not facts.get("jobnumber", "").isdigit():
            continue
        task = facts.get("taskid", "")
        failed, _, failed_text = facts.get("failed", "0").partition(":")
        exit_status = facts.get("exit_status", "0").split() or ["0"]
        records.append(
            Record(
                jid=facts["jobnumber"] + (f".{task}" if task.isdigit() else ""),
                name=facts.get("jobname", ""),
                submitted=parse_time(facts.get("qsub_time", "")),
                host=facts.get("hostname", ""),
                failed=int(failed) if failed.strip().isdigit() else 0,
                failed_text=failed_text.strip(),
                exit_status=int(exit_status[0]) if exit_status[0].isdigit() else 0,
                wallclock=_number(_SECONDS, facts.get("ru_wallclock", "")),
                cpu=_number(_SECONDS, facts.get("cpu", "")),
                memory=in_bytes(facts.get("maxvmem", "")),
                # In kilobytes (getrusage(2)); 8.1.9 prints the number as if it were bytes.
                resident=in_bytes(facts.get("ru_maxrss", "")) * 1024,
                category=facts.get("category", ""),
            )
        )
    return records


def used(record: Record, *, virtual: bool) -> dict[str, Any]:
    """Return what a job used, in the terms of the history.

    Parameters
    ----------
    record
        What accounting has of it.
    virtual
        Whether the site limits virtual memory: then that is what counts. Grid Engine looks at
        it about once a second, and never at a job that was over before.
    """
    facts: dict[str, Any] = {"cpu": record.cpu}
    if virtual and record.memory:
        facts |= {"memory": round(record.memory), "memory_by": "Grid Engine, virtual, sampled"}
    elif not virtual and record.resident:
        facts |= {"memory": round(record.resident), "memory_by": "largest process"}
    return facts


def parse_time(text: str) -> float | None:
    """Read a time of UTC in one of the forms of the releases; None if it is none."""
    plain = text.strip().partition(".")[0]
    for form in ("%a %b %d %H:%M:%S %Y", "%m/%d/%Y %H:%M:%S"):
        try:
            return float(calendar.timegm(time.strptime(plain, form)))
        except ValueError:
            continue
    return None


def in_bytes(text: str) -> float:
    """Read an amount of memory as Grid Engine prints and takes it (``4.5MB``, ``2G``)."""
    match = _BYTES.match(text.strip())
    return float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " ") if match else 0.0


def in_seconds(text: str) -> float:
    """Read a time limit as Grid Engine takes it: seconds, or ``h:m:s`` with empty parts."""
    total = 0.0
    for part in text.split(":"):
        total = total * 60 + (float(part) if part.replace(".", "", 1).isdigit() else 0)
    return total


def _number(pattern: re.Pattern[str], text: str) -> float:
    match = pattern.match(text.strip())
    return float(match[1]) if match else 0.0


_ENDS: Final[Mapping[int, ExitReason]] = {
    **dict.fromkeys((1, 3, 4, 6, 7, 8, 9, 10, 11), ExitReason.LAUNCH_FAILURE),
    **dict.fromkeys((18, 19, 20, 21), ExitReason.NODE_FAILURE),
    24: ExitReason.PREEMPTED,
    25: ExitReason.PREEMPTED,
    **dict.fromkeys(range(26, 37), ExitReason.LAUNCH_FAILURE),
    38: ExitReason.LAUNCH_FAILURE,
}
"""Values of ``failed`` (sge_status(5)) that say by themselves why a job left nothing."""


def ending(record: Record, asked: Mapping[str, Any]) -> Outcome:
    """Return how a job ended that left no exit status of its own.

    Parameters
    ----------
    record
        What accounting has of it.
    asked
        What it asked for, for releases whose accounting does not say so.
    """
    said = f"Grid Engine says failed {record.failed}"
    said = f"{said} : {record.failed_text}" if record.failed_text else said
    where = f" on {record.host}" if record.host else ""
    number = record.exit_status - 128
    if over := _over_limit(record, asked, number):
        reason, what = over
        return Outcome(reason, record.exit_status or None, f"{what}; {said}{where}")
    if record.failed in _ENDS:
        return Outcome(_ENDS[record.failed], None, f"{said}{where}")
    if record.failed in (17, 100) and number in (signal.SIGKILL, signal.SIGTERM):
        name = signal.Signals(number).name
        detail = f"{name}{where}: deleted (qdel), or killed by hand; {said}"
        return Outcome(ExitReason.CANCELLED, record.exit_status, detail)
    if 0 < number < 65:
        name = signal_name(number)
        return Outcome(ExitReason.SIGNAL, record.exit_status, f"{name}{where}; {said}")
    if record.exit_status:
        detail = f"exit status {record.exit_status} before the job's own script ran{where}"
        return Outcome(ExitReason.LAUNCH_FAILURE, record.exit_status, detail)
    return Outcome(ExitReason.LOST, None, f"{said}, exit status 0{where}")


LIMIT_SIGNALS: Final[Mapping[str, Mapping[str, ExitReason]]] = {
    "SIGUSR1": {"s_rt": ExitReason.TIMEOUT},
    "SIGXCPU": {"s_cpu": ExitReason.TIMEOUT, "s_vmem": ExitReason.OUT_OF_MEMORY},
}
"""Signals by which Grid Engine tells of a soft limit (queue_conf(5), RESOURCE LIMITS)."""


def unrecorded(*, started: bool) -> Outcome:
    """Return how a job ended of which accounting has no record.

    Accounting knows nothing of jobs that were deleted before they started.
    """
    if started:
        return Outcome(ExitReason.LOST, None, "accounting has no record of it either")
    return Outcome(ExitReason.CANCELLED, None, "it was deleted from the queue before it started")


def _over_limit(
    record: Record, asked: Mapping[str, Any], number: int
) -> tuple[ExitReason, str] | None:
    """Tell which limit a job was killed for (queue_conf(5), RESOURCE LIMITS), if for one."""
    if record.failed != 37 and number not in (
        signal.SIGKILL,
        signal.SIGUSR1,
        signal.SIGXCPU,
    ):
        return None
    for name in ("h_rt", "s_rt"):
        limit = record.limit(name) or str(asked.get(name, ""))
        if limit and record.wallclock >= in_seconds(limit) - 1:
            return ExitReason.TIMEOUT, f"over {name}={limit}"
    for name in ("h_vmem", "s_vmem"):
        limit = record.limit(name) or str(asked.get(name, ""))
        # Looked at every second or so: it may have grown further than was written down.
        if limit and record.memory >= 0.9 * in_bytes(limit):
            return ExitReason.OUT_OF_MEMORY, f"over {name}={limit}"
    if record.failed == 37:
        return ExitReason.TIMEOUT, "over a limit of the queue or the job"
    return None


def signal_name(number: int) -> str:
    """Return the name of a signal."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


_NO_MEMORY: Final = re.compile(
    r"cannot allocate|could not allocate|failed to allocate|unable to allocate|memoryerror|"
    r"bad_alloc|out of memory|outofmemory|memory exhausted|virtual memory exhausted|"
    r"not reserve enough space|failed to map segment",
    re.IGNORECASE,
)


def no_memory(lines: Iterable[str]) -> str:
    """Return the line in which a command says that it got no memory; empty if there is none.

    ``h_vmem`` limits the address space (setrlimit(2), RLIMIT_AS): what is over it is
    refused, and the command ends as it sees fit.
    """
    return next((line.strip() for line in lines if _NO_MEMORY.search(line)), "")


def delay(configuration: Mapping[str, str]) -> float:
    """Return after how many seconds an ended job is accounted for (sge_conf(5))."""
    words = (word.partition("=") for word in configuration.get("reporting_params", "").split())
    parameters = {name: value for name, _, value in words}
    value = parameters.get("accounting_flush_time") or parameters.get("flush_time") or "0:0:15"
    return in_seconds(value)
