"""Whether a function of a workflow can look at files, told from its code without running it.

A member of a group is made ready before the members ahead of it have run, so whatever reads
a file that they make, or asks whether it exists or how large it is, would be told of an
earlier run's file. Only what can be shown to follow from its arguments and from plain data
of the workflow is taken as settled: a name, attribute or object that is not known here to
be harmless counts as a look at files. (``sys.addaudithook`` is no help: ``os.stat`` raises
no audit event.)
"""

from __future__ import annotations

import builtins
import dis
import functools
import itertools
import math
import os
import pathlib
import re
import string
import types
from collections.abc import Callable, Collection, Hashable, Iterator
from typing import Any, Final

_DATA: Final = (bool, int, float, complex, str, bytes, types.NoneType)
_CONTAINERS: Final = (list, tuple, set, frozenset)
_DEEPEST: Final = 20
_FUNCTIONS: Final = frozenset(
    getattr(builtins, name)
    for name in (
        *("abs", "all", "any", "bool", "chr", "dict", "divmod", "enumerate", "filter"),
        *("float", "frozenset", "int", "isinstance", "len", "list", "map", "max", "min"),
        *("ord", "pow", "range", "reversed", "round", "set", "slice", "sorted", "str"),
        *("sum", "tuple", "zip", "Exception", "IndexError", "KeyError", "TypeError"),
        "ValueError",
    )
)
"""Of Python itself. What is opened, executed or looked up by name is not among them."""
_MODULES: Final[dict[types.ModuleType, frozenset[str]]] = {
    math: frozenset(dir(math)),
    itertools: frozenset(dir(itertools)),
    re: frozenset(
        {"compile", "escape", "findall", "finditer", "fullmatch", "match", "search", "sub"}
        | {"group", "groups", "groupdict", "I", "IGNORECASE"}
    ),
    os.path: frozenset(
        {"basename", "commonpath", "commonprefix", "dirname", "join", "normpath", "relpath"}
        | {"split", "splitext", "sep"}
    ),
}
_MODULES[os] = _MODULES[os.path] | {"path"}
_OF_MODULES: Final = frozenset(
    value
    for module, names in _MODULES.items()
    for name in names
    if callable(value := getattr(module, name, None))
)
_METHODS: Final = (
    frozenset(name for name in dir(str) if not name.startswith("_"))
    | {"append", "copy", "difference", "extend", "get", "intersection", "issubset", "items"}
    | {"issuperset", "keys", "real", "union", "values"}
) - {"format", "format_map"}  # of which the text says what attributes are read
_PATH: Final = frozenset(name for name in dir(pathlib.PurePath) if not name.startswith("_"))
# What a method of text is called, and something else does to files.
_OF_FILES: Final = frozenset({"replace"})
_TABLES: Final = frozenset({"DataFrame", "Series", "Index", "MultiIndex"})
_OF_TABLES: Final = frozenset(
    {"at", "columns", "iat", "iloc", "index", "isin", "item", "loc", "to_dict", "to_list"}
    | {"tolist", "unique"}
)

# Instructions of the interpreter that reach for a name (dis, "Python Bytecode Instructions").
_GLOBAL: Final = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})
_ATTRIBUTE: Final = frozenset({"LOAD_ATTR", "LOAD_METHOD"})
_FORBIDDEN: Final = frozenset(
    {"DELETE_ATTR", "DELETE_GLOBAL", "IMPORT_FROM", "IMPORT_NAME", "IMPORT_STAR"}
    | {"LOAD_BUILD_CLASS", "LOAD_FROM_DICT_OR_DEREF", "LOAD_SUPER_ATTR", "STORE_ATTR"}
    | {"STORE_GLOBAL", "STORE_NAME", "DELETE_NAME"}
)


def is_data(value: Any, depth: int = 0) -> bool:
    """Tell whether a value is plain data through and through."""
    kind = type(value)
    if kind in _DATA:
        return True
    if depth > _DEEPEST:
        return False
    if kind in _CONTAINERS:
        return all(is_data(item, depth + 1) for item in value)
    if kind is dict:
        return all(is_data(k, depth + 1) and is_data(v, depth + 1) for k, v in value.items())
    return False


