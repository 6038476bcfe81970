"""What container runtimes print, read: pure functions.

docker(1) and podman(1) print the same in the formats that are asked for here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pipen_executors.exceptions import SchedulerError, TransientError
from pipen_executors.states import ExitReason

KINDS: Final = ("docker", "podman", "apptainer")
STATUS_FORMAT: Final = "{{.Names}}\t{{.Status}}"
"""Format of ``ps`` that both understand; ``.State`` means the same as ``.Status`` to Podman."""

_ENDED: Final = ("Exited", "Created", "Configured", "Initialized", "Dead", "Remov")
_PASSING: Final = re.compile(
    r"cannot connect to the docker daemon|connection refused|connection reset|i/o timeout"
    r"|tls handshake timeout|deadline exceeded|unexpected eof|resource temporarily unavailable"
    r"|too many requests|toomanyrequests|database is locked|too many open files"
    r"|unable to connect to podman|service unavailable|bad gateway|\b50[0234]\b"
    r"|temporary failure in name resolution",
    re.IGNORECASE,
)
_NO_IMAGE: Final = re.compile(
    r"no such image|image not known|manifest unknown|pull access denied|unable to find image",
    re.IGNORECASE,
)
_TAKEN: Final = re.compile(r"container name .* is already in use", re.IGNORECASE)
_GONE: Final = re.compile(r"no such container|no container with name", re.IGNORECASE)


def kind_of(version: str) -> str:
    """Return the kind of a runtime from what its ``--version`` says; empty if unknown.

    The program ``docker`` may be Podman's. nerdctl has Docker's command line.

    >>> kind_of("podman version 4.3.1"), kind_of("singularity-ce version 3.11.4")
    ('podman', 'apptainer')
    """
    word = version.strip().split(" ", 1)[0].lower()
    if word.startswith(("apptainer", "singularity")):
        return "apptainer"
    return {"docker": "docker", "nerdctl": "docker", "podman": "podman"}.get(word, "")


@dataclass(frozen=True, slots=True)
class Facts:
    """What a runtime says of itself.

    Parameters
    ----------
    rootless
        Whether its containers are run by an ordinary user, whose number 0 is inside
        what the user's own is outside.
    cpus
        CPUs that a container can have.
    limits
        Options for limits that it can hold a container to, of ``cpus`` and ``memory``.
    remaps
        Whether the daemon gives containers other user numbers (dockerd(8), ``userns-remap``).
    keeps_groups
        Whether containers can keep the supplementary groups of an ordinary user (podman-run(1),
        ``--group-add keep-groups``: only crun can).
    """

    rootless: bool
    cpus: int
    limits: frozenset[str]
    remaps: bool = False
    keeps_groups: bool = False


def docker_facts(text: str) -> Facts:
    """Read ``docker info --format '{{json .}}'``.

    Raises
    ------
    TransientError
        If the daemon did not answer; the client then says so among what it knows itself.
    """
    info = _json(text)
    if errors := info.get("ServerErrors"):
        raise TransientError(errors[0])
    security = info.get("SecurityOptions") or []
    limits = {"cpus": info.get("CpuCfsQuota"), "memory": info.get("MemoryLimit")}
    return Facts(
        rootless="name=rootless" in security,
        remaps="name=userns" in security,
        cpus=int(info.get("NCPU") or 1),
        limits=frozenset(name for name, possible in limits.items() if possible),
    )


def podman_facts(text: str) -> Facts:
    """Read ``podman info --format json``."""
    host = _json(text)["host"]
    controllers = host.get("cgroupControllers") or []
    limits = {"cpus": "cpu", "memory": "memory"}
    return Facts(
        rootless=bool(host.get("security", {}).get("rootless")),
        keeps_groups=host.get("ociRuntime", {}).get("name") == "crun",
        cpus=int(host.get("cpus") or 1),
        limits=frozenset(name for name, needed in limits.items() if needed in controllers),
    )


def _json(text: str) -> dict[str, Any]:
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError):
        raise SchedulerError(f"its answer cannot be read: {text[:200]!r}") from None


def running(text: str) -> dict[str, bool]:
    """Read ``ps --all`` in :data:`STATUS_FORMAT`: which containers there are, and run.

    What is not known to have ended (``Up 3 seconds (Paused)``, ``Stopping``) runs.
    """
    lines = (line.partition("\t") for line in text.splitlines())
    return {name: not status.startswith(_ENDED) for name, _, status in lines if name}


@dataclass(frozen=True, slots=True)
class Ended:
    """How a container has ended: ``State`` of ``inspect``."""

    rc: int
    out_of_memory: bool
    error: str


def ends(text: str, label: str) -> Mapping[str, Ended]:
    """Read what ``inspect`` says of containers with a label (``name=value``), by their names."""
    key, _, value = label.partition("=")
    try:
        found = json.loads(text or "[]")
    except ValueError:
        raise TransientError(f"the answer of inspect cannot be read: {text[:200]!r}") from None
    return {
        entry["Name"].lstrip("/"): Ended(
            int(entry["State"].get("ExitCode", 0)),
            bool(entry["State"].get("OOMKilled")),
            entry["State"].get("Error") or "",
        )
        for entry in found
        if (entry.get("Config", {}).get("Labels") or {}).get(key) == value
    }


def message(stderr: str) -> str:
    """Return what a runtime says of an error, without what it says every time."""
    lines = [line.strip() for line in stderr.splitlines()]
    kept = [
        line
        for line in lines
        if line and not line.startswith(("See '", "Run '", "time=", "Trying to pull", "WARNING:"))
    ]
    text = " ".join(kept) or stderr.strip() or "no word of why"
    return re.sub(r"^(?:docker: |Error: |Error response from daemon: )+", "", text)


def refusal(rc: int, stderr: str) -> SchedulerError:
    """Return why a container could not be started.

    126 and 127 are said of the first command in it, 125 of everything else
    (docker-run(1), podman-run(1), Exit Status).
    """
    text = message(stderr)
    if rc in (126, 127):
        return SchedulerError(f"{text} (exit status {rc})", ExitReason.LAUNCH_FAILURE)
    if _NO_IMAGE.search(text):
        return SchedulerError(text, ExitReason.IMAGE_FAILURE)
    if _PASSING.search(text):
        return TransientError(text)
    return SchedulerError(f"{text} (exit status {rc})", ExitReason.LAUNCH_FAILURE)


def name_is_taken(stderr: str) -> bool:
    """Tell whether a container was refused because there is one with its name."""
    return bool(_TAKEN.search(stderr))


def only_unknown(stderr: str) -> bool:
    """Tell whether all that went wrong is that containers are no longer there."""
    lines = [line for line in stderr.splitlines() if line.strip() and not line.startswith("time=")]
    return all(_GONE.search(line) for line in lines)


def pull_refusal(stderr: str) -> SchedulerError:
    """Return why an image could not be pulled, and whether that may pass."""
    text = message(stderr)
    if _PASSING.search(text):
        return TransientError(text)
    return SchedulerError(text, ExitReason.IMAGE_FAILURE)
