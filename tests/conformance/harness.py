"""Runs workflows through an executor as a user does: ``snakemake`` in a process of its own.

A backend is described once (:class:`Backend`); a test writes a workflow into its own
directory (:class:`Workflow`), runs it and reads what the user would have seen
(:class:`Result`).
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TypeVar

import psutil
from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

from .forked import Forked, server

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds after which an event that does not come fails a test."""


@dataclass(frozen=True)
class Backend:
    """An executor under test.

    Attributes
    ----------
    executor
        The name after ``--executor``.
    arguments
        Further arguments for every run, such as ``("--pipen-slurm-partition", "debug")``.
    environment
        Variables that every run has beside those of the tests.
    drives
        Name of the scheduler, where the executor's name does not say it.
    local
        Whether Snakemake takes it for local execution (``--cores``) or not (``--jobs``).
    sees_files
        Whether jobs see the file system of the tests, at the same paths.
    user
        Whom Snakemake runs as, for schedulers that refuse the superuser; None for the
        user of the tests.
    root
        Directory below which the workflows lie, where the nodes do not see pytest's.
    jobs
        How many jobs may run at once unless a test says otherwise.
    slowness
        Factor for all times that a test waits, for schedulers that take their time.
    settle
        Seconds that the scheduler may take, once Snakemake has returned from a
        cancellation, until no process of a job is left. 0 means none may be left.
    find_processes
        Returns what runs of the jobs of a workflow: text for the message of the test that
        finds it. By default, processes of this machine.
    read_elsewhere
        Returns the text of a file of a job directory that lies elsewhere until the run that
        waits for the job fetches it; empty if it is not there either.
    """

    executor: str
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    drives: str = ""
    local: bool = False
    sees_files: bool = True
    user: str | None = None
    root: Path | None = None
    jobs: int = 4
    slowness: float = 1.0
    settle: float = 0.0
    find_processes: Callable[[Workflow], list[str]] | None = None
    read_elsewhere: Callable[[Path], str] | None = None

    @property
    def scheduler(self) -> str:
        """Name of the scheduler, as in the names of job directories."""
        return self.drives or self.executor.removeprefix("pipen-")

    def flag(self, name: str) -> str:
        """Return the command line's form of a setting."""
        return f"--{self.executor}-{name.replace('_', '-')}"

    def option(self, name: str, *values: object) -> list[str]:
        """Return arguments that set a setting."""
        return [self.flag(name), *map(str, values)]

    @property
    def is_installed(self) -> bool:
        """Whether Snakemake finds the executor."""
        return bool(ExecutorPluginRegistry().is_installed(self.executor))


def wait_for(
    predicate: Callable[[], T],
    what: str = "",
    *,
    timeout: float = PATIENCE,
    interval: float = 0.02,
    alive: Process | None = None,
) -> T:
    """Return what the predicate answers as soon as that is true.

    Parameters
    ----------
    predicate
        Asked again and again.
    what
        What is waited for, in the words of the failure message.
    timeout
        Seconds after which it is a failure.
    interval
        Seconds between two questions.
    alive
        A run of Snakemake whose end makes further waiting useless.
    """
    deadline = time.monotonic() + timeout
    while True:
        ended = alive is not None and not alive.is_running
        answer = predicate()
        if answer:
            return answer
        if ended:
            assert alive is not None
            raise AssertionError(f"Snakemake ended before {what or 'the event'}:\n{alive.text}")
        if time.monotonic() >= deadline:
            shown = f"\n{alive.text}" if alive is not None else ""
            raise AssertionError(f"not within {timeout:g} s: {what or predicate}{shown}")
        time.sleep(interval)


@dataclass(frozen=True)
class Failure:
    """What Snakemake said about one failed job.

    Attributes
    ----------
    rule
        Its rule, or ``group``.
    message
        The first line: exit reason, exit status and detail.
    facts
        The lines ``name: value`` of the whole block.
    text
        The whole block.
    """

    rule: str
    message: str
    facts: Mapping[str, str]
    text: str


_REPEATED = "Exiting because a job execution failed. Look below for error messages"
_ERROR = re.compile(r"^Error in (?:rule |)(\S+?)(?:, jobid: .*)?:$")
_FACT = re.compile(r"^ {4}([A-Za-z][\w ]*): ?(.*)$")