def _is_table(value: Any) -> bool:
    kind = type(value)
    return kind.__module__.partition(".")[0] == "pandas" and kind.__name__ in _TABLES


class _Review:
    """The names that a function reaches for, with all functions that it calls."""

    def __init__(
        self, attributes: Collection[str], functions: Collection[Callable[..., Any]]
    ) -> None:
        self.functions = {*_FUNCTIONS, *_OF_MODULES, *functions}
        self.allowed = set(attributes) | _METHODS
        self.taken_back: set[str] = set()
        self.attributes: set[str] = set()
        # Not their code, which all functions share that one function makes.
        self._reviewed: set[types.FunctionType] = set()

    def passes(self, function: Any) -> bool:
        """Tell whether nothing but what is named harmless is reached for."""
        return self._function(function) and self.attributes <= self.allowed - self.taken_back

    def _function(self, function: Any) -> bool:
        if not isinstance(function, types.FunctionType):
            return False
        if function in self._reviewed:
            return True
        self._reviewed.add(function)
        defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        try:
            cells = [cell.cell_contents for cell in function.__closure__ or ()]
        except ValueError:  # a name that has no value yet
            return False
        names = {**vars(builtins), **function.__globals__}
        return all(map(self._value, (*defaults, *cells))) and all(
            self._code(code, names) for code in codes(function.__code__)
        )

    def _code(self, code: types.CodeType, names: dict[str, Any]) -> bool:
        before = None
        for instruction in dis.get_instructions(code):
            if instruction.opname in _FORBIDDEN:
                return False
            if instruction.opname in _GLOBAL:
                name = instruction.argval
                if name not in names or not self._value(names[name]):
                    return False
            if instruction.opname in _ATTRIBUTE and not _is_plain_format(before, instruction):
                self.attributes.add(instruction.argval)
            before = instruction
        return True

    def _value(self, value: Any) -> bool:
        if is_data(value):
            return True
        if isinstance(value, types.ModuleType) and value in _MODULES:
            self.allowed |= _MODULES[value]
            self.taken_back |= _OF_FILES
            return True
        if value is pathlib.Path or value is pathlib.PurePath:
            self.allowed |= _PATH
            self.taken_back |= _OF_FILES
            return True
        if _is_table(value):
            self.allowed |= _OF_TABLES
            return True
        if callable(value) and isinstance(value, Hashable) and value in self.functions:
            return True
        return self._function(value)


def _is_plain_format(before: dis.Instruction | None, now: dis.Instruction) -> bool:
    """Tell whether it is ``"…{}…".format`` of a text that reads no attribute."""
    if now.argval != "format" or before is None or before.opname != "LOAD_CONST":
        return False
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(before.argval)]
    except (TypeError, ValueError):
        return False
    return not any("." in (field or "") for field in fields)


def codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yield the code of a function and of all that is written inside of it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes(constant)


@functools.lru_cache(maxsize=4096)
def is_settled(
    function: Callable[..., Any],
    attributes: frozenset[str] = frozenset(),
    functions: frozenset[Callable[..., Any]] = frozenset(),
) -> bool:
    """Tell whether what a function returns follows from its arguments and plain data alone.

    Parameters
    ----------
    function
        A function of the workflow.
    attributes
        Names by which it may reach into its arguments (wildcards, named inputs).
    functions
        Functions that it may call, known to be harmless.
    """
    return _Review(attributes, functions).passes(function)


def is_settled_expression(
    text: str, arguments: Collection[str], others: Collection[str], attributes: frozenset[str]
) -> bool:
    """Tell the same of an expression, as --default-resources and --set-resources take.

    Parameters
    ----------
    text
        The expression. What names nothing that has a meaning is a text as such.
    arguments
        What it is given.
    others
        What else has a meaning in it.
    attributes
        Names by which it may reach into what it is given.
    """
    try:
        code = compile(text, "<resource>", "eval")
    except (SyntaxError, ValueError):
        return True
    functions = {function.__name__: function for function in _FUNCTIONS}
    names = {i.argval for c in codes(code) for i in dis.get_instructions(c) if i.opname in _GLOBAL}
    if names and names.isdisjoint({*arguments, *others, *vars(builtins)}):
        return True
    known = {**functions, **dict.fromkeys(arguments)}
    return is_settled(types.FunctionType(code, known), attributes)
