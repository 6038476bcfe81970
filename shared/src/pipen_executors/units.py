"""Reading of switches, times, sizes, rates, paths and options as people write them.

Each reader raises ``ValueError`` with a sentence, without its full stop, that says what is
wrong or what was expected (see :class:`~pipen_executors.exceptions.SettingError`).
"""

import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import humanfriendly

TRUE = frozenset({"yes", "true", "on", "1", "y"})
FALSE = frozenset({"no", "false", "off", "0", "n"})
"""What YAML, TOML and people write for a switch, in any case."""

_DAYS = re.compile(r"(?:(\d+)-)?(\d+):(\d+)(?::(\d+))?")


def parse_switch(value: Any) -> bool:
    """Read a switch; the one reader of all settings, options and resources that are one.

    >>> [parse_switch(value) for value in (True, "Yes", "on", 1, "off", "NO", 0)]
    [True, True, True, True, False, False, False]
    """
    word = str(value).strip().lower()
    if word not in TRUE | FALSE:
        raise ValueError("expected yes or no (or true, false, on, off, 1, 0)")
    return word in TRUE


def one_of(choices: Sequence[str]) -> Callable[[Any], str]:
    """Return a reader of one of a few words, in any case."""
    known = {choice.lower(): choice for choice in choices}

    def check(value: Any) -> str:
        word = str(value).strip().lower()
        if word not in known:
            raise ValueError(f"expected one of {', '.join(choices)}")
        return known[word]

    return check


def whole_number(least: int) -> Callable[[Any], int]:
    """Return a reader of a whole number that is not below ``least``."""

    def check(value: Any) -> int:
        text = str(value).strip()
        match = re.fullmatch(r"([+-]?\d+)(?:\.0*)?", text, re.ASCII)
        if match is None or int(match[1]) < least:
            raise ValueError(f"expected a whole number, {least} or more")
        return int(match[1])

    return check


def parse_text(value: Any) -> str:
    """Read what has to be a text, such as bash."""
    if not isinstance(value, str):
        raise ValueError("expected a text")
    return value


def parse_path(value: Any, *places: str | os.PathLike[str]) -> Path:
    """Read a path on this machine, with ``~`` and ``$VARIABLE`` in it.

    Parameters
    ----------
    value
        The path.
    places
        Directories in which a relative path is looked for, the most likely one first; where
        none has it, it is one in the last. Without any, it stays relative.

    Raises
    ------
    ValueError
        Naming the variable, if one is not set, or the user, if there is none of that name.
    """
    if not isinstance(value, (str, os.PathLike)):
        raise ValueError("expected a text")
    text = os.path.expanduser(os.path.expandvars(str(value)))
    unset = re.search(r"\$(?:(\w+)|\{([^}]*)\})", text, re.ASCII)
    if unset and not os.path.lexists(text):
        raise ValueError(f"the environment variable {unset[1] or unset[2]} is not set")
    if text.startswith("~") and not os.path.lexists(text):
        user = text.partition("/")[0].removeprefix("~")
        raise ValueError(f"there is no user {user!r}" if user else "HOME is not set")
    found = [Path(place, text) for place in places]
    existing = [path for path in found if path.exists()]
    return [*existing, *reversed(found), Path(text)][0]


def parse_seconds(value: str | int | float) -> float:
    """Read a time: seconds, a number with a unit, or Slurm's ``[days-]hours:minutes[:seconds]``.

    As in sbatch(1), ``--time``: two numbers are minutes and seconds, unless days stand
    before them, which makes them hours and minutes.

    >>> parse_seconds("2h"), parse_seconds("1-00:00:00"), parse_seconds(90)
    (7200.0, 86400.0, 90.0)
    """
    text = str(value).strip()
    if match := _DAYS.fullmatch(text):
        days, first, second, third = match.groups()
        if third is not None:
            seconds = int(first) * 3600 + int(second) * 60 + int(third)
        elif days is not None:
            seconds = int(first) * 3600 + int(second) * 60
        else:
            seconds = int(first) * 60 + int(second)
        return float(int(days or 0) * 86400 + seconds)
    try:
        seconds_read = float(humanfriendly.parse_timespan(text))
    except humanfriendly.InvalidTimespan:
        seconds_read = -1.0
    if not 0 <= seconds_read < 1e9:
        raise ValueError("expected a time such as 90, 30m, 2h or 1-00:00:00")
    return seconds_read


def parse_minutes(value: str | int | float) -> int:
    """Read a time limit in minutes, as Snakemake counts them; 0 is no limit.

    The words are those of sbatch(1), ``--time``.
    """
    text = str(value).strip().lower()
    if text in ("unlimited", "infinite", "-1"):
        return 0
    try:
        minutes = float(text)
    except ValueError:
        minutes = parse_seconds(text) / 60 if text else -1.0
    if not 0 <= minutes < 1e8:
        raise ValueError("expected minutes, or 0 for no limit")
    return max(1, round(minutes)) if minutes else 0


