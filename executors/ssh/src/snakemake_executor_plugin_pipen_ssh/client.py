"""OpenSSH's client, the program ``ssh``: how a machine is reached.

Whatever ssh_config(5) can say, the program does by itself: there is no second reading of the
user's and the system's files, of host keys, certificates, agents and ways through other
machines. Sessions share the first one's connection (ssh_config(5), ControlMaster), or the one
that the user has opened already; where the server allows no further session on it
(sshd_config(5), MaxSessions), the program makes another connection for it.

What the user's files ask for that has no meaning for a program that talks with a program is
switched off, see :data:`OVERRIDDEN`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import os
import re
import secrets
import socket
import stat
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from errno import ECONNREFUSED
from functools import cache
from pathlib import Path
from typing import Final

from pipen_executors.exceptions import SchedulerError, TransientError
from pipen_executors.plain_text import plain
from pipen_executors.process import run

from .servers import Server

OVERRIDDEN: Final[Mapping[str, str]] = {
    "BatchMode": "yes",
    "ClearAllForwardings": "yes",
    "EscapeChar": "none",
    "ForkAfterAuthentication": "no",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "LogLevel": "ERROR",
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
    "RequestTTY": "no",
    "SessionType": "default",
    "StdinNull": "no",
    "Tunnel": "no",
}
"""Keywords of ssh_config(5) that have this value whatever the user's files say."""

SHARING: Final = ("ControlMaster", "ControlPath", "ControlPersist")
"""Keywords that are ours, unless the user's own shared connection is there already."""

_YOUNGER: Final = frozenset({"ForkAfterAuthentication", "SessionType", "StdinNull"})
"""Those of :data:`OVERRIDDEN` that older releases refuse (before OpenSSH 8.7)."""

_SIGNS_OF_LIFE: Final = {"ServerAliveInterval": "5", "ServerAliveCountMax": "3"}
"""How soon a silent machine is noticed, where the user's files do not say it."""

QUESTION: Final = ("-G", "-o", "BatchMode=no")
"""What makes ``ssh`` say what it would do. Debian's has another ServerAliveInterval where
BatchMode is set, which the user has not asked for; of two values the first counts."""

_LONGEST_PATH: Final = 80
"""Bytes of the name of a control socket: unix(7) allows 107, and ssh first makes it under a
name that is 17 longer."""

_LINE: Final = 1 << 24
"""Bytes that a line of a session may have."""

_TEXT: Final = 8192
"""Bytes that are kept of what a session writes to its standard error."""


@dataclass(frozen=True, slots=True)
class Access:
    """How all machines are reached.

    Parameters
    ----------
    config
        File in the format of ssh_config(5) in place of the user's and the system's, as
        ``ssh -F`` takes it; None for those.
    connect_timeout
        Seconds that a connection with its login may take.
    host_timeout
        Seconds after which a machine that does not answer is lost.
    """

    config: str | None
    connect_timeout: float
    host_timeout: float


def arguments(server: Server, access: Access) -> list[str]:
    """Return the options of ``ssh`` that say which machine is meant, and how it is used."""
    words = [] if access.config is None else ["-F", access.config]
    options = {key: value for key, value in OVERRIDDEN.items() if key not in _YOUNGER}
    options["ConnectTimeout"] = str(max(1, math.ceil(access.connect_timeout)))
    if server.port is not None:
        options["Port"] = str(server.port)
    if server.user is not None:
        options["User"] = server.user
    for key, value in options.items():
        words += ["-o", f"{key}={value}"]
    if server.keyfile is not None:
        path = re.sub(r'(["\\])', r"\\\1", os.path.expanduser(server.keyfile)).replace("%", "%%")
        words += ["-o", f'IdentityFile="{path}"', "-o", "IdentitiesOnly=yes"]
    return words


def effective(text: str) -> dict[str, list[str]]:
    """Read what ``ssh -G`` prints: the values of each keyword, in small letters.

    >>> effective(chr(10).join(["hostname 10.0.0.1", "sendenv LANG", "sendenv LC_*"]))["sendenv"]
    ['LANG', 'LC_*']
    """
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        keyword, _, value = line.partition(" ")
        found.setdefault(keyword.lower(), []).append(value)
    return found


def completion(settings: Mapping[str, Sequence[str]]) -> list[str]:
    """Return further options, which depend on the release and on what the user's files say.

    Parameters
    ----------
    settings
        See :func:`effective`.
    """
    options = {key: OVERRIDDEN[key] for key in sorted(_YOUNGER) if key.lower() in settings}
    if settings.get("serveraliveinterval") == ["0"]:
        options |= _SIGNS_OF_LIFE
    return [word for key, value in options.items() for word in ("-o", f"{key}={value}")]


