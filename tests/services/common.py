"""What every test service needs: bounded waiting, free ports, daemons ended by their own ids."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

POLL_INTERVAL = 0.02
"""Seconds between two looks at a condition."""


class ServiceUnavailable(RuntimeError):
    """This machine cannot run the service; the message says what is missing."""


class ServiceFailed(RuntimeError):
    """The service was started but did not become, or stay, usable."""


def wait_until(
    condition: Callable[[], bool],
    what: str,
    *,
    timeout: float = 30.0,
    interval: float = POLL_INTERVAL,
) -> float:
    """Wait for an event, and no longer than needed.

    Parameters
    ----------
    condition
        Asked again and again until it is true.
    what
        The event in words, for the error message.
    timeout
        Seconds after which waiting is given up.
    interval
        Seconds between two questions.

    Returns
    -------
    float
        Seconds waited.

    Raises
    ------
    ServiceFailed
        When the event has not come in time.
    """
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > timeout:
            raise ServiceFailed(f"waited {timeout:g} s in vain for {what}")
        time.sleep(interval)
    return time.monotonic() - start


def free_ports(count: int) -> list[int]:
    """Return loopback TCP ports that nobody listens on.

    They lie below the range from which the kernel takes the ports of outgoing connections
    (32768 and up on Linux), so that none is lost between the choice and its use; the start is
    random so that test processes side by side are unlikely to choose the same.
    """
    chosen: list[int] = []
    with contextlib.ExitStack() as held:
        for port in _candidates(20_000, 32_000):
            if len(chosen) == count:
                return chosen
            sock = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            chosen.append(port)
    raise ServiceUnavailable(f"no {count} free TCP ports on the loopback interface")


def _candidates(low: int, high: int) -> Iterator[int]:
    offset = random.randrange(high - low)
    return (low + (offset + i) % (high - low) for i in range(high - low))


@dataclass(frozen=True)
class ProcessRef:
    """A process that cannot be mistaken for a later one with the same id.

    Attributes
    ----------
    pid
        Process id.
    start
        Start time in clock ticks since boot (field 22 of ``/proc/<pid>/stat``, proc(5)).
    """

    pid: int
    start: int

    @classmethod
    def of(cls, pid: int) -> ProcessRef | None:
        """Return the reference to a live process, or None if there is none."""
        stat = _stat(pid)
        return None if stat is None else cls(pid, stat.start)

    def alive(self) -> bool:
        """Tell whether the process still runs; a zombie does not."""
        stat = _stat(self.pid)
        return stat is not None and stat.start == self.start

    def signal(self, number: signal.Signals) -> None:
        """Send a signal unless the process has ended."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


@dataclass(frozen=True)
class _Stat:
    parent: int
    start: int


def _stat(pid: int) -> _Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command name, in parentheses, may itself hold blanks and parentheses.
    fields = text[text.rindex(")") + 2 :].split()
    if fields[0] in "ZX":
        return None
    return _Stat(parent=int(fields[1]), start=int(fields[19]))


def all_pids() -> list[int]:
    """Return the ids of all processes of this machine."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def processes_with(variables: Mapping[str, str]) -> list[ProcessRef]:
    """Return the processes started with all these environment variables set so."""
    wanted = {f"{name}={value}".encode() for name, value in variables.items()}
    found = []
    for pid in all_pids():
        try:
            environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        ref = ProcessRef.of(pid)
        if ref is not None and wanted.issubset(environ):
            found.append(ref)
    return found


def with_descendants(roots: Sequence[ProcessRef]) -> list[ProcessRef]:
    """Return these processes and all that descend from them."""
    children: dict[int, list[int]] = {}
    for pid in all_pids():
        stat = _stat(pid)
        if stat is not None:
            children.setdefault(stat.parent, []).append(pid)
    found = {root.pid: root for root in roots if root.alive()}
    queue = list(found)
    while queue:
        for child in children.get(queue.pop(), []):
            ref = ProcessRef.of(child)
            if ref is not None and child not in found:
                found[child] = ref
                queue.append(child)
    return list(found.values())


def end_processes(refs: Sequence[ProcessRef], *, grace: float = 10.0) -> None:
    """End processes: SIGTERM first, SIGKILL for those that stay longer than ``grace`` seconds."""
    for ref in refs:
        ref.signal(signal.SIGTERM)
    try:
        wait_until(lambda: not any(ref.alive() for ref in refs), "processes to end", timeout=grace)
    except ServiceFailed:
        for ref in refs:
            ref.signal(signal.SIGKILL)
        wait_until(lambda: not any(ref.alive() for ref in refs), "killed processes to end")


@dataclass
class Daemon:
    """A server process that stays in the foreground and is ended by its own id.

    Its id is kept in a file, so that another process can end what this one started.

    Parameters
    ----------
    name
        What to call it in messages, and its files.
    argv
        Command; it must not put itself into the background.
    run_dir
        Where its ``<name>.ref`` file (process id and start time) is kept.
    log
        File for its standard output and error.
    env
        Its environment.
    """

    name: str
    argv: list[str]
    run_dir: Path
    log: Path
    env: Mapping[str, str]
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def ref_file(self) -> Path:
        """The file with the process id and start time."""
        return self.run_dir / f"{self.name}.ref"

    def start(self) -> None:
        """Start the process in a session of its own."""
        if self.alive():
            raise ServiceFailed(f"{self.name} runs already")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(self.env),
                cwd="/",
                start_new_session=True,
            )
        ref = ProcessRef.of(self._process.pid)
        if ref is not None:
            self.ref_file.write_text(f"{ref.pid} {ref.start}\n")

    def ref(self) -> ProcessRef | None:
        """Return the process last started, whether it still runs or not."""
        try:
            pid, start = self.ref_file.read_text().split()
        except FileNotFoundError:
            return None
        return ProcessRef(int(pid), int(start))

    def alive(self) -> bool:
        """Tell whether it runs."""
        if self._process is not None:
            self._process.poll()
        ref = self.ref()
        return ref is not None and ref.alive()

    def stop(self, *, grace: float = 10.0) -> None:
        """End it (SIGTERM, SIGKILL after ``grace`` seconds), and wait until it has ended."""
        ref = self.ref()
        if ref is not None:
            end_processes([ref], grace=grace)
            self.ref_file.unlink()
        if self._process is not None:
            self._process.wait()
            self._process = None

    def wait_ready(self, ready: Callable[[], bool], *, timeout: float = 30.0) -> None:
        """Wait until ``ready()`` is true; fail at once if the daemon has ended before.

        Raises
        ------
        ServiceFailed
            With the end of its log.
        """
        ended = False

        def settled() -> bool:
            nonlocal ended
            ended = not self.alive()
            return ended or ready()

        try:
            wait_until(settled, f"{self.name} to be ready", timeout=timeout)
        except ServiceFailed as error:
            raise ServiceFailed(f"{error}\n{self.log_tail()}") from None
        if ended:
            raise ServiceFailed(f"{self.name} ended at its start\n{self.log_tail()}")

    def log_tail(self, lines: int = 20) -> str:
        """Return the last lines it wrote."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
