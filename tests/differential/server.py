"""Snakemake without the seconds that its import takes: a process that has imported it, and forks.

Each run is a process of its own with its own environment, directory, mask and group of
processes. Nothing runs in the server itself, so that there is nothing that a fork could break.

Snakemake's own executor starts a Snakemake for each job with a script, a run block or a shadow
directory. Those come from here too: the interpreter that it knows is a short program that asks.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn, cast

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
"""What is started in place of Python with ``-m snakemake`` and arguments."""


def serve(path: str) -> NoReturn:
    """Answer requests on a socket until whoever started this process has gone."""
    sys.path[:] = [entry for entry in sys.path if entry not in ("", os.getcwd())]
    parent = os.getppid()
    for module in ("snakemake.cli", "snakemake.report.html_reporter"):
        importlib.import_module(module)

    interpreter = Path(f"{path}.python")
    interpreter.write_text(_INTERPRETER.format(python=sys.executable, path=path))
    interpreter.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(64)
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
        _run(standard, interpreter if request.pop("leads", False) else "", **request)
    for number in standard:
        os.close(number)
    print(pid, file=stream, flush=True)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    print(status, file=stream, flush=True)
    os._exit(0)


def _run(
    standard: Sequence[int],
    interpreter: str,
    argv: list[str],
    cwd: str,
    env: Mapping[str, str],
    umask: int,
) -> NoReturn:
    for target, number in enumerate(standard):
        os.dup2(number, target)
        os.close(number)
    if interpreter:
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
    if interpreter and "local" in argv[:2]:
        sys.executable = interpreter
    sys.argv = ["snakemake", *argv]
    from snakemake.cli import main

    main(argv)
    sys.exit()


if __name__ == "__main__":
    serve(sys.argv[1])