class Session:
    """One session on a machine: a running ``ssh``, or any other command that takes its place.

    Attributes
    ----------
    stdin, stdout
        Its streams, of bytes.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.stdin = process.stdin
        self.stdout = process.stdout
        self._process = process
        self._text = b""
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, words: Sequence[str]) -> Session:
        """Start a command.

        Raises
        ------
        SchedulerError
            If there is no such command.
        TransientError
            If it cannot be started for want of resources.
        """
        try:
            process = await asyncio.create_subprocess_exec(
                *words,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                limit=_LINE,
                env=_environment(),
                # Ctrl-C at the terminal is for Snakemake, which still has to end the jobs; and
                # without a terminal nothing can ask for a password on it.
                start_new_session=True,
            )
        except FileNotFoundError:
            raise SchedulerError(
                f"there is no command {words[0]!r}: pipen-ssh needs OpenSSH's client"
            ) from None
        except OSError as error:
            raise TransientError(f"{words[0]}: {error.strerror}") from None
        return cls(process)

    async def _read(self) -> None:
        """Take in the standard error, so that nobody waits for it, and keep its end."""
        assert self._process.stderr is not None
        while piece := await self._process.stderr.read(_TEXT):
            self._text = (self._text + piece)[-_TEXT:]

    async def why(self) -> str:
        """Wait for the end of a session; return the last that it wrote to its standard error."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):  # a child may have the stream, and live on
                await asyncio.shield(self._reading)
                await self._process.wait()
        return plain(self._text.decode(errors="replace")).strip()

    @property
    def has_ended(self) -> bool:
        """Whether its process is gone."""
        return self._process.returncode is not None

    @property
    def is_refused(self) -> bool:
        """Whether ``ssh`` itself says that there is no session (ssh(1), exit status)."""
        return self._process.returncode == 255

    def close(self) -> None:
        """End the session, whatever it does."""
        self.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

    async def wait_closed(self) -> None:
        """Wait until its process has ended."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                await self._process.wait()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)


def _environment() -> dict[str, str]:
    """Return the user's environment, where no window asks for a password (ssh(1))."""
    return {**os.environ, "SSH_ASKPASS_REQUIRE": "never"}


class Client:
    """The connection to one machine.

    Parameters
    ----------
    server, access
        The machine, and how it is reached.
    """

    def __init__(self, server: Server, access: Access) -> None:
        self._server = server
        self._access = access
        self._words = ["ssh", *arguments(server, access)]
        self._address = server.host
        self._shared: list[str] = []
        self._sessions: list[Session] = []

    async def open(self) -> Session:
        """Make the connection, with a first session that runs bash.

        Raises
        ------
        SchedulerError
            If the user's configuration cannot be read, or there is no ``ssh``.
        TransientError
            If it is worth trying again.
        """
        keyfile = self._server.keyfile
        if keyfile is not None and not os.access(os.path.expanduser(keyfile), os.R_OK):
            raise SchedulerError(f"{self._server.name}: there is no keyfile {keyfile!r} to be read")
        settings = await self._settings()
        self._words += completion(settings)
        host, port = settings.get("hostname", [self._server.host])[-1], settings.get("port", ["22"])
        self._address = host if port[-1] == "22" else f"-p {port[-1]} {host}"
        if await self._is_shared_already(settings.get("controlpath", ["none"])[-1]):
            self._shared = ["-o", "ControlMaster=no"]
            return await self.session()
        path = ["-o", f'ControlPath="{control_path() or "none"}"']
        self._shared = [*path, "-o", "ControlMaster=no"]
        return await self._start([*path, "-o", "ControlMaster=yes", "-o", "ControlPersist=no"])

    async def session(self) -> Session:
        """Open another session that runs bash.

        It takes neither functions nor a startup file from its environment (bash(1), -p). One
        command for the user's login shell, whichever that is; all else goes by its standard
        input.

        Raises
        ------
        TransientError
            If it cannot be opened for now.
        """
        return await self._start(self._shared)

    async def _start(self, more: Sequence[str]) -> Session:
        words = [*self._words, *more, "--", self._server.host, "exec /bin/bash -p"]
        session = await Session.start(words)
        self._sessions = [*(one for one in self._sessions if not one.has_ended), session]
        return session

    async def _settings(self) -> dict[str, list[str]]:
        """Ask what the user's files say of this machine.

        A file that cannot be read is known before anything is sent.
        """
        words = ["ssh", *QUESTION, *arguments(self._server, self._access)]
        done = await run([*words, "--", self._server.host], env=_environment())
        if done.rc:
            why = "; ".join(plain(done.stderr).splitlines()[-3:])
            raise SchedulerError(f"{self._server.name}: {why or 'ssh -G fails'}")
        return effective(done.stdout)

    async def _is_shared_already(self, path: str) -> bool:
        """Tell whether the user has a connection that can be used (``ssh -O check``).

        It is how one gets to machines that ask for a second factor.
        """
        if path == "none" or not os.path.exists(path):
            return False
        check = [*self._words, "-O", "check", "--", self._server.host]
        return (await run(check, env=_environment())).rc == 0

    def problem(self, why: str) -> SchedulerError:
        """Return what it means that no session came about."""
        return refusal(self._server.name, self._address, why)

    def abort(self) -> None:
        """End all sessions, and with them the connection."""
        for session in reversed(self._sessions):
            session.close()

    async def close(self) -> None:
        """End all sessions, and wait for that."""
        self.abort()
        await asyncio.gather(*(session.wait_closed() for session in self._sessions))
        self._sessions.clear()


