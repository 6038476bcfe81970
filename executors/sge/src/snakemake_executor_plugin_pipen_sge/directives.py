"""From what a rule asks for to qsub's options.

The names of resources are those of snakemake-executor-plugin-sge, so that workflows and
profiles written for it go on working; docs/sge.md lists each with its option.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pipen_executors.exceptions import SettingError, UserError
from pipen_executors.spec import JobSpec
from pipen_executors.units import parse_megabytes, parse_switch

from .extra import Options, options_of, requests_of

_NAME = re.compile(r"[A-Za-z_][\w.]*")


@dataclass(frozen=True, slots=True)
class Site:
    """How a site counts what jobs ask for.

    Parameters
    ----------
    environment
        Parallel environment for jobs with several threads; None if it has to be found out.
    memory, gpu, disk
        Names of the resources (complex(5)) that stand for ``mem_mb``, ``gpu``, ``disk_mb``.
    per_slot
        Whether a request for memory counts for each slot of a job, or once.
    """

    environment: str | None = None
    memory: tuple[str, ...] = ("h_vmem",)
    per_slot: bool = True
    gpu: tuple[str, ...] = ("gpu",)
    disk: tuple[str, ...] = ()


def resource_names(value: str) -> tuple[str, ...]:
    """Read names of Grid Engine's resources, with commas between them, or ``none``."""
    if value.strip().lower() == "none":
        return ()
    names = tuple(name.strip() for name in value.split(","))
    if not all(map(_NAME.fullmatch, names)):
        raise ValueError("expected names of resources such as h_vmem, or none")
    return names


def _yes_or_no(value: Any) -> str:
    return "y" if parse_switch(value) else "n"


def _priority(value: Any) -> str:
    text = str(value).strip()
    if not re.fullmatch(r"[+-]?\d+", text) or not -1023 <= int(text) <= 1024:
        raise ValueError("expected a whole number, -1023 to 1024 (qsub(1), -p)")
    return str(int(text))


PLAIN: Final[Mapping[str, tuple[str, Callable[[Any], Any]]]] = {
    "name": ("N", str),
    "sge_queue": ("q", str),
    "sge_project": ("P", str),
    "sge_priority": ("p", _priority),
    "sge_requeue": ("r", _yes_or_no),
    "sge_reservation": ("R", _yes_or_no),
    "sge_notify": ("notify", parse_switch),
    "sge_export_env": ("V", parse_switch),
    "sge_mail_on": ("m", str),
    "sge_mail_address": ("M", str),
    "sge_hold_jid": ("hold_jid", str),
    "sge_hold_jid_ad": ("hold_jid_ad", str),
    "sge_task_concurrency": ("tc", str),
}
"""Resources that stand for one option each, with the check of the value."""

_FLAGS: Final = frozenset(["V", "clear", "h", "notify", "terse", "verify"])
"""Options that are given without a value, or not at all (qsub(1))."""
_YES_NO: Final = frozenset(["R", "b", "inherit", "j", "now", "r", "shell", "sync"])
"""Options whose value is ``y`` or ``n``, of which qsub knows no other words than yes and no."""
_OURS: Final[Mapping[str, tuple[tuple[Any, ...], str]]] = {
    "C": (("", '""'), "no line of a script of pipen-sge is an option"),
    "S": (("bash", "/bin/bash", "/usr/bin/bash"), "pipen-sge submits scripts for bash"),
    "b": (("n",), "pipen-sge submits a script of its own"),
    "clear": ((), "it would take away what pipen-sge says before it"),
    "inherit": (("n",), "a submission is no part of another job"),
    "now": (("n",), "a job may have to wait"),
    "shell": (("n", "y"), "pipen-sge submits scripts for bash"),
    "sync": (("n",), "the end of a job is waited for without it"),
    "t": (("1", "1-1", "1-1:1"), "pipen-sge makes arrays of the jobs that are ready"),
    "terse": ((True,), "pipen-sge reads what qsub answers with it"),
    "verify": ((), "it submits nothing"),
}
"""Options that cannot be passed on: the values that change nothing, and why no others."""
_IGNORED: Final = frozenset(["cwd"])  # pipen's way to say what is done in any case


def qsub_options(spec: JobSpec, site: Site) -> Options:
    """Return the options of a job, without those of its name and files.

    ``l`` is a table of resource requests. Options given as such
    (``--pipen-sge-options``, ``pipen_options``) win over what follows from resources. A
    job with several threads has no ``pe`` if ``site`` does not know the environment.

    Raises
    ------
    SettingError
        For a value that cannot be right.
    """
    given = spec.resources.extra
    options: Options = {}
    for name, (option, reader) in PLAIN.items():
        if given.get(name) is not None and given[name] != "":
            options[option] = _read(spec, name, given[name], reader)
    extra = _read(spec, "sge_extra", str(given.get("sge_extra") or ""), options_of)
    own = {_short(name): value for name, value in spec.options.items()}
    asked = requests_of(extra.pop("l", None)) | requests_of(own.pop("l", None))
    explicit = extra | own
    explicit = {name: _switched(name, value) for name, value in explicit.items()}
    for name in _OURS.keys() & explicit.keys():
        value = explicit.pop(name)
        same, why = _OURS[name]
        if value is not False and value not in same:
            where = f"option {name} of rule {spec.rule}"
            raise SettingError(where, value, f"it cannot be passed on to qsub: {why}")
    environment = given.get("sge_pe") or site.environment
    threads = spec.resources.threads
    if environment and (threads > 1 or given.get("sge_pe")):
        options["pe"] = f"{environment} {threads}"
    if isinstance(explicit.get("pe"), str) and len(explicit["pe"].split()) == 1:
        explicit["pe"] = f"{explicit['pe']} {threads}"
    requests = _limits(spec, site, _slots(explicit.get("pe", ""), threads)) | asked
    options |= {name: value for name, value in explicit.items() if name not in _IGNORED}
    options["l"] = {name: value for name, value in requests.items() if value is not False}
    return {name: value for name, value in options.items() if value is not False and value != {}}