@dataclass(frozen=True)
class Result:
    """A run of Snakemake that has ended.

    Attributes
    ----------
    rc
        Exit status; negative for a signal.
    text
        Standard output and standard error, in the order of writing.
    seconds
        Wall time.
    """

    rc: int
    text: str
    seconds: float

    def ok(self) -> Self:
        """Return self if Snakemake succeeded; fail the test with its output if not."""
        assert self.rc == 0, f"exit status {self.rc}\n{self.text}"
        return self

    def failed(self) -> Self:
        """Return self if Snakemake failed by itself; fail the test with its output if not."""
        assert self.rc > 0, f"exit status {self.rc}\n{self.text}"
        assert "Traceback (most recent call last)" not in self.text, self.text
        return self

    def has(self, *texts: str) -> Self:
        """Return self if all texts are in the output."""
        for text in texts:
            assert text in self.text, f"{text!r} is not in:\n{self.text}"
        return self

    def lacks(self, *texts: str) -> Self:
        """Return self if none of the texts is in the output."""
        for text in texts:
            assert text not in self.text, f"{text!r} is in:\n{self.text}"
        return self

    def line(self, *texts: str) -> str:
        """Return the one line of the output that has all the texts, beside the command line."""
        lines = [
            line
            for line in self.text.splitlines()
            if all(text in line for text in texts) and not line.startswith("  Command: ")
        ]
        assert len(set(lines)) == 1, f"{len(lines)} lines have {texts}:\n{self.text}"
        return lines[0]

    def failures(self) -> list[Failure]:
        """Return what was said about failed jobs, in order.

        Older releases of Snakemake name all failed jobs once more at the end, without a reason.
        """
        found = []
        lines = self.text.partition(_REPEATED)[0].splitlines()
        for number, line in enumerate(lines):
            match = _ERROR.match(line)
            if not match:
                continue
            block = []
            for following in lines[number + 1 :]:
                if following and not following.startswith("    "):
                    break
                block.append(following)
            pairs = [m.groups() for m in map(_FACT.match, block) if m]
            facts = {key: value for key, value in reversed(pairs)}
            text = "\n".join(block)
            found.append(Failure(match[1], facts.get("message", ""), facts, text))
        return found

    def failure(self, rule: str) -> Failure:
        """Return what was said about the one failed job of a rule."""
        found = [failure for failure in self.failures() if failure.rule == rule]
        assert len(found) == 1, f"{len(found)} failures of rule {rule}:\n{self.text}"
        return found[0]


