"""From what a rule asks for to sbatch's options.

The names of resources are those of snakemake-executor-plugin-slurm, so that workflows
and profiles written for it go on working; docs/slurm.md lists each with its option.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from math import ceil
from typing import Any, Final

from pipen_executors.exceptions import SettingError
from pipen_executors.spec import JobSpec
from pipen_executors.units import parse_megabytes, whole_number

Options = dict[str, Any]

_GRES = re.compile(r"[A-Za-z0-9_]+(:[A-Za-z0-9_.]+)?(:\d+[KMGT]?)?(,[A-Za-z0-9_:.]+)*")
_WORD = re.compile(r"[A-Za-z0-9_.]+")


def _gres(value: Any) -> str:
    if not _GRES.fullmatch(str(value)):
        raise ValueError("NAME, NAME:COUNT or NAME:TYPE:COUNT, such as gpu:a100:2")
    return str(value)


def _any_whole(value: Any) -> int:
    try:
        return int(str(value))
    except ValueError:
        raise ValueError("a whole number") from None


PLAIN: Final[Mapping[str, tuple[str, Callable[[Any], Any]]]] = {
    "slurm_account": ("account", str),
    "slurm_partition": ("partition", str),
    "slurm_qos": ("qos", str),
    "qos": ("qos", str),
    "slurm_reservation": ("reservation", str),
    "reservation": ("reservation", str),
    "slurm_cluster": ("clusters", str),
    "cluster": ("clusters", str),
    "clusters": ("clusters", str),
    "constraint": ("constraint", str),
    "nodes": ("nodes", whole_number(1)),
    "gres": ("gres", _gres),
    "mem_mb_per_cpu": ("mem-per-cpu", parse_megabytes),
}
"""Resources that stand for one option each, with the check of the value."""

EXCLUSIVE: Final = (
    ("mem", "mem-per-cpu", "mem-per-gpu"),
    ("gres", "gpus"),
    ("ntasks-per-gpu", "ntasks-per-node"),
    ("cpus-per-task", "cpus-per-gpu"),
)
"""Options of which sbatch takes only one of each group (sbatch(1))."""

_ORIGIN: Final = {"mem": "mem_mb", "mem-per-cpu": "mem_mb_per_cpu", "gpus": "gpu"}
_SHORT: Final = {
    "A": "account", "C": "constraint", "D": "chdir", "G": "gpus", "J": "job-name", "M": "clusters",
    "N": "nodes", "c": "cpus-per-task", "e": "error", "n": "ntasks", "o": "output",
    "p": "partition", "q": "qos", "t": "time", "w": "nodelist", "x": "exclude",
}  # fmt: skip
_OURS: Final = frozenset({"array", "parsable", "wrap", "wait", "test-only"})


def sbatch_options(spec: JobSpec) -> Options:
    """Return the options of a job by their long names, without those of its name and files.

    Options given as such (``--pipen-slurm-options``, ``pipen_options``) win over what
    follows from resources.

    Raises
    ------
    SettingError
        For a value that cannot be right, and for options that exclude each other.
    """
    given = spec.resources.extra
    options: Options = {}
    for name, (option, reader) in PLAIN.items():
        if given.get(name) is not None and given[name] != "":
            options[option] = _read(spec, name, given[name], reader)
    resources = spec.resources
    if resources.mem_mb is not None and not (
        "mem-per-cpu" in options and "mem_mb" in resources.defaulted
    ):
        options["mem"] = f"{resources.mem_mb}M"
    if "mem-per-cpu" in options:
        options["mem-per-cpu"] = f"{options['mem-per-cpu']}M"
    if resources.runtime is not None:
        options["time"] = str(ceil(resources.runtime))
    options |= _gpus(spec)
    options |= _tasks(spec, gpu="gpus" in options or "gpu" in str(options.get("gres", "")))
    extra = _extra(spec)
    explicit = {_long(name): value for name, value in spec.options.items()} | extra
    for group in EXCLUSIVE:
        if any(name in explicit for name in group):
            for name in group:
                options.pop(name, None)
    options |= explicit
    _check(spec, options, explicit)
    return {name: value for name, value in options.items() if value is not False}


def _read(spec: JobSpec, name: str, value: Any, reader: Callable[[Any], Any]) -> Any:
    try:
        return reader(value)
    except ValueError as error:
        raise SettingError(f"resource {name} of rule {spec.rule}", value, str(error)) from None


def _gpus(spec: JobSpec) -> Options:
    model = spec.resources.extra.get("gpu_model")
    count = spec.resources.gpus
    if model:
        if not _WORD.fullmatch(str(model)):
            where = f"resource gpu_model of rule {spec.rule}"
            raise SettingError(where, model, "a name such as a100")
        return {"gpus": f"{model}:{1 if count is None else count}"}
    return {"gpus": str(count)} if count else {}


_POSITIVE: Final = whole_number(1)


def _tasks(spec: JobSpec, *, gpu: bool) -> Options:
    given = spec.resources.extra

    def number(name: str, reader: Callable[[Any], int] = _POSITIVE) -> int | None:
        value = given.get(name)
        return None if value is None else int(_read(spec, name, value, reader))

    tasks, per_node, per_gpu = number("tasks"), number("tasks_per_node"), number("tasks_per_gpu")
    options: Options = {}
    if given.get("mpi"):
        if (tasks is None) == (per_node is None):
            where = f"resources tasks and tasks_per_node of rule {spec.rule}"
            raise SettingError(where, (tasks, per_node), "one of the two for an MPI rule")
        options |= {"ntasks-per-node": per_node} if per_node else {"ntasks": tasks}
    elif gpu:
        if per_gpu or tasks:
            options["ntasks-per-gpu"] = per_gpu or tasks
    else:
        options["ntasks"] = tasks or 1
        if per_node:
            options["ntasks-per-node"] = per_node
    # A negative number asks for no such option: some sites forbid it (as in the peer).
    per_task = number("cpus_per_task", _any_whole)
    cpus_per_gpu = number("cpus_per_gpu", _any_whole)
    if per_task is not None:
        if per_task >= 0:
            options["cpus-per-task"] = max(1, per_task)
    elif gpu and cpus_per_gpu is not None:
        if cpus_per_gpu > 0:
            options["cpus-per-gpu"] = cpus_per_gpu
    else:
        options["cpus-per-task"] = spec.resources.threads
    return options


def _extra(spec: JobSpec) -> Options:
    """Read ``slurm_extra``: options as on sbatch's command line."""
    text = spec.resources.extra.get("slurm_extra")
    if not text:
        return {}
    where = f"resource slurm_extra of rule {spec.rule}"
    options: Options = {}
    try:
        words = shlex.split(str(text))
    except ValueError as error:
        raise SettingError(where, text, f"quoted as for a shell ({error})") from None
    name = ""
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            options[name] = value if equals else True
            if equals:
                name = ""
        elif word.startswith("-") and len(word) > 1 and not word[1].isdigit():
            name = _long(word[1])
            options[name] = word[2:] or True
            if word[2:]:
                name = ""
        elif name:
            options[name], name = word, ""
        else:
            raise SettingError(where, text, "options of sbatch, each beginning with a dash")
    return options


def _long(name: str) -> str:
    return _SHORT.get(name, name.replace("_", "-"))


def _check(spec: JobSpec, options: Options, explicit: Options) -> None:
    for name in _OURS & options.keys():
        where = f"option {name} of rule {spec.rule}"
        raise SettingError(where, options[name], "left to pipen-slurm, which sets it itself")
    for group in EXCLUSIVE:
        both = [name for name in group if options.get(name) not in (None, False)]
        if len(both) > 1:
            names = (name if name in explicit else _ORIGIN.get(name, name) for name in both)
            shown = [f"{name} ({options[key]})" for name, key in zip(names, both, strict=True)]
            asked = " and ".join(shown)
            raise SettingError(f"what rule {spec.rule} asks for", asked, "only one of them")


def command_line(options: Mapping[str, Any]) -> list[str]:
    """Return options as words of a command line; a list repeats its option."""
    words = []
    for name, value in options.items():
        for item in value if isinstance(value, (list, tuple)) else [value]:
            if item is True:
                words.append(f"--{name}")
            elif item is not None and item is not False:
                words.append(f"--{name}={item}")
    return words