def parse_gpus(value: str | int) -> int:
    """Read a number of GPUs, also from a text with their types, as sbatch(1) has it (``--gpus``).

    >>> parse_gpus(2), parse_gpus("a100:2"), parse_gpus("a100:2,v100:1")
    (2, 2, 3)
    """
    total = 0
    for item in str(value).split(","):
        kind, _, number = item.strip().rpartition(":")
        match = re.fullmatch(r"(\d+)(?:\.0*)?", number, re.ASCII)
        if match is None or (":" in item and not kind):
            raise ValueError("expected a number of GPUs such as 2 or a100:2")
        total += int(match[1])
    return total


def parse_megabytes(value: str | int | float) -> int:
    """Read an amount of memory: megabytes, or a number with a unit.

    Rounded up to whole megabytes; K, M, G and T are powers of 1024, as in sbatch(1).

    >>> parse_megabytes("4G"), parse_megabytes(4096), parse_megabytes("500K")
    (4096, 4096, 1)
    """
    text = str(value).strip()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return -int(-float(text) // 1)
    try:
        size = humanfriendly.parse_size(text, binary=True)
    except humanfriendly.InvalidSize:
        raise ValueError("expected an amount of memory such as 4096 (megabytes) or 4G") from None
    return int(-(-size // (1024 * 1024)))


def parse_rate(value: str) -> tuple[int, float]:
    """Read a rate such as ``50/1min``: how many, and in how many seconds.

    >>> parse_rate("50/1min"), parse_rate("10/s")
    ((50, 60.0), (10, 1.0))
    """
    count, _, span = str(value).partition("/")
    span = span.strip()
    try:
        number = int(count)
        seconds = parse_seconds(span if span[:1].isdigit() else f"1{span}") if span else 0.0
    except ValueError:
        number, seconds = 0, 0.0
    if number < 1 or seconds <= 0:
        raise ValueError("expected a number and a time such as 50/1min")
    return number, seconds


def parse_words(value: str | Sequence[str]) -> list[str]:
    """Read the words of a command, at least one: a list, or text as for a shell.

    >>> parse_words("/bin/bash -l")
    ['/bin/bash', '-l']
    """
    if not isinstance(value, (str, list, tuple)):
        raise ValueError("expected words: a text or a list")
    try:
        words = shlex.split(value) if isinstance(value, str) else [str(word) for word in value]
    except ValueError as error:
        raise ValueError(f"expected words, quoted as for a shell ({error})") from None
    if not words:
        raise ValueError("expected at least one word")
    return words


def parse_options(value: str | Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Read options of a scheduler: ``KEY=VALUE``, or a table.

    ``true`` and ``false`` become booleans (a bare flag, and nothing at all), a key that
    is given again or has a list becomes a list. A string is split as a shell would.

    >>> parse_options("partition=short exclusive=true l=[a=1, b=2]")
    {'partition': 'short', 'exclusive': True, 'l': ['a=1', 'b=2']}
    """
    if isinstance(value, Mapping):
        return dict(value)
    words: Iterable[str] = value
    if isinstance(value, str):
        # Keep a bracketed list together where it has spaces behind its commas.
        joined = re.sub(r"\[[^]]*\]", lambda m: m[0].replace(", ", ","), value)
        try:
            words = shlex.split(joined)
        except ValueError as error:
            raise ValueError(f"expected KEY=VALUE, quoted as for a shell ({error})") from None
    elif not isinstance(value, (list, tuple)) or not all(isinstance(w, str) for w in value):
        raise ValueError("expected KEY=VALUE, as a text, a list of texts or a table")
    options: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        key = key.strip().lstrip("-")
        if not re.fullmatch(r"[A-Za-z][\w-]*", key):
            raise ValueError(f"expected KEY=VALUE, and {word!r} has no usable key")
        option: Any = True
        if equals:
            option = {"true": True, "false": False}.get(text.strip().lower(), text)
        if isinstance(option, str) and option.startswith("[") and option.endswith("]"):
            option = [item.strip() for item in option[1:-1].split(",") if item.strip()]
        if key in options:
            earlier = options[key] if isinstance(options[key], list) else [options[key]]
            option = [*earlier, *(option if isinstance(option, list) else [option])]
        options[key] = option
    return options


def parse_variables(value: Any) -> dict[str, str]:
    """Read environment variables: a table of names and values; nothing is none.

    >>> parse_variables({"GREETING": "hello", "N": 3})
    {'GREETING': 'hello', 'N': '3'}
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError('expected a table of variables, such as { NAME = "value" }')
    for name, text in value.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", str(name)):
            raise ValueError(f"{name!r} is no name of an environment variable")
        if not isinstance(text, (str, int, float)):
            raise ValueError(f"the value of {name} is {text!r}; expected a text or a number")
    return {str(name): str(text) for name, text in value.items()}


def parse_absolute_path(value: Any) -> str | None:
    """Read a path on the nodes; nothing is None.

    >>> parse_absolute_path("/data/jobs")
    '/data/jobs'
    """
    if value in (None, ""):
        return None
    if not isinstance(value, str) or not value.startswith("/"):
        raise ValueError("expected an absolute path, as the jobs see it")
    return value.rstrip("/") or "/"
