"""Snakemake without the second that its import takes: a process that has imported it, and forks.

Each run is a process of its own with its own environment, directory, mask and session. Nothing
runs in the server itself, so that there is nothing that a fork could break.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, NoReturn, cast

_IMPORTED: Final = (
    "snakemake.cli",
    "snakemake.report.html_reporter",
    "snakemake.storage",
    "xqute",
    "rich.console",
    "inotify_simple",
)
"""What each run would import. Of what is ours, only what Snakemake imports with its plugins:
:func:`_run` knows what that notes at its import."""

_STARTING: Final = threading.Lock()

_INTERPRETER: Final = """\
#!{python} -IS
import json, os, socket, sys
if sys.argv[1:3] != ["-m", "snakemake"]:
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
mask = os.umask(0)
os.umask(mask)
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect({path!r})
    request = {{"argv": sys.argv[3:], "cwd": os.getcwd(), "env": dict(os.environ), "umask": mask}}
    socket.send_fds(connection, [b"+"], [0, 1, 2])
    stream = connection.makefile("rw")
    print(json.dumps(request), file=stream, flush=True)
    stream.readline()
    status = int(stream.readline())
if status < 0:
    os.kill(os.getpid(), -status)
sys.exit(status)
"""
"""What Snakemake's own executor can start in place of Python with ``-m snakemake``: it starts a
Snakemake for each job with a script, a run block or a shadow directory."""


class Forked:
    """A run, as ``subprocess.Popen`` has it.

    Parameters
    ----------
    connection
        To the server, which has been asked for it.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        number = b""
        while not number.endswith(b"\n"):
            if not (byte := connection.recv(1)):
                raise RuntimeError("the process that forks Snakemakes has ended")
            number += byte
        self.pid = int(number)
        self._returncode: int | None = None

    def poll(self) -> int | None:
        """Return its exit status if it has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0.0)
        return self._returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Raises
        ------
        subprocess.TimeoutExpired
            If it does not come within this time in seconds.
        """
        if self._returncode is None:
            self._connection.settimeout(timeout)
            try:
                answer = self._connection.recv(64)
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired("snakemake", timeout or 0.0) from None
            self._connection.close()
            if not answer:
                raise RuntimeError("the process that forks Snakemakes has ended")
            self._returncode = int(answer)
        return self._returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, if it runs."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


class Server:
    """The process that forks them."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="pipen-forked-")
        path = str(Path(self._directory.name, "socket"))
        env = os.environ | {"PYTHONUNBUFFERED": "1"}
        # As in the environment of a run, and before a test gives it packages of its own.
        for name in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE"):
            env.pop(name, None)
        self._understood = _of_interpreter(env)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path)
            listening.listen(64)
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(listening.fileno()), path],
                env=env,
                stdin=subprocess.DEVNULL,
                pass_fds=[listening.fileno()],
            )
        self._socket = path

    def can_start(self, env: Mapping[str, str]) -> bool:
        """Tell whether nothing in an environment is meant for an interpreter that starts."""
        return _of_interpreter(env) == self._understood

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()
        self._directory.cleanup()

    def start(
        self,
        argv: Sequence[str],
        cwd: Path,
        env: Mapping[str, str],
        log: Path,
        *,
        umask: int | None = None,
        forks_jobs: bool = False,
    ) -> Forked:
        """Start Snakemake with these arguments, as leader of a session.

        Parameters
        ----------
        argv
            What follows ``snakemake``.
        cwd
            Its working directory.
        env
            Its environment.
        log
            Where its output goes.
        umask
            Its file mode creation mask; by default, that of this process.
        forks_jobs
            Whether the Snakemakes that Snakemake's own executor starts come from here too.
        """
        if umask is None:
            os.umask(umask := os.umask(0))
        request = {"argv": argv, "cwd": str(cwd), "env": dict(env), "umask": umask}
        request |= {"leads": True, "forks_jobs": forks_jobs}
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self._socket)
        with open(os.devnull) as nothing, log.open("wb") as output:
            standard = [nothing.fileno(), output.fileno(), output.fileno()]
            socket.send_fds(connection, [b"+"], standard)
        connection.sendall(json.dumps(request).encode() + b"\n")
        return Forked(connection)


def _of_interpreter(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that count when a program or Python itself starts."""
    return {k: v for k, v in env.items() if k.startswith(("PYTHON", "LD_", "LC_", "LANG"))}


def server() -> Server:
    """Return the server of this process, started when it is first needed.

    It ends with this process.
    """
    with _STARTING:
        return _started()


@cache
def _started() -> Server:
    running = Server()
    atexit.register(running.close)
    return running


# -- in the server ------------------------------------------------------------------------------


def serve(listening: socket.socket, path: str) -> NoReturn:
    """Answer requests on a socket until whoever started this process has gone."""
    sys.path[:] = [entry for entry in sys.path if entry not in ("", os.getcwd())]
    parent = os.getppid()
    policy = asyncio.get_event_loop_policy()
    for module in _IMPORTED:
        importlib.import_module(module)
    asyncio.set_event_loop_policy(policy)  # xqute sets another

    interpreter = Path(f"{path}.python")
    interpreter.write_text(_INTERPRETER.format(python=sys.executable, path=path))
    interpreter.chmod(0o755)
    listening.settimeout(1.0)
    while os.getppid() == parent:
        _reap()
        try:
            connection, _ = listening.accept()
        except TimeoutError:
            continue
        if os.fork() == 0:
            listening.close()
            connection.settimeout(None)
            _answer(connection, str(interpreter))
        connection.close()
    sys.exit()


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _answer(connection: socket.socket, interpreter: str) -> NoReturn:
    """Run what is asked for in a child; tell its number, and in the end its status."""
    _, standard, _, _ = socket.recv_fds(connection, 1, 3)
    stream = connection.makefile("rw")
    request = json.loads(stream.readline())
    pid = os.fork()
    if pid == 0:
        connection.close()
        _run(standard, interpreter if request.pop("forks_jobs", False) else "", **request)
    for number in standard:
        os.close(number)
    print(pid, file=stream, flush=True)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with contextlib.suppress(BrokenPipeError):
        print(status, file=stream, flush=True)
    os._exit(0)


def _run(
    standard: Sequence[int],
    interpreter: str,
    argv: list[str],
    cwd: str,
    env: Mapping[str, str],
    umask: int,
    leads: bool = False,
) -> NoReturn:
    for target, number in enumerate(standard):
        os.dup2(number, target)
        os.close(number)
    if leads:
        os.setsid()
    for ignored in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.umask(umask)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    # What the executors have noted when they were imported, as if it were now.
    from pipen_executors import settings

    noted = cast("dict[str, Any]", settings.ENVIRONMENT_AT_IMPORT)
    noted.clear()
    noted.update(env)
    for module in list(sys.modules.values()):
        if "DIRECTORY_AT_IMPORT" in vars(module):
            vars(module)["DIRECTORY_AT_IMPORT"] = cwd
    if interpreter and "local" in argv[:2]:
        sys.executable = interpreter
    sys.path.insert(0, cwd)
    sys.argv = ["snakemake", *argv]
    from snakemake.cli import main

    main(argv)
    sys.exit()


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2])
