"""What of a job may change before its turn in a group comes.

Snakemake's local executor works out params, resources and the command of a job when all
jobs ahead of it have run. The script of a group is written before: for a member that has
others ahead of it, everything that goes into its command must be the same then and now.
What its input functions answer is no question here: Snakemake asks them once, for the DAG.
"""

from __future__ import annotations

import dis
import inspect
import os
import re
import string
import types
from collections.abc import Callable, Collection, Iterator
from typing import Any, Final

from snakemake.common import get_function_params
from snakemake.io import expand, get_flag_value, is_callable, multiext
from snakemake.ioutils import register_in_globals
from snakemake.script import script
from snakemake.shell import shell
from snakemake.wrapper import wrapper

from .command import Command
from .purity import is_data, is_settled, is_settled_expression

_HARMLESS: Final[frozenset[Callable[..., Any]]] = frozenset({expand, multiext})
_OF_RULES: Final[frozenset[Callable[..., Any]]] = frozenset({shell, script, wrapper}) | _HARMLESS
_ARGUMENTS: Final = ("attempt", "input", "rulename", "system_tmpdir", "threads", "wildcards")
_FILES: Final = frozenset({"input", "output", "log"})
_OF_OTHER_RULES: Final = frozenset({"benchmark", "input", "log", "output"})
# What a script may read of the object it is given, whatever the resources are.
_ANOTHER_PART: Final = re.compile(
    r"\s*[.@]\s*(bench_iteration|config|input|log|log_fmt_shell|output|params|rule|scriptdir"
    r"|shell|threads|utils|wildcards)\b|_(config|input|log|output|params|rule|threads|wildcards)\b"
)


def why_unsettled(job: Any, command: Command, made: Collection[str]) -> str | None:
    """Return why the command of a job may be another when its turn comes; None if it is not.

    Parameters
    ----------
    job
        A member of a group.
    command
        Its command as of now.
    made
        Paths of what the other members of the group make.
    """
    return _Review(job).why(command, made)


def why_no_sum_yet(job: Any) -> str | None:
    """Return why a checksum that ensure() wants may be another when a job has ended.

    Snakemake asks for it then, so it may come from what the job itself has made.
    """
    return _Review(job).why_no_sum()


