"""The machines, as the user names them: on the command line, or as a table of a profile."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pipen_executors.units import parse_megabytes, whole_number

_FORM: Final = "[USER@]HOST[:PORT][,KEY=VALUE...]"
_NAME: Final = re.compile(r"[\w.@%:\[\]-]+", re.ASCII)
_ADDRESS: Final = re.compile(
    r"(?:(?P<user>[^@]+)@)?(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^:\[\]]+))(?::(?P<port>\d+))?"
)


@dataclass(frozen=True, slots=True)
class Server:
    """One machine; what is None comes from ``~/.ssh/config`` or from the machine itself.

    Parameters
    ----------
    name
        What the user calls it; the second half of the ids of its jobs.
    host, port, user, keyfile
        How to log in.
    slots
        Threads of jobs at a time; by default its cores.
    mem_mb
        Memory of jobs at a time, in MiB; by default its memory.
    workdir
        Where files are kept on it, where it shares none with this machine.
    tmpdir
        TMPDIR of its jobs.
    groups
        Names that stand for it and others.
    """

    name: str
    host: str
    port: int | None = None
    user: str | None = None
    keyfile: str | None = None
    slots: int | None = None
    mem_mb: int | None = None
    workdir: str | None = None
    tmpdir: str | None = None
    groups: tuple[str, ...] = ()

    def is_called(self, name: str) -> bool:
        """Tell whether a name stands for this machine."""
        return name in (self.name, self.host, *self.groups)


def _text(value: Any) -> str:
    if not isinstance(value, str | int | os.PathLike):
        raise ValueError("expected text")
    return str(value)


def _groups(value: Any) -> tuple[str, ...]:
    names = value.split() if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError("expected names with spaces between, or a list of names")
    return tuple(names)


def _path(value: Any) -> str:
    if not str(value).startswith(("/", "~/")):
        raise ValueError("expected a path that begins with / or ~/")
    return str(value)


_READERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "host": _text,
    "port": whole_number(1),
    "user": _text,
    "keyfile": _text,
    "slots": whole_number(1),
    "mem_mb": parse_megabytes,
    "workdir": _path,
    "tmpdir": _path,
    "groups": _groups,
}
_OF_PIPEN: Final = frozenset({"ctrl_persist", "ctrl_dir"})
"""Options of pipen's own ssh scheduler about connections, which have no meaning here."""


def parse_servers(value: Any) -> list[Server]:
    """Read servers: words of the command line, or a list or table of a profile.

    >>> [(s.name, s.host, s.port, s.slots) for s in parse_servers(["big1", "me@big2:2222,slots=4"])]
    [('big1', 'big1', None, None), ('me@big2:2222', 'big2', 2222, 4)]

    Raises
    ------
    ValueError
        With a sentence that says what is wrong.
    """
    if isinstance(value, Mapping):
        servers = [_from_entry(str(name), table) for name, table in value.items()]
    else:
        items = shlex.split(value) if isinstance(value, str) else value
        if not isinstance(items, Iterable):
            raise ValueError(f"{value!r} names no servers; expected one or more of {_FORM}")
        servers = [_from_item(item) for item in items]
    names = [server.name for server in servers]
    if not names:
        raise ValueError(f"expected one or more of {_FORM}")
    if again := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"{', '.join(sorted(again))} is listed twice")
    return servers


def _given(table: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return a table without what has no value, as in YAML behind a colon."""
    return {key: value for key, value in table.items() if value is not None}


def _from_entry(name: str, table: Any) -> Server:
    if not isinstance(table, Mapping):
        raise ValueError(f"{name} is {table!r}: expected a table such as {{ slots = 16 }}")
    return _from_table(name, {"host": name, **_given(table)})


def _from_item(item: Any) -> Server:
    if isinstance(item, Mapping):
        table = _given(item)
        name = str(table.pop("name", table.get("host", "")))
        return _from_table(name, table)
    if not isinstance(item, str):
        raise ValueError(f"{item!r} is no server; expected {_FORM}, or a table with host")
    name, *pairs = item.split(",")
    table = {"host": name}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise ValueError(f"{pair!r} in {item!r} has no '='; expected {_FORM}")
        table[key.strip()] = text
    return _from_table(name, table)


def _from_table(name: str, table: Mapping[str, Any]) -> Server:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no host; expected {_FORM}")
    values = {}
    for key, value in table.items():
        if key in _OF_PIPEN:
            continue
        if key not in _READERS:
            raise ValueError(f"{name} has an unknown key {key!r}; there are {', '.join(_READERS)}")
        try:
            values[key] = _READERS[key](value)
        except ValueError as error:
            raise ValueError(f"{key} of {name} is {value!r}: {error}") from None
    match = _ADDRESS.fullmatch(values.get("host", ""))
    if match is None:
        raise ValueError(f"{values.get('host', name)!r} is no host; expected {_FORM}")
    values["host"] = match["v6"] or match["host"]
    if match["user"]:
        values.setdefault("user", match["user"])
    if match["port"]:
        values.setdefault("port", int(match["port"]))
    return Server(name=name, **values)


def chosen(servers: Sequence[Server], wanted: str) -> list[Server]:
    """Return the servers that a rule is pinned to: names or groups, with commas between.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    found = []
    for name in (word.strip() for word in wanted.split(",")):
        named = [server for server in servers if server.is_called(name)]
        if not named:
            known = sorted({n for s in servers for n in (s.name, *s.groups)})
            raise ValueError(f"{name!r} is no server and no group; there are {', '.join(known)}")
        found += named
    return found
