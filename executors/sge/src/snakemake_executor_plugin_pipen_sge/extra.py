"""Reading of requests and options that are written as on qsub's command line."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any, Final

Options = dict[str, Any]

_FLAG: Final = re.compile(r"-([A-Za-z]\w*)")

_OPTIONS: Final[Mapping[str, str]] = {
    "error": "e",
    "join": "j",
    "mail_options": "m",
    "email": "M",
    "name": "N",
    "output": "o",
    "project": "P",
    "priority": "p",
    "parallel_environment": "pe",
    "queue": "q",
    "reservation": "R",
    "rerun": "r",
    "shell": "S",
    "variable": "v",
    "export_env": "V",
    "workdir": "wd",
}
_RESOURCES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("runtime", "time", "walltime"), "h_rt"),
    **dict.fromkeys(("mem_mb", "mem", "memory", "virtual_memory"), "h_vmem"),
    "cpu": "h_cpu",
    "scratch_size": "tscratch",
    "disk_mb": "h_fsize",
}
"""Long names that snakemake-executor-plugin-sge knows in ``sge_extra`` (``queue=x``)."""


def requests_of(value: Any) -> Options:
    """Read resource requests: a table, or text (or a list of it) like ``a=1,b``."""
    if isinstance(value, Mapping):
        return {str(name): item for name, item in value.items()}
    requests: Options = {}
    for text in value if isinstance(value, (list, tuple)) else [value or ""]:
        for word in filter(None, (word.strip() for word in str(text).split(","))):
            name, equals, item = word.partition("=")
            requests[name] = item if equals else True
    return requests


def options_of(text: str) -> Options:
    """Read ``sge_extra``: options as on qsub's command line, or ``name=value``.

    What stands between ``-soft`` and ``-hard`` is kept as one text.

    Raises
    ------
    ValueError
        If it cannot be read.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"expected options, quoted as for a shell ({error})") from None
    options: Options = {}
    name = ""
    for word in words:
        flag = _FLAG.fullmatch(word)
        if flag and flag[1] == "hard":
            name = ""
        elif flag and name != "soft":
            name = flag[1]
            options.setdefault(name, [] if name == "l" else True)
        elif name:
            _add(options, name, word)
        elif not _add_long(options, word):
            raise ValueError(f"{word!r} is no option of qsub; each begins with a dash")
    return options


def _add(options: Options, name: str, word: str) -> None:
    if name == "l":
        options["l"].append(word)
    else:
        text = shlex.quote(word)
        options[name] = text if options[name] is True else f"{options[name]} {text}"


def _add_long(options: Options, word: str) -> bool:
    name, equals, value = word.partition("=")
    if equals and name in _RESOURCES:
        options.setdefault("l", []).append(f"{_RESOURCES[name]}={value}")
    elif equals and (name in _OPTIONS or name in _OPTIONS.values()):
        options[_OPTIONS.get(name, name)] = shlex.quote(value)
    elif word in ("export_env", "V", "notify"):
        options[_OPTIONS.get(word, word)] = True
    else:
        return False
    return True
