"""From what a job asks for to the command line of its container.

docker-run(1), podman-run(1) and ``apptainer exec`` (apptainer.org, CLI reference).
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pipen_executors.exceptions import SettingError
from pipen_executors.spec import JobSpec

from .mounts import Mount
from .parse import Facts

_LEAST_MEMORY: Final = 6
"""MB below which Docker refuses ``--memory`` (docker-run(1))."""
_OURS: Final = frozenset(
    {
        "name",
        "detach",
        "d",
        "rm",
        "entrypoint",
        "pull",
        "cidfile",
        "restart",
        "init-path",
        "replace",
    }
)
_LEADER: Final = (
    "APPTAINERENV_PIPEN_JID=$$ SINGULARITYENV_PIPEN_JID=$$\n"
    "export APPTAINERENV_PIPEN_JID SINGULARITYENV_PIPEN_JID\n"
    'exec "$@"'
)
"""Tells the wrapper the number of the session, which is this shell's and then Apptainer's."""


def container_name(text: str, token: str) -> str:
    """Return the name of a container: what a person tells it by, and the submission's token."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", text)
    return f"{name[:100].lstrip('_.-') or 'pipen'}-{token}"


def checked_options(options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return options as the runtimes spell them.

    Raises
    ------
    SettingError
        For an option that is pipen-container's own.
    """
    spelled = {name.replace("_", "-"): value for name, value in options.items()}
    for name in spelled:
        if name in _OURS:
            raise SettingError(where, name, "pipen-container sets this option itself")
    return spelled


def option_words(options: Mapping[str, Any]) -> Iterator[str]:
    """Yield options as words: ``True`` is a bare flag, ``False`` nothing, a list repeats."""
    for name, value in options.items():
        for item in value if isinstance(value, (list, tuple)) else [value]:
            if item is False:
                continue
            dashes = "-" if len(name) == 1 else "--"
            if item is True:
                yield f"{dashes}{name}"
            elif len(name) == 1:
                yield from (f"-{name}", str(item))
            else:
                yield f"--{name}={item}"


def limits(spec: JobSpec, kind: str, facts: Facts, *, enforce: bool) -> dict[str, Any]:
    """Return the options for threads, memory and GPUs.

    A limit that the runtime cannot hold is left out, as are more CPUs than there are.
    """
    asked = spec.resources
    options: dict[str, Any] = {}
    if enforce and "cpus" in facts.limits and asked.threads < facts.cpus:
        options["cpus"] = asked.threads
    if enforce and "memory" in facts.limits and asked.mem_mb is not None:
        options["memory"] = f"{max(_LEAST_MEMORY, asked.mem_mb)}m"
    if asked.gpus:
        if kind == "podman":  # CDI names (cncf-tags/container-device-interface)
            options["device"] = [f"nvidia.com/gpu={number}" for number in range(asked.gpus)]
        else:
            options["gpus"] = asked.gpus
    return options


def ownership(user: str | None, kind: str, facts: Facts) -> dict[str, Any]:
    """Return the options that make files the calling user's.

    An ordinary user's Podman maps the user's number to itself, an ordinary user's
    Docker only to 0.
    """
    if user is not None:
        return {"user": user}
    own = f"{os.getuid()}:{os.getgid()}"
    if facts.rootless:
        return {"user": own, "userns": "keep-id"} if kind == "podman" else {"user": "0:0"}
    groups = [] if os.getuid() == 0 else sorted(set(os.getgroups()) - {os.getgid()})
    return {"user": own, "group-add": groups}


def _as_csv(words: Sequence[str]) -> str:
    """Return words as ``--mount`` reads them: a line of comma-separated values."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(words)
    return line.getvalue()


def run_words(
    mounts: Sequence[Mount],
    labels: Sequence[str],
    options: Mapping[str, Any],
    bin_args: Sequence[str],
    image: str,
    argv: Sequence[str],
) -> list[str]:
    """Return what follows ``run --detach`` of Docker or Podman, and the container's name."""
    words = [f"--label={label}" for label in labels]
    # Without it, SELinux keeps a container from all files of the user; elsewhere it is nothing.
    words.append("--security-opt=label=disable")
    words.append("--stop-signal=SIGTERM")
    for mount in mounts:
        fields = ["type=bind", f"source={mount.source}", f"target={mount.target}"]
        words.append("--mount=" + _as_csv(fields if mount.writable else [*fields, "readonly"]))
    entrypoint, *arguments = argv
    words += [*option_words(options), *bin_args, f"--entrypoint={entrypoint}"]
    return [*words, image, *arguments]


def apptainer_words(
    bin: str,
    spec: JobSpec,
    mounts: Sequence[Mount],
    options: Mapping[str, Any],
    bin_args: Sequence[str],
    image: str,
    argv: Sequence[str],
) -> list[str]:
    """Return the command line that runs a job with Apptainer, in the foreground."""
    words = [bin, "exec", "--cleanenv"]
    for mount in mounts:
        if re.search(r'[:,"]', mount.source + mount.target):
            fields = ["type=bind", f"source={mount.source}", f"destination={mount.target}"]
            words += ["--mount", _as_csv(fields if mount.writable else [*fields, "ro"])]
        else:
            mode = "" if mount.writable else ":ro"
            words += ["--bind", f"{mount.source}:{mount.target}{mode}"]
    if spec.resources.gpus:
        words.append("--nv")
    words += [*option_words(options), *bin_args, image, *argv]
    return ["/bin/sh", "-c", _LEADER, "pipen", *words]