class Process:
    """Snakemake, running.

    It leads a process group of its own, like a command typed into a terminal. Unless it is
    another user's, or its environment has something to say to the interpreter itself, it is
    forked from a process that has imported it.
    """

    def __init__(
        self, argv: Sequence[str], cwd: Path, env: Mapping[str, str], log: Path, user: str | None
    ) -> None:
        self.log = log
        self._started = time.monotonic()
        self._popen: subprocess.Popen[bytes] | Forked
        if user is None and server().can_start(env):
            self._popen = server().start(argv[len(_SNAKEMAKE) :], cwd, env, log)
        else:
            with log.open("wb") as stream:
                self._popen = subprocess.Popen(
                    [*_WITH_HANG_UP, *(_as_user(user) if user else ()), *argv],
                    cwd=cwd,
                    env=dict(env),
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        self.pid = self._popen.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._popen.poll() is None

    @property
    def text(self) -> str:
        """What it has written so far."""
        return self.log.read_text(errors="replace")

    def interrupt(self) -> None:
        """Do what Ctrl-C does: SIGINT to the process group of the terminal."""
        os.killpg(self.pid, signal.SIGINT)

    def hang_up(self) -> None:
        """Do what closing the terminal does: SIGHUP to its process group."""
        os.killpg(self.pid, signal.SIGHUP)

    def terminate(self) -> None:
        """Send SIGTERM to Snakemake itself."""
        self._popen.terminate()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to Snakemake itself."""
        self._popen.send_signal(number)

    def kill9(self) -> None:
        """Send SIGKILL to Snakemake itself and see it gone."""
        self._popen.kill()
        self._popen.wait()

    def wait_for(
        self, predicate: Callable[[], T], what: str = "", *, timeout: float = PATIENCE
    ) -> T:
        """Wait for something that only happens while Snakemake runs."""
        return wait_for(predicate, what, timeout=timeout, alive=self)

    def says(self, text: str, *, times: int = 1) -> None:
        """Wait until it has written a text (so often)."""
        self.wait_for(lambda: self.text.count(text) >= times, f"{text!r} in its output")

    def wait(self, timeout: float = 2 * PATIENCE) -> Result:
        """Wait for its end."""
        try:
            rc = self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill_group()
            raise AssertionError(f"still running after {timeout:g} s:\n{self.text}") from None
        return Result(rc, self.text, time.monotonic() - self._started)

    def kill_group(self) -> None:
        """End whatever is left of it, for the end of a test."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()


class JobFiles:
    """The directory of one job."""

    def __init__(self, path: Path, read_elsewhere: Callable[[Path], str] | None = None) -> None:
        self.path = path
        self._read_elsewhere = read_elsewhere

    def read(self, name: str) -> str:
        """Return one of its files; empty if it is not there."""
        try:
            return (self.path / name).read_text(errors="replace")
        except FileNotFoundError:
            return self._read_elsewhere(self.path / name) if self._read_elsewhere else ""

    @property
    def rc(self) -> int | None:
        """Exit status, or None."""
        text = self.read("job.rc").strip()
        return int(text) if text else None

    @property
    def jid(self) -> str:
        """The scheduler's id."""
        return self.read("job.jid").strip()

    @property
    def attempts(self) -> list[str]:
        """Names of the directories of earlier attempts, in order."""
        retry = self.path / "job.retry"
        return sorted((p.name for p in retry.iterdir()), key=int) if retry.is_dir() else []


class Workflow:
    """A workflow in a directory of its own.

    Parameters
    ----------
    tmp_path
        A directory of the test's own.
    backend
        Through which executor it runs.
    """

    def __init__(self, tmp_path: Path, backend: Backend) -> None:
        self.backend = backend
        self._own_root: Path | None = None
        if backend.root is not None:
            name = f"{tmp_path.parent.parent.name}-{tmp_path.parent.name}-{tmp_path.name}"
            tmp_path = self._own_root = backend.root / name
        tmp_path.mkdir(parents=True, exist_ok=True)
        # Resolved, as the jobs' working directories are when processes are looked for.
        self.home = tmp_path.resolve()
        self.dir = self.home / "work"
        self.dir.mkdir()
        self._logs = 0
        self._processes: list[Process] = []
        self._own(self.home)
        self._own(self.dir)

    def _own(self, path: Path) -> None:
        if self.backend.user is not None:
            shutil.chown(path, self.backend.user, _group_of(self.backend.user))

    # -- files ---------------------------------------------------------------------------

    def path(self, name: str) -> Path:
        """Return the path of one of the workflow's files."""
        return self.dir / name

    def file(self, name: str, text: str | bytes = "", mode: int = 0o644) -> Path:
        """Write a file, text without its indentation."""
        path = self.path(name)
        for parent in reversed(path.relative_to(self.dir).parents[:-1]):
            if not self.path(str(parent)).is_dir():
                self.path(str(parent)).mkdir()
                self._own(self.path(str(parent)))
        if isinstance(text, str):
            path.write_text(textwrap.dedent(text))
        else:
            path.write_bytes(text)
        path.chmod(mode)
        self._own(path)
        return path

    def snakefile(self, text: str) -> Path:
        """Write the Snakefile."""
        return self.file("Snakefile", text)

    def read(self, name: str) -> str:
        """Return the text of a file of the workflow."""
        return self.path(name).read_text(errors="surrogateescape")

    def lines(self, name: str) -> list[str]:
        """Return the lines of a file; none if it is not there."""
        try:
            return self.read(name).splitlines()
        except FileNotFoundError:
            return []

    def exists(self, name: str) -> bool:
        """Tell whether a file is there."""
        return os.path.lexists(self.path(name))

    # -- running ---------------------------------------------------------------------------

    def glob(self, pattern: str) -> list[Path]:
        """Return the files, of those that jobs leave beside their outputs, that fit a pattern."""
        return list(self.dir.glob(pattern))

    def unfinished(self, name: str) -> str:
        """Return what there is of an output that a job is making."""
        return self.read(name)

    def argv(
        self, *arguments: str, jobs: int | None = None, executor: str | None = None
    ) -> list[str]:
        """Return the command line of a run."""
        executor = executor or self.backend.executor
        own = executor == self.backend.executor
        number = "--jobs" if own and not self.backend.local else "--cores"
        return [
            *_SNAKEMAKE,
            "--executor",
            executor,
            number,
            str(jobs or self.backend.jobs),
            *(self.backend.arguments if own else ()),
            *arguments,
        ]

    def environment(self) -> dict[str, str]:
        """Return the environment of a run."""
        return {**_clean_environment(self.home, self.backend.user), **self.backend.environment}

    def start(
        self,
        *arguments: str,
        jobs: int | None = None,
        executor: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Process:
        """Start Snakemake and return at once."""
        self._logs += 1
        process = Process(
            self.argv(*arguments, jobs=jobs, executor=executor),
            self.dir,
            {**self.environment(), **(env or {})},
            self.home / f"snakemake-{self._logs}.log",
            self.backend.user,
        )
        self._processes.append(process)
        return process

    def run(
        self,
        *arguments: str,
        jobs: int | None = None,
        executor: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 2 * PATIENCE,
    ) -> Result:
        """Run Snakemake to its end."""
        timeout *= self.backend.slowness
        return self.start(*arguments, jobs=jobs, executor=executor, env=env).wait(timeout)

    def dry_run(self, *arguments: str) -> Result:
        """Ask the built-in local executor what it would do."""
        return self.run("-n", *arguments, executor="local").ok()

    # -- what the jobs left ------------------------------------------------------------------

    @property
    def job_root(self) -> Path:
        """Directory of all job directories."""
        return self.dir / ".snakemake" / "pipen" / self.backend.scheduler

    def jobs(self, rule: str) -> list[JobFiles]:
        """Return the directories of a rule's jobs."""
        root = self.job_root / rule
        if not root.is_dir():
            return []
        return [JobFiles(path, self.backend.read_elsewhere) for path in sorted(root.iterdir())]

    def job(self, rule: str) -> JobFiles:
        """Return the directory of the one job of a rule."""
        (job,) = self.jobs(rule)
        return job

    def processes(self) -> list[str]:
        """Return what runs of this workflow beside Snakemake itself."""
        if self.backend.find_processes is not None:
            return self.backend.find_processes(self)
        return self.local_processes()

    def local_processes(self) -> list[str]:
        """Return what runs of this workflow as processes of this machine."""
        return [line for _, line in self._local_processes()]

    def _local_processes(self) -> Iterator[tuple[int, str]]:
        needle = str(self.home).encode()
        own = {process.pid for process in self._processes if process.is_running}
        for process in psutil.process_iter():
            if process.pid in own or process.pid == os.getpid():
                continue
            with contextlib.suppress(OSError, psutil.Error):
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                proc = Path("/proc", str(process.pid))
                if (
                    needle in os.fsencode(os.readlink(proc / "cwd"))
                    or needle in (proc / "environ").read_bytes()
                    or needle in (proc / "cmdline").read_bytes()
                ):
                    yield process.pid, f"{process.pid} {shlex.join(process.cmdline())}"

    def assert_nothing_runs(self) -> None:
        """Fail if a process of a job is left."""
        if self.backend.settle:
            with contextlib.suppress(AssertionError):  # said below, with what is left
                wait_for(lambda: not self.processes(), timeout=self.backend.settle)
        left = self.processes()
        assert not left, "processes of jobs are left:\n" + "\n".join(left)

    def close(self) -> None:
        """End whatever a failed test has left running and remove what lies outside tmp_path."""
        for process in self._processes:
            process.kill_group()
        if self.backend.find_processes is None:
            for pid, _ in self._local_processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if self._own_root is not None:
            shutil.rmtree(self._own_root, ignore_errors=True)


_SNAKEMAKE = (sys.executable, "-m", "snakemake")
_WITH_HANG_UP = ("env", "--default-signal=HUP")
"""The beginning of a command line: what closing a terminal does to the rest does not depend on
how the tests were started.

Not a ``preexec_fn``, for which Python forks: a child of a process that serves gRPC may die of
what gRPC does at a fork.
"""


def _group_of(user: str) -> int:
    return pwd.getpwnam(user).pw_gid


def _as_user(user: str) -> list[str]:
    """Return the beginning of a command line that runs the rest as another user.

    It may read what root may, and no more: the tests' Python can lie in root's home.
    """
    may_read = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    return [
        "setpriv", f"--reuid={user}", f"--regid={_group_of(user)}", "--clear-groups", *may_read
    ]  # fmt: skip


def _clean_environment(home: Path, user: str | None) -> dict[str, str]:
    """Return the tests' environment without what would change what Snakemake does."""
    unwanted = (
        *("SNAKEMAKE_", "PYTEST_", "PIPEN_", "XQUTE_", "OMP_NUM_THREADS"),
        "PYTHONDONTWRITEBYTECODE",  # doubles the time that Snakemake needs to start
    )
    env = {k: v for k, v in os.environ.items() if not k.startswith(unwanted)}
    # So that a profile or a cache of the user does not get in.
    env["XDG_CONFIG_HOME"] = str(home / "config")
    env["XDG_CACHE_HOME"] = str(home / "cache")
    env["PYTHONUNBUFFERED"] = "1"
    if user is not None:
        env |= {"HOME": pwd.getpwnam(user).pw_dir, "USER": user, "LOGNAME": user}
    return env
