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
_OURS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "name": ("containers have names of the executor's (setting jobname-prefix)", ()),
    "detach": ("containers always run in the background", ("true",)),
    "d": ("containers always run in the background", ("true",)),
    "rm": ("the setting remove says whether containers are removed", ("true", "false")),
    "entrypoint": ("the setting entrypoint says what starts a job", ()),
    "pull": ("the setting pull says when images are fetched", ("missing",)),
    "cidfile": ("containers are found by their labels", ()),
    "restart": ("a job runs once; the setting num-retries repeats it", ("no",)),
    "replace": ("each container has a name of its own", ("false",)),
}
"""Options of Docker's and Podman's ``run`` that are pipen-container's own: why, and the values
that change nothing."""
_HOME_OPTIONS: Final = frozenset({"home", "H", "no-home", "contain", "c", "containall", "C"})
"""Options of ``apptainer exec`` that say themselves what becomes of the home directory."""
_SHORT_SWITCHES: Final = frozenset("ditP")
"""Those that may stand together behind one hyphen."""
_LEADER: Final = (
    "APPTAINERENV_PIPEN_JID=$$ SINGULARITYENV_PIPEN_JID=$$\n"
    "export APPTAINERENV_PIPEN_JID SINGULARITYENV_PIPEN_JID\n"
    'cd / && exec "$@"'  # it mounts its working directory
)
"""Tells the wrapper the number of the session, which is this shell's and then Apptainer's."""


def container_name(text: str, token: str) -> str:
    """Return the name of a container: what a person tells it by, and the submission's token."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", text)
    return f"{name[:100].lstrip('_.-') or 'pipen'}-{token}"


def checked_options(options: Mapping[str, Any], where: str, kind: str) -> dict[str, Any]:
    """Return options as a runtime spells them, without those that change nothing.

    Raises
    ------
    SettingError
        For an option that is pipen-container's own, and for what is no name of one.
    """
    checked = {}
    for given, value in options.items():
        name = str(given).lstrip("-").replace("_", "-")
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*", name):
            raise SettingError(where, given, "expected the name of an option, such as shm-size")
        if not _is_ours(name, value, f"{name}={value}", where, kind):
            checked[name] = value
    return checked


def checked_arguments(words: Sequence[str], where: str, kind: str) -> list[str]:
    """Return arguments of a runtime as they are, without those that change nothing.

    Raises
    ------
    SettingError
        For an option that is pipen-container's own.
    """
    kept: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        name, equals, value = word.lstrip("-").partition("=")
        if re.fullmatch(r"-[A-Za-z]{2,}", word) and _SHORT_SWITCHES.issuperset(name):
            name = name.replace("d", "") if kind != "apptainer" else name
            kept += [f"-{name}"] if name else []
            continue
        if not re.match(r"--?[A-Za-z]", word) or name not in _OURS or kind == "apptainer":
            kept.append(word)
            continue
        is_switch = "true" in _OURS[name][1] or "false" in _OURS[name][1]
        shown = word
        if not equals and is_switch:
            value = "true"
        elif not equals:
            value = left.pop(0) if left else ""
            shown = f"{word} {value}"
        _is_ours(name, value, shown, where, kind)
    return kept


def _is_ours(name: str, value: Any, shown: str, where: str, kind: str) -> bool:
    """Tell whether an option is to be left out, because it changes nothing."""
    if kind == "apptainer" or name not in _OURS:
        return False
    why, harmless = _OURS[name]
    if str(value).lower() not in harmless:
        raise SettingError(where, shown, f"pipen-container sets this option: {why}")
    return True


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
    Docker only to 0. A daemon that gives containers other numbers is asked not to.
    """
    same_numbers = {"userns": "host"} if facts.remaps else {}
    if user is not None:
        return {"user": user, **same_numbers}
    own = f"{os.getuid()}:{os.getgid()}"
    groups = [] if os.getuid() == 0 else sorted(set(os.getgroups()) - {os.getgid()})
    if not facts.rootless:
        return {"user": own, "group-add": groups, **same_numbers}
    if kind == "docker":
        return {"user": "0:0"}
    kept = ["keep-groups"] if groups and facts.keeps_groups else []
    return {"user": own, "userns": "keep-id", "group-add": kept}


def _as_csv(words: Sequence[str]) -> str:
    """Return words as ``--mount`` reads them: a line of comma-separated values."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(words)  # whose characters it then quotes
    return line.getvalue().removesuffix("\r\n")


def _mount_words(mount: Mount) -> list[str]:
    """Return the option by which Docker and Podman mount something."""
    if mount.field_list:
        return [f"--mount={mount.field_list}"]
    if mount.options or not mount.source.startswith("/"):
        options = f":{mount.options}" if mount.options else ""
        return [f"--volume={mount.source}:{mount.target}{options}"]
    fields = ["type=bind", f"source={mount.source}", f"target={mount.target}"]
    return ["--mount=" + _as_csv(fields if mount.writable else [*fields, "readonly"])]


def _bind_words(mount: Mount) -> list[str]:
    """Return the option by which Apptainer mounts something.

    ``--bind`` has its own meaning for colons, commas and backslashes.
    """
    if mount.field_list:
        return ["--mount", mount.field_list]
    paths = f"{mount.source}:{mount.target}"
    if mount.options:
        return ["--bind", f"{paths}:{mount.options}"]
    if re.search(r'[:,"\\\n]', mount.source + mount.target):
        fields = ["type=bind", f"source={mount.source}", f"destination={mount.target}"]
        return ["--mount", _as_csv(fields if mount.writable else [*fields, "ro"])]
    return ["--bind", paths if mount.writable else f"{paths}:ro"]


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
    # The image's working directory may be closed to the user; the wrapper goes to the job's.
    words += ["--workdir=/", "--no-healthcheck"]
    # Without it, SELinux keeps a container from all files of the user; elsewhere it is nothing.
    words.append("--security-opt=label=disable")
    words.append("--stop-signal=SIGTERM")
    for mount in mounts:
        words += _mount_words(mount)
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
    if _HOME_OPTIONS.isdisjoint(
        {*options, *(word.lstrip("-").partition("=")[0] for word in bin_args)}
    ):
        words.append("--no-home")  # a container of the other runtimes does not see it either
    for mount in mounts:
        words += _bind_words(mount)
    if spec.resources.gpus:
        words.append("--nv")
    words += [*option_words(options), *bin_args, image, *argv]
    return ["/bin/sh", "-c", _LEADER, "pipen", *words]
