"""What to look at before a first run over ssh (see :mod:`pipen_executors.doctor`).

Connection, host keys and bash on the other side are seen by the job that goes there.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator

from pipen_executors.doctor import Entry, Finding, Place, failure, ok

from .servers import parse_servers


async def checks(place: Place) -> AsyncIterator[Finding]:
    """Look whether there is a client, and machines are named."""
    if shutil.which("ssh") is None:
        yield failure("there is no ssh", "install OpenSSH's client (openssh-client)")
    if not place.checked.settings.servers:
        yield failure(
            "no machine is named", "--set servers=user@host, as --pipen-ssh-servers has it"
        )
        return
    servers = place.checked.read("servers", parse_servers)
    yield ok(f"{len(servers)} machines: {', '.join(server.name for server in servers)}")


async def entries(place: Place) -> AsyncIterator[Entry]:
    """Name the machines."""
    yield Entry("jobs", 100, "jobs at once; each machine runs as many as it has slots")
    servers = place.checked.settings.servers or ["user@host,slots=8"]
    given = bool(place.checked.settings.servers)
    yield Entry("pipen-ssh-servers", list(servers), "the machines", certain=given)