class _Review:
    def __init__(self, job: Any) -> None:
        self._job = job
        self._rule = job.rule
        self._named = {
            name
            for part in (job.wildcards, job.input, job.output, self._rule.params, job.log)
            for name in (part.keys() if part is not None else ())
            if not hasattr(type(part), name)
        }
        self._named |= set(self._rule.resources.keys())

    def why(self, command: Command, made: Collection[str]) -> str | None:
        if not self._resource("_cores"):
            return "its threads may depend on files of the group"
        if self._rule.resources.get("shell_exec") and not self._resource("shell_exec"):
            return "its resource shell_exec may depend on files of the group"
        function = self._rule.run_func
        if not is_settled(function, frozenset(self._named), _OF_RULES):
            return "its command is an expression that may depend on files of the group"
        for name, value in self._rule.params._allitems():
            if is_callable(value) and not self._function(_called(value)):
                return f"its params{f' {name}' if name else ''} may depend on files of the group"
        for path in command.script_paths:
            if _is_among(path, made):
                return f"its script {path} is made by the group"
        wanted = self._used_resources(command)
        if wanted is None:
            return "a value in its command may depend on files of the group"
        for name in sorted(wanted):
            if not self._resource(name):
                return f"its resource {name} may depend on files of the group"
        return None

    def why_no_sum(self) -> str | None:
        for file in self._job.output:
            checksum = (get_flag_value(file, "ensure") or {}).get("checksum")
            if is_callable(checksum) and not self._function(_called(checksum)):
                return "the checksum that ensure() wants may depend on files of the group"
        return None

    def _resource(self, name: str) -> bool:
        resource = self._rule.resources.get(name)
        evaluator = getattr(resource, "_evaluator", resource)
        if name == "tmpdir" or not callable(evaluator):
            return True
        function = inspect.unwrap(evaluator)
        if (getattr(function, "__module__", None) or "").startswith("snakemake."):
            expression = _closure(function)
            meanings: dict[str, Any] = {}
            register_in_globals(meanings)
            return expression is not None and is_settled_expression(
                os.path.expandvars(expression),
                _ARGUMENTS,
                {*meanings, "async_run", "shutil"},
                frozenset(self._named),
            )
        return self._function(function)

    def _function(self, function: Any) -> bool:
        if not isinstance(function, types.FunctionType):
            return False
        if not is_settled(function, frozenset(self._named), _HARMLESS):
            return False
        asked = get_function_params(function)
        if "resources" in asked:
            return all(map(self._resource, self._rule.resources.keys()))
        return "threads" not in asked or self._resource("_cores")

    def _used_resources(self, command: Command) -> set[str] | None:
        """Return the resources that a command is told; None if it is told what is not known."""
        everything = set(self._rule.resources.keys())
        if command.sources:
            return everything if any(map(_may_ask_for_resources, command.sources)) else set()
        used = everything if "resources" in _locals_read(self._rule.run_func) else set()
        for pattern in command.patterns:
            for field in _fields(pattern):
                first, *rest = re.findall(r"[^.\[\]]+", field) or [""]
                if first == "resources":
                    used = used | self._named_by(rest[0] if rest else "")
                elif not self._is_settled_field(first, rest, field):
                    return None
        return used

    def _named_by(self, name: str) -> set[str]:
        """Return the resources that ``{resources.<name>}`` stands for."""
        everything = set(self._rule.resources.keys())
        if name in everything:
            return {name}
        if (sized := f"{name.removesuffix('_mib')}_mb") in everything:  # mem, mem_mib
            return {sized}
        return everything  # all of them, or one by its number

    def _is_settled_field(self, first: str, rest: list[str], field: str) -> bool:
        if first in _FILES:  # input.size is no name of a file
            return not field[len(first) :].startswith(".") or rest[0] in self._named
        if first == "rules":
            return len(rest) in (2, 3) and rest[1] in _OF_OTHER_RULES
        return first in _OF_FUNCTION or is_data(self._rule.run_func.__globals__.get(first))


_OF_FUNCTION: Final = frozenset({"params", "wildcards", "threads", "rule", "jobid"})


def _called(value: Any) -> Any:
    """Return the function behind what Snakemake calls."""
    value = getattr(value, "_file", value)
    return value if isinstance(value, types.FunctionType) else getattr(value, "callable", value)


def _closure(function: Any) -> str | None:
    """Return the expression that Snakemake has made a function of."""
    try:
        value = inspect.getclosurevars(function).nonlocals.get("value")
    except (TypeError, ValueError):
        return None
    return value if isinstance(value, str) else None


def _fields(pattern: str) -> Iterator[str]:
    """Yield the names of the fields in a text to be formatted, also those in a field's format."""
    for _, field, form, _ in string.Formatter().parse(pattern):
        if field is not None:
            yield field
            yield from _fields(form or "")


def _locals_read(function: Any) -> set[str]:
    """Return the arguments that the function of a rule itself looks at."""
    return {
        name
        for instruction in dis.get_instructions(function)
        if instruction.opname.startswith(("LOAD_FAST", "LOAD_DEREF", "LOAD_CLOSURE"))
        for name in (
            instruction.argval if isinstance(instruction.argval, tuple) else (instruction.argval,)
        )
    }


def _may_ask_for_resources(source: str) -> bool:
    """Tell whether a script may read its resources: it names them, or hands all it knows on."""
    if "resources" in source:
        return True
    return any(
        not _ANOTHER_PART.match(source, found.end())
        for found in re.finditer(r"\bsnakemake", source)
    )


def _is_among(path: str, made: Collection[str]) -> bool:
    """Tell whether a file is, or lies in, what is made."""
    real = os.path.realpath(path)
    return any(
        real == (other := os.path.realpath(file)) or real.startswith(other + os.sep)
        for file in made
    )