def _read(spec: JobSpec, name: str, value: Any, reader: Callable[[Any], Any]) -> Any:
    try:
        return reader(value)
    except ValueError as error:
        raise SettingError(f"resource {name} of rule {spec.rule}", value, str(error)) from None


def _switched(name: str, value: Any) -> Any:
    """Return a switch as qsub has it: without a value, as ``y`` or ``n``, or not at all."""
    if name in _FLAGS or name in _YES_NO:
        with contextlib.suppress(ValueError):  # qsub says itself what is wrong with it
            switch = parse_switch(value)
            return switch if name in _FLAGS else "y" if switch else "n"
    return value


def _chosen(spec: JobSpec, *names: str) -> str | None:
    """Return which of some resources counts: a rule's own one before a default.

    Raises
    ------
    UserError
        If two of them have the same right to.
    """
    resources = spec.resources
    values: dict[str, Any] = {**resources.extra}
    values |= {"mem_mb": resources.mem_mb, "runtime": resources.runtime}
    given = [name for name in names if values.get(name) is not None]
    if not given:
        return None
    highest = max(resources.origin(name) for name in given)
    both = [name for name in given if resources.origin(name) == highest]
    if len(both) > 1:
        shown = " and ".join(f"{name} ({values[name]})" for name in both)
        raise UserError(f"Rule {spec.rule} asks for {shown}; give only one of them.")
    return both[0]


def _short(name: str) -> str:
    """Return an option's own name for pipen's older spellings (``qsub_q``, ``sge_l``)."""
    return re.sub(r"^(qsub|sge)_", "", name)


def _slots(environment: Any, threads: int) -> int:
    """Return the slots that a ``pe`` option asks for: a number, or the least of a range."""
    match = re.search(r"\s(\d+)", str(environment))
    return max(1, int(match[1])) if match else threads


def _limits(spec: JobSpec, site: Site, slots: int) -> Options:
    """Return the requests that follow from memory, time, GPUs and scratch space."""
    given, resources = spec.resources.extra, spec.resources
    requests: dict[str, tuple[str, Any]] = {}  # value, and the resource that it comes from
    memory: int | None = None
    how = _chosen(spec, "mem_mb_per_cpu", "mem_mb")
    if how == "mem_mb_per_cpu":
        memory = _read(spec, how, given[how], parse_megabytes)
        memory *= 1 if site.per_slot else slots
    elif resources.mem_mb is not None:
        # Rounded up: the parts must not add up to less than what was asked for.
        memory = -(-resources.mem_mb // slots) if site.per_slot else resources.mem_mb
    if memory:
        requests |= dict.fromkeys(site.memory, (how or "mem_mb", f"{memory}M"))
    limit = _chosen(spec, "runtime", "time")
    if limit == "time":
        requests["h_rt"] = limit, _read(spec, limit, given[limit], _minutes_or_clock)
    elif resources.runtime is not None:
        # sge_types(5), time_specifier
        limited = str(resources.runtime * 60) if resources.runtime else "INFINITY"
        requests["h_rt"] = "runtime", limited
    if resources.gpus:
        requests |= dict.fromkeys(site.gpu, ("gpu", str(resources.gpus)))
    if resources.disk_mb is not None:
        requests |= dict.fromkeys(site.disk, ("disk_mb", f"{resources.disk_mb}M"))
    if (name := _chosen(spec, "scratch_size", "tscratch")) is not None:
        scratch = _read(spec, name, given[name], parse_megabytes)
        requests["tscratch"] = name, f"{scratch}M"
    own = resources.origin("sge_resources")
    for name, value in requests_of(given.get("sge_resources")).items():
        if name not in requests or resources.origin(requests[name][0]) <= own:
            requests[name] = "sge_resources", value
    return {name: value for name, (_, value) in requests.items()}


def _minutes_or_clock(value: Any) -> str:
    """Read a time as snakemake-executor-plugin-sge does: minutes, HH:MM or HH:MM:SS."""
    parts = str(value).strip().split(":")
    if not 1 <= len(parts) <= 3 or not all(part.isdigit() for part in parts):
        raise ValueError("expected minutes, HH:MM or HH:MM:SS")
    hours, minutes, seconds = {
        1: ["0", *parts, "0"],
        2: [*parts, "0"],
        3: parts,
    }[len(parts)]
    return str(int(hours) * 3600 + int(minutes) * 60 + int(seconds))


def command_line(options: Mapping[str, Any]) -> list[str]:
    """Return options as words of a command line.

    A list repeats its option, ``l`` is repeated for each request, and a value is split
    into words where qsub would do so in a ``#$`` line (``pe: "smp 4"``). ``soft`` comes
    last: requests behind it are wishes (sge_submit(1), -soft).
    """
    words = []
    for name, value in sorted(options.items(), key=lambda option: option[0] == "soft"):
        if name == "l":
            for resource, amount in value.items():
                words += ["-l", resource if amount is True else f"{resource}={amount}"]
            continue
        for item in value if isinstance(value, (list, tuple)) else [value]:
            if item is True:
                words.append(f"-{name}")
            elif item is not None and item is not False:
                words += [f"-{name}", *shlex.split(str(item))]
    return words
