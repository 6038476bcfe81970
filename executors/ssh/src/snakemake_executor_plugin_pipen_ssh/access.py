"""How one logs in on a machine, and what it means where that fails."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any, Final

import asyncssh

from pipen_executors.exceptions import SchedulerError

from .servers import Server

_KEEPALIVE: Final = 5
"""Seconds between two signs of life that are asked of a silent server."""
_KEEPALIVE_MISSES: Final = 3
"""How many of them stay without an answer before the connection is taken for lost."""


@dataclass(frozen=True, slots=True)
class Access:
    """How all machines are reached.

    Parameters
    ----------
    config
        Files in the format of ssh_config(5); None for ``~/.ssh/config``.
    connect_timeout
        Seconds that a connection with its login may take.
    host_timeout
        Seconds after which a machine that does not answer is lost.
    """

    config: tuple[str, ...] | None
    connect_timeout: float
    host_timeout: float


async def log_in(server: Server, access: Access) -> Any:
    """Return a connection (``asyncssh.SSHClientConnection``).

    Raises
    ------
    SchedulerError
        If that can never be, with what to do about it.
    OSError, asyncssh.Error
        If it is worth trying again.
    """
    options: dict[str, Any] = {"keepalive_interval": _KEEPALIVE}
    if server.port is not None:
        options["port"] = server.port
    if server.user is not None:
        options["username"] = server.user
    if server.keyfile is not None:
        options["client_keys"] = [server.keyfile]
    if access.config is not None:
        options["config"] = list(access.config)
    try:
        return await asyncssh.connect(server.host, keepalive_count_max=_KEEPALIVE_MISSES, **options)
    except asyncssh.HostKeyNotVerifiable as error:
        raise SchedulerError(
            f"the host key of {server.name} is not known or has changed ({error.reason}). "
            f"Compare the fingerprint that 'ssh-keyscan {server.address} | ssh-keygen -lf -' "
            "shows with the machine's own, and add the key with 'ssh-keyscan "
            f"{server.address} >> ~/.ssh/known_hosts', or log in once by 'ssh'"
        ) from None
    except asyncssh.PermissionDenied as error:
        raise SchedulerError(
            f"{server.name} refuses the login ({error.reason}). It must be possible without a "
            "password: with a key that is in ssh-agent, or named by keyfile or in "
            "~/.ssh/config"
        ) from None
    except asyncssh.KeyImportError as error:
        raise SchedulerError(f"{server.name}: the key cannot be used: {error}") from None
    except (asyncssh.ConfigParseError, FileNotFoundError) as error:
        raise SchedulerError(f"{server.name}: {error}") from None
    except socket.gaierror as error:
        if error.errno == socket.EAI_NONAME:
            raise SchedulerError(f"there is no machine {server.host!r}") from None
        raise
