"""From what a rule asks for to sbatch's options.

The names of resources are those of snakemake-executor-plugin-slurm, so that workflows
and profiles written for it go on working; docs/slurm.md lists each with its option. Values
are sbatch's to judge: only what no sbatch takes is refused here, because that is known
before anything is submitted.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any, Final

from pipen_executors.exceptions import SettingError, UserError
from pipen_executors.spec import JobSpec, Origin
from pipen_executors.units import parse_megabytes, parse_switch, whole_number

Options = dict[str, Any]


def _nodes(value: Any) -> str:
    if not re.fullmatch(r"\d[\dkKmM,:-]*", str(value)):
        raise ValueError("expected a number or a range such as 1-4 (sbatch(1), --nodes)")
    return str(value)


def _any_whole(value: Any) -> int:
    try:
        return int(str(value))
    except ValueError:
        raise ValueError("expected a whole number") from None


def _memory(value: Any) -> str:
    return f"{parse_megabytes(value)}M"


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
    "nodes": ("nodes", _nodes),
    "gres": ("gres", str),
    "mem_mb_per_cpu": ("mem-per-cpu", _memory),
    "mem_mb_per_gpu": ("mem-per-gpu", _memory),
}
"""Resources that stand for one option each, with the reader of the value."""

EXCLUSIVE: Final = (
    ("mem", "mem-per-cpu", "mem-per-gpu"),
    ("ntasks-per-gpu", "ntasks-per-node"),
    ("ntasks-per-gpu", "gpus-per-task"),
    ("cpus-per-task", "cpus-per-gpu"),
)
"""Options of which sbatch takes only one of each group (sbatch(1), under each of them)."""
ALTERNATIVES: Final = (
    *EXCLUSIVE,
    ("gpus", "gres", "gpus-per-node", "gpus-per-task", "gpus-per-socket"),
    ("ntasks", "ntasks-per-node", "ntasks-per-gpu"),
)
"""Ways to ask for the same thing: what a rule itself says takes the place of a default that
says it another way."""

_SHORT: Final = {
    "A": "account", "C": "constraint", "D": "chdir", "G": "gpus", "J": "job-name", "M": "clusters",
    "N": "nodes", "S": "core-spec", "b": "begin", "c": "cpus-per-task", "d": "dependency",
    "e": "error", "i": "input", "m": "distribution", "n": "ntasks", "o": "output",
    "p": "partition", "q": "qos", "t": "time", "w": "nodelist", "x": "exclude",
    "B": "extra-node-info", "F": "nodefile", "H": "hold", "L": "licenses", "O": "overcommit",
    "Q": "quiet", "W": "wait", "a": "array", "k": "no-kill", "s": "oversubscribe", "v": "verbose",
}  # fmt: skip
_FLAGS: Final = frozenset(
    ["contiguous", "exclusive", "get-user-env", "hold", "ignore-pbs", "no-kill", "no-requeue",
     "overcommit", "oversubscribe", "parsable", "quiet", "reboot", "requeue", "spread-job",
     "test-only", "use-min-nodes", "verbose", "wait"]
)  # fmt: skip
"""Options that are switches: given without a value, or not at all (sbatch(1))."""
_WORDS: Final = {"kill-on-invalid-dep": ("yes", "no"), "wait-all-nodes": ("1", "0")}
"""Options that are switches with a value, and what sbatch calls yes and no."""
_OURS: Final[Mapping[str, str]] = {
    "array": "pipen-slurm makes arrays of the jobs that are ready",
    "help": "it submits nothing",
    "test-only": "it submits nothing",
    "usage": "it submits nothing",
    "version": "it submits nothing",
    "wait": "the end of a job is waited for without it",
    "wrap": "pipen-slurm submits a script of its own",
}
"""Options that cannot be passed on, and why."""


_FILLED_IN: Final = -1
_OPTION: Final = max(Origin) + 1
"""Levels below and above those of resources (:class:`~pipen_executors.spec.Origin`)."""


@dataclass(frozen=True, slots=True)
class _Wish:
    """An option with what it comes from; ``value`` False stands for "none of this"."""

    option: str
    value: Any
    level: int
    source: str

    @property
    def is_asked(self) -> bool:
        return self.value is not None and self.value is not False


def sbatch_options(spec: JobSpec) -> Options:
    """Return the options of a job by their long names, without those of its name and files.

    Options given as such (``--pipen-slurm-options``, ``pipen_options``, ``slurm_extra``) win
    over what follows from resources; ``--set-resources`` over what the rule says, and that
    over ``--default-resources``, also where it is asked for in another way (``mem_mb_per_cpu``
    for ``mem_mb``).

    Raises
    ------
    SettingError
        For a value that cannot be right.
    UserError
        For two options that exclude each other.
    """
    wishes = [*_from_resources(spec), *_given_options(spec), *_extra(spec)]
    gpu = any(
        wish.is_asked and (wish.option.startswith("gpus") or _is_gres_for_gpus(wish))
        for wish in _resolved(wishes).values()
    )
    chosen = _resolved([*wishes, *_tasks(spec, gpu=gpu)])
    for group in EXCLUSIVE:
        both = [chosen[name] for name in group if name in chosen and chosen[name].is_asked]
        if len(both) > 1:
            shown = " and ".join(f"{wish.source} ({wish.value})" for wish in both)
            names = ", ".join(f"--{name}" for name in group)
            raise UserError(
                f"Rule {spec.rule} asks for {shown}, of which sbatch takes only one "
                f"(sbatch(1), {names})."
            )
    return {name: wish.value for name, wish in chosen.items() if wish.is_asked}


def _resolved(wishes: Iterable[_Wish]) -> dict[str, _Wish]:
    """Return the options that hold: of each, and of all alternatives, those of highest level."""
    chosen: dict[str, _Wish] = {}
    for wish in sorted(wishes, key=lambda wish: wish.level):
        chosen[wish.option] = wish
    for group in ALTERNATIVES:
        present = [chosen[name] for name in group if name in chosen]
        # What a gres asks for besides GPUs is no alternative to anything.
        present = [w for w in present if w.option != "gres" or _is_gres_for_gpus(w)]
        highest = max((wish.level for wish in present), default=_OPTION)
        for wish in present:
            if wish.level < highest:
                _take_away(chosen, wish)
    return chosen


def _is_gres_for_gpus(wish: _Wish) -> bool:
    return wish.option == "gres" and wish.is_asked and _asks_for_gpu(wish.value)


def _asks_for_gpu(gres: Any) -> bool:
    return any(re.match(r"(gres[:/])?gpu\b", item.strip()) for item in str(gres).split(","))


def _take_away(wishes: dict[str, _Wish], wish: _Wish) -> None:
    """Drop an option in favour of another; of ``gres`` only the GPUs."""
    del wishes[wish.option]
    if wish.option == "gres":
        items = [item for item in str(wish.value).split(",") if not _asks_for_gpu(item)]
        if items:
            wishes["gres"] = _Wish("gres", ",".join(items), wish.level, wish.source)


def _from_resources(spec: JobSpec) -> Iterator[_Wish]:
    """Yield what resources ask for, but for tasks and processors."""
    resources, given = spec.resources, spec.resources.extra
    for name, (option, reader) in PLAIN.items():
        if given.get(name) is not None and given[name] != "":
            yield _Wish(
                option, _read(spec, name, given[name], reader), spec.resources.origin(name), name
            )
    if resources.mem_mb is not None:
        yield _Wish("mem", f"{resources.mem_mb}M", spec.resources.origin("mem_mb"), "mem_mb")
    if resources.runtime is not None:
        yield _Wish(
            "time", str(ceil(resources.runtime)), spec.resources.origin("runtime"), "runtime"
        )
    yield from _gpus(spec)


def _read(spec: JobSpec, name: str, value: Any, reader: Callable[[Any], Any]) -> Any:
    try:
        return reader(value)
    except ValueError as error:
        raise SettingError(f"resource {name} of rule {spec.rule}", value, str(error)) from None


def _gpus(spec: JobSpec) -> Iterator[_Wish]:
    given, count = spec.resources.extra, spec.resources.gpus
    model, text = given.get("gpu_model"), given.get("gpu")
    level = spec.resources.origin("gpu" if count is not None else "gpu_model")
    if text is not None:  # with the types in it: a100:2
        yield _Wish("gpus", str(text), level, "gpu")
    elif model:
        yield _Wish("gpus", f"{model}:{1 if count is None else count}", level, "gpu_model")
    elif count is not None:
        yield _Wish("gpus", str(count) if count else False, level, "gpu")


_POSITIVE: Final = whole_number(1)


def _tasks(spec: JobSpec, *, gpu: bool) -> Iterator[_Wish]:
    given = spec.resources.extra

    def number(name: str, reader: Callable[[Any], int] = _POSITIVE) -> int | None:
        value = given.get(name)
        return None if value is None else int(_read(spec, name, value, reader))

    def wish(option: str, name: str, value: int | None) -> Iterator[_Wish]:
        if value is not None:
            yield _Wish(option, value, spec.resources.origin(name), name)

    mpi = bool(given.get("mpi"))
    if mpi and given.get("tasks") is None and given.get("tasks_per_node") is None:
        raise UserError(
            f"Rule {spec.rule} has a resource mpi, but says with neither tasks nor tasks_per_node "
            "how many processes it starts."
        )
    if gpu and not mpi:
        # 0 or less leaves the option out: some sites refuse it, as in the slurm plugin.
        name = "tasks" if given.get("tasks_per_gpu") is None else "tasks_per_gpu"
        tasks = number(name, _any_whole)
        yield from wish("ntasks-per-gpu", name, tasks if tasks and tasks > 0 else None)
    else:
        per_node, tasks = number("tasks_per_node"), number("tasks")
        yield from wish("ntasks-per-node", "tasks_per_node", per_node)
        yield from wish("ntasks", "tasks", tasks)
        if per_node is None and tasks is None:
            yield _Wish("ntasks", 1, _FILLED_IN, "one task")
    # A negative number asks for no such option: some sites forbid it, as in the slurm plugin.
    per_task = number("cpus_per_task", _any_whole)
    cpus_per_gpu = number("cpus_per_gpu", _any_whole)
    if per_task is not None:
        count = max(1, per_task) if per_task >= 0 else None
        yield from wish("cpus-per-task", "cpus_per_task", count)
    elif gpu and cpus_per_gpu is not None:
        yield from wish("cpus-per-gpu", "cpus_per_gpu", cpus_per_gpu if cpus_per_gpu > 0 else None)
    else:
        yield _Wish("cpus-per-task", spec.resources.threads, _FILLED_IN, "threads")


def _given_options(spec: JobSpec) -> Iterator[_Wish]:
    for name, value in spec.options.items():
        yield from _option(spec, name, value, _OPTION)


def _extra(spec: JobSpec) -> Iterator[_Wish]:
    """Read ``slurm_extra``: options as on sbatch's command line."""
    text = spec.resources.extra.get("slurm_extra")
    if not text:
        return
    where = f"resource slurm_extra of rule {spec.rule}"
    options: Options = {}
    try:
        words = shlex.split(str(text))
    except ValueError as error:
        problem = f"expected options, quoted as for a shell ({error})"
        raise SettingError(where, text, problem) from None
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
            problem = f"{word!r} is no option of sbatch; each begins with a dash"
            raise SettingError(where, text, problem)
    is_default = "slurm_extra" in spec.resources.defaulted
    level = Origin.DEFAULT if is_default else _OPTION
    for name, value in options.items():
        yield from _option(spec, name, value, level)


def _option(spec: JobSpec, name: str, value: Any, level: int) -> Iterator[_Wish]:
    """Yield one option as sbatch spells it, unless it says what is so in any case."""
    option = _long(name)
    if option in _FLAGS:
        with contextlib.suppress(ValueError):  # exclusive=user: sbatch knows its words
            value = parse_switch(value)
    elif option in _WORDS and isinstance(value, bool):
        value = _WORDS[option][0 if value else 1]
    if option == "parsable" or (option in _OURS and value is False):
        return
    if option in _OURS:
        where = f"option {name} of rule {spec.rule}"
        raise SettingError(where, value, f"it cannot be passed on to sbatch: {_OURS[option]}")
    yield _Wish(option, value, level, f"option {name}")


def _long(name: str) -> str:
    return _SHORT.get(name, name.replace("_", "-"))


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