def control_path() -> str:
    """Return a name for a control socket that nobody else uses; empty if there can be none.

    It lies in a directory of the user's own: whoever can use it is logged in. A process id is not
    enough for a name: others have it in another PID namespace, or on another host with the same
    TMPDIR.
    """
    name = f"{os.getpid()}-{_this_host()}-{secrets.token_hex(4)}"
    places = [os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir(), "/tmp"]
    for place in filter(None, places):
        directory = Path(place, f"pipen-ssh-{os.getuid()}")
        if len(os.fsencode(directory / name)) > _LONGEST_PATH or "%" in str(directory):
            continue
        with contextlib.suppress(OSError):
            directory.mkdir(mode=0o700, exist_ok=True)
            found = directory.lstat()
            if found.st_uid == os.getuid() and found.st_mode & 0o170077 == 0o040000:
                _clean(str(directory))
                return str(directory / name)
    return ""


def _this_host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]


@cache
def _clean(directory: str) -> None:
    """Remove control sockets that runs on this host have left, once: where nobody listens."""
    ours = re.compile(rf"\d+-{_this_host()}-[0-9a-f]{{8}}", re.ASCII)
    for name in filter(ours.fullmatch, os.listdir(directory)):
        path = f"{directory}/{name}"
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)  # one that is too busy is not waited for
            if stat.S_ISSOCK(os.lstat(path).st_mode) and probe.connect_ex(path) == ECONNREFUSED:
                os.unlink(path)


_FEW_SESSIONS: Final = (
    "; the connection that is shared has as many sessions as the server allows (MaxSessions)"
)
_RESOLVES_NOT: Final = re.compile(r"[Cc]ould not resolve hostname (\S+?):? (?!.*[Tt]emporary)")


def refusal(name: str, address: str, why: str) -> SchedulerError:
    """Return what the words of ``ssh`` mean: a :class:`TransientError` if it may be tried again.

    Parameters
    ----------
    name
        What the user calls the machine.
    address
        Host and port as ``ssh-keyscan`` takes them.
    why
        What it wrote to its standard error.
    """
    lines = [line.strip("@ ") for line in why.splitlines() if line.strip("@ ")]
    said = "; ".join(lines[-4:])
    if "Host key verification failed" in why or "host key for" in why.lower():
        return SchedulerError(
            f"the host key of {name} is not known or has changed ({said}). Compare the "
            f"fingerprint that 'ssh-keyscan {address} | ssh-keygen -lf -' shows with the "
            f"machine's own, and add the key with 'ssh-keyscan {address} >> "
            "~/.ssh/known_hosts', or log in once by 'ssh'"
        )
    if "Permission denied (" in why or "Too many authentication failures" in why:
        return SchedulerError(
            f"{name} refuses the login ({said}). It must be possible without a password: with a "
            "key that is in ssh-agent, or named by keyfile or in ~/.ssh/config"
            + (_FEW_SESSIONS if "Session open refused" in why else "")
        )
    if _RESOLVES_NOT.search(why):
        return SchedulerError(f"{name}: there is no such machine ({said})")
    if "Unable to negotiate" in why or "onfiguration option" in why:
        return SchedulerError(f"{name}: {said}")
    return TransientError(f"{name}: {said or 'the connection was closed'}")
