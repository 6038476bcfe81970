"""The settings that every backend has.

This module must stay cheap to import, and without ``from __future__ import
annotations``: Snakemake reads the types of the fields.
"""

import difflib
import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, List, Optional

from snakemake_interface_executor_plugins.settings import ExecutorSettingsBase

from .exceptions import SettingError, UserError
from .units import (
    one_of,
    parse_absolute_path,
    parse_options,
    parse_path,
    parse_rate,
    parse_seconds,
    parse_switch,
    parse_text,
    parse_variables,
    whole_number,
)

if TYPE_CHECKING:
    from .profiles import Profile

ENVIRONMENT_AT_IMPORT: Final[Mapping[str, str]] = dict(os.environ)
"""The environment before the Snakefile could change it."""
DIRECTORY_AT_IMPORT: Final = os.getcwd()
"""Where Snakemake was called, before ``--directory`` or ``workdir:`` could change it."""

EXECUTION: Final = ("auto", "direct", "snakemake")
ERROR_STRATEGIES: Final = ("ignore", "retry", "halt")
DEFAULT_SUBMISSION_BATCH: Final = 8


class Default(str):
    """A default, which is told apart from the same text given by the user."""

    def __str__(self) -> str:
        """Return itself: argparse makes a plain string of a default otherwise."""
        return self


@dataclass
class ExecutorSettings(ExecutorSettingsBase):
    """Settings of every pipen executor; a backend adds its own.

    Values are kept as they were given; :meth:`check` reads them.
    """

    execution: str = field(
        default=Default("auto"),
        metadata={
            "help": "How jobs run: 'direct' as the rule's own command, without a second "
            "Snakemake (an error for rules that cannot); 'snakemake' always through a second "
            "Snakemake; 'auto' directly wherever that is right.",
            "metavar": "auto|direct|snakemake",
        },
    )
    forks: Optional[str] = field(
        default=None,
        metadata={"help": "Most jobs submitted and not ended at a time (default: no limit)."},
    )
    error_strategy: str = field(
        default=Default("ignore"),
        metadata={
            "help": "What a failed job does: 'ignore' leaves it to Snakemake, 'retry' submits it "
            "again before Snakemake is told, 'halt' cancels all other jobs and ends the run.",
            "metavar": "ignore|retry|halt",
        },
    )
    num_retries: str = field(
        default=Default("3"),
        metadata={"help": "How often a job is submitted again with error strategy 'retry'."},
    )
    prescript: Optional[str] = field(
        default=None,
        metadata={"help": "Bash to run before each job's command, in the same shell."},
    )
    postscript: Optional[str] = field(
        default=None,
        metadata={"help": "Bash to run after each job's command; $rc is its exit status."},
    )
    timeout: Optional[str] = field(
        default=None,
        metadata={"help": "End a job's command after this time (90, 30m, 2h; 0 for never)."},
    )
    cwd: Optional[str] = field(
        default=None,
        metadata={
            "help": "Working directory of the jobs, where it has another path on the nodes "
            "than here (default: the workflow's)."
        },
    )
    jobname_prefix: Optional[str] = field(
        default=None, metadata={"help": "What the jobs' names begin with in the scheduler."}
    )
    submission_batch: str = field(
        default=Default(str(DEFAULT_SUBMISSION_BATCH)),
        metadata={"help": "How many submissions are under way at a time."},
    )
    submit_rate: Optional[str] = field(
        default=None,
        metadata={"help": "Most submissions in a time, such as 50/1min (default: no limit)."},
    )
    recheck_interval: Optional[str] = field(
        default=None,
        metadata={
            "help": "Longest time between two queries of the scheduler, in tenths of a second as "
            "in pipen. Ends of jobs are heard of by events; this is for jobs that vanish."
        },
    )
    options: List[str] = field(
        default_factory=list,  # Snakemake does not read Optional[List[str]]
        metadata={
            "help": "Options of the scheduler for all jobs (pipen's scheduler_opts), as KEY=VALUE.",
            "nargs": "+",
            "metavar": "KEY=VALUE",
        },
    )
    workdir: Optional[str] = field(
        default=None,
        metadata={
            "help": "Where the job directories lie (default: .snakemake/pipen/<scheduler> in the "
            "working directory of the workflow)."
        },
    )
    history: str = field(
        default=Default("yes"),
        metadata={
            "help": "Whether to keep the history that `pipen-executors status` and `report`, the "
            "live line and the efficiency report are drawn from.",
            "metavar": "yes|no",
        },
    )
    efficiency_report: bool = field(
        default=False,
        metadata={
            "help": "Tell at the end what the jobs of each rule used, against what was asked for."
        },
    )
    plugins: List[str] = field(
        default_factory=list,
        metadata={
            "help": "Python modules with hooks to load.",
            "nargs": "+",
            "metavar": "MODULE",
        },
    )
    profile: Optional[str] = field(
        default=None,
        metadata={
            "help": "Profile of pipen to take settings from that the command line does not give: "
            "a table of ~/.pipen.toml or ./.pipen.toml, or PIPEN_<profile>_<key> variables.",
            "metavar": "NAME",
        },
    )
    show_config: bool = field(
        default=False,
        metadata={"help": "Print all settings and where each comes from before the first job."},
    )

    scheduler_words: ClassVar[frozenset[str]] = frozenset()
    """Names of settings that are options of the scheduler too; ``scheduler_opts`` of a profile
    means the latter."""
    bare_flags: ClassVar[frozenset[str]] = frozenset()
    """Names of settings that, without a value, are flags of the scheduler's command."""

    also_called: ClassVar[Mapping[str, str]] = {}
    """Other names that xqute's constructors have for settings, and the names here."""
    not_needed: ClassVar[frozenset[str]] = frozenset()
    """Words of xqute's constructors that are accepted and change nothing here."""
    option_prefixes: ClassVar[tuple[str, ...]] = ()
    """What xqute's documentation puts before options of the scheduler (``sge_l``)."""
    takes_options: ClassVar[bool] = True
    """Whether the scheduler has options of its own, besides the settings."""
    like_settings: ClassVar[frozenset[str]] = frozenset()
    """Options of the scheduler that are not misspelt settings (``volume``)."""

    def __post_init__(self) -> None:
        """Make ready for what an earlier run has left: only this executor was chosen."""
        from .takeup import install

        install()


@dataclass(frozen=True)
class Checked:
    """The settings of a run, read and checked.

    Times are in seconds. ``query_ceiling`` is None where the scheduler's own is to be
    used. ``envs`` are variables for all jobs, and ``mounted_workdir`` is the path by which jobs
    see ``workdir``: both are only in ``scheduler_opts``. ``settings`` are those of the backend
    with what a profile says filled in, ``sources`` says of each that a profile gave where it
    stands, ``ignored`` are the keys of the profile that only pipen knows, and ``doubts`` are
    sentences about keys and options that nobody knows.
    """

    execution: str
    forks: Optional[int]
    error_strategy: str
    num_retries: int
    prescript: str
    postscript: str
    timeout: float
    cwd: Optional[str]
    jobname_prefix: Optional[str]
    submission_batch: int
    submit_rate: Optional[tuple[int, float]]
    query_ceiling: Optional[float]
    options: Mapping[str, Any]
    envs: Mapping[str, str]
    mounted_workdir: Optional[str]
    workdir: Optional[Path]
    history: bool
    efficiency_report: bool
    plugins: tuple[str, ...]
    show_config: bool
    prefix: str
    settings: Any
    sources: Mapping[str, str]
    ignored: tuple[str, ...]
    doubts: tuple[str, ...]

    def where(self, name: str) -> str:
        """Return what a setting is called in an error message."""
        return _where(name, self.prefix, self.sources)

    def read(self, name: str, reader: Callable[[Any], Any]) -> Any:
        """Read a setting of the backend (see :func:`read`)."""
        return self.read_one(name, getattr(self.settings, name), reader)

    def read_one(self, name: str, value: Any, reader: Callable[[Any], Any]) -> Any:
        """Read one value of a setting that has several."""
        return read(self.where(name), value, reader)

    def path(self, name: str) -> Optional[Path]:
        """Read a setting of the backend that names a file here; None if it is not given.

        A relative path is found where Snakemake finds those of its own options: beside the
        file of the profile that it stands in, else in the directory where Snakemake was
        called. (Snakemake has looked beside its own profiles already.)
        """
        value = getattr(self.settings, name)
        if value is None:
            return None
        return Path(self.read(name, lambda text: parse_path(text, *self._places(name))))

    def command(self, name: str) -> str:
        """Read a setting of the backend that names a command: a path, or found on PATH."""
        value = str(getattr(self.settings, name))
        return value if "/" not in value and "$" not in value else str(self.path(name))

    def _places(self, name: str) -> list[str]:
        file = re.search(r"(\S+\.toml)$", self.sources.get(name, ""))
        if file is None:
            return [DIRECTORY_AT_IMPORT]
        path = os.path.join(DIRECTORY_AT_IMPORT, os.path.expanduser(file[1]))
        return [os.path.dirname(path), DIRECTORY_AT_IMPORT]


def _where(name: str, prefix: str, sources: Mapping[str, str]) -> str:
    if name in sources:
        return f"{name} in {sources[name]}"
    if prefix == "pipen" and name not in {f.name for f in fields(ExecutorSettings)}:
        return f"{name} (--pipen-options {name}=…, or scheduler_opts of a profile)"
    return f"--{prefix}-{name.replace('_', '-')}"


def read(where: str, value: Any, reader: Callable[[Any], Any]) -> Any:
    """Read one value; a ``ValueError`` of the reader says what would be right.

    Raises
    ------
    SettingError
        Naming the setting, the value and what is wrong with it.
    """
    try:
        return reader(value)
    except ValueError as error:
        raise SettingError(where, value, str(error)) from None


READERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "execution": one_of(EXECUTION),
    "forks": whole_number(1),
    "error_strategy": one_of(ERROR_STRATEGIES),
    "num_retries": whole_number(0),
    "prescript": parse_text,
    "postscript": parse_text,
    "timeout": parse_seconds,
    "jobname_prefix": parse_text,
    # As in xqute, nothing and 0 are the default.
    "submission_batch": lambda value: whole_number(0)(value) or DEFAULT_SUBMISSION_BATCH,
    "submit_rate": parse_rate,
    "recheck_interval": whole_number(1),
    "options": parse_options,
    "cwd": lambda value: str(parse_path(value)),
    "history": parse_switch,
    "efficiency_report": parse_switch,
    "show_config": parse_switch,
    "workdir": parse_path,
}


ONLY_OPTIONS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "envs": parse_variables,
    "mounted_workdir": parse_absolute_path,
}
"""Words of xqute's constructors that every scheduler takes, and that are no flags of commands."""

NOT_IN_PROFILES: Final = frozenset({"workdir", "plugins", "options", "profile"})
"""Settings that a profile does not give: in pipen the first two mean something else."""
_NO_KEYS: Final = {
    "options": "in a profile, options of the scheduler are the table scheduler_opts",
    "profile": "a profile cannot name another one; what all have in common is the table [default]",
}
PIPENS_OWN: Final = frozenset(
    {
        *("cache", "desc", "dirsig", "lang", "loglevel", "name", "outdir", "plugin_opts"),
        *("plugins", "template", "template_opts", "workdir"),
    }
)
"""Keys of a profile that only pipen knows (``pipen.defaults.CONFIG`` and ``Pipen``)."""
_CLOSE: Final = 0.8
"""How alike a word and a setting are if the word is a misspelling of it (``difflib``)."""
_VERY_CLOSE: Final = 0.85
"""The same, where the word may be right: a scheduler has many options."""


def is_given(settings: Any, name: str) -> bool:
    """Tell whether the user gave a setting, on the command line or in Snakemake's profile."""
    thefield = next(f for f in fields(settings) if f.name == name)
    value = getattr(settings, name)
    if value is None or value == [] or isinstance(value, Default):
        return False
    return isinstance(thefield.default, Default) or bool(value != thefield.default)


def given(settings: Any) -> dict[str, Any]:
    """Return the settings that the user gave; without bash, which may hold secrets."""
    names = [f.name for f in fields(settings) if f.name not in ("prescript", "postscript")]
    return {name: getattr(settings, name) for name in names if is_given(settings, name)}


def _of_type(thefield: Any, value: Any, where: str) -> Any:
    """Return a value of a profile or of an option as the command line would have given it."""
    if thefield.type is bool:
        return read(where, value, parse_switch)
    if getattr(thefield.type, "__origin__", None) is list:
        if isinstance(value, str):
            return [value]
        # A list is taken word by word; only a text is split as a shell would.
        is_words = thefield.metadata.get("words") and isinstance(value, (list, tuple))
        return [shlex.quote(str(word)) for word in value] if is_words else value
    is_text = thefield.name in _TEXTS
    return str(value) if isinstance(value, (int, float)) and not is_text else value


_TEXTS: Final = frozenset({"prescript", "postscript", "jobname_prefix", "cwd"})
"""Settings that a number is no value of."""


def _is_setting(settings: Any, name: str, value: Any) -> bool:
    """Tell whether a word that names a setting means it, and no option of the scheduler."""
    if value is True and name in settings.bare_flags:
        return False
    return name not in settings.scheduler_words


def is_shared_setting(settings: Any, name: str, value: Any) -> bool:
    """Tell whether an option with a value is a setting that every backend has."""
    name = own_name(settings, name)
    shared = {f.name for f in fields(ExecutorSettings)} - NOT_IN_PROFILES
    return name in shared and _is_setting(settings, name, value)


def words_of(settings: Any) -> set[str]:
    """Return all words that mean something in ``scheduler_opts`` besides the scheduler's own."""
    own = {f.name for f in fields(settings)} - NOT_IN_PROFILES
    return {*own, *settings.also_called, *settings.not_needed, *ONLY_OPTIONS}


def own_name(settings: Any, key: str) -> str:
    """Return the name here of a word in ``scheduler_opts``.

    ``error-strategy`` is ``error_strategy``, and ``sge_l`` is Grid Engine's ``l``.
    """
    words = words_of(settings)
    for prefix in settings.option_prefixes:
        if key not in words:
            key = key.removeprefix(prefix)
    spelled = key.replace("-", "_")
    word = spelled if spelled in words else key
    return str(settings.also_called.get(word, word))


def closest(word: str, words: Iterable[str], least: float = _CLOSE) -> str | None:
    """Return the one of some words that another is a misspelling of, if there is one."""
    found = difflib.get_close_matches(word.replace("-", "_").lower(), list(words), 1, least)
    return found[0] if found else None


def lay_on_profile(settings: Any, profile: "Profile") -> tuple[Any, dict[str, Any], dict[str, str]]:
    """Fill in from a profile what the user has not given otherwise.

    A key of ``scheduler_opts`` that is a setting of the backend is that setting, as
    pipen gives it to the scheduler's constructor; all others are the scheduler's options.

    Returns
    -------
    tuple
        The settings; the scheduler's options; and where each of both was found, by its name.
    """
    known = {f.name: f for f in fields(settings) if f.name not in NOT_IN_PROFILES}
    spelled = {key.replace("-", "_"): value for key, value in profile.values.items()}
    found = {key: value for key, value in spelled.items() if key in known}
    options = {}
    for key, value in _by_own_names(settings, profile.options).items():
        if key in known and _is_setting(settings, key, value.value):
            found[key] = value
        else:
            options[key] = value
    found = {
        key: value
        for key, value in found.items()
        if value.value is not None and not is_given(settings, key)
    }
    sources = {key: value.source for key, value in {**options, **found}.items()}
    values = {
        key: _of_type(known[key], value.value, f"{key} in {value.source}")
        for key, value in found.items()
    }
    plain = {key: value.value for key, value in options.items()}
    return replace(settings, **values), plain, sources


def look_at_keys(settings: Any, profile: "Profile") -> tuple[list[str], list[str]]:
    """Look at what a profile says that is no setting.

    Returns
    -------
    tuple
        The keys that only pipen knows, and a sentence for each that nobody knows.

    Raises
    ------
    SettingError
        For a key that is something else in a profile, or misspelt.
    """
    settable = {f.name for f in fields(settings)} - NOT_IN_PROFILES
    settable |= {"scheduler", "scheduler_opts"}
    ignored, doubts = [], []
    for key, value in profile.values.items():
        where = f"{key} in {value.source}"
        if key in _NO_KEYS:
            raise SettingError(where, value.value, _NO_KEYS[key])
        if key.replace("-", "_") in settable:
            continue
        if key in PIPENS_OWN:
            ignored.append(key)
        elif (meant := closest(key, settable)) is not None:
            raise SettingError(where, value.value, f"there is no such setting; use {meant}")
        else:
            doubts.append(
                f"{where} is no setting here and no key of pipen, and is passed over; options of "
                "the scheduler belong into scheduler_opts."
            )
    return ignored, doubts


def look_at_options(
    settings: Any, options: Mapping[str, Any], where: Callable[[str], str]
) -> list[str]:
    """Look for options that seem to be misspelt settings; return a sentence for each.

    Raises
    ------
    SettingError
        For an option of a scheduler that has none.
    """
    doubts = []
    words = words_of(settings)
    for name, value in options.items():
        if name in words:
            continue
        if not settings.takes_options:
            meant = closest(name, words)
            hint = f"; use {meant}" if meant else ""
            raise SettingError(where(name), value, f"the scheduler has no such option{hint}")
        meant = closest(name, words, _VERY_CLOSE)
        if meant is not None and name not in settings.like_settings:
            doubts.append(
                f"{where(name)} is {value!r} and goes to the scheduler as an option; for the "
                f"setting use {meant}."
            )
    return doubts


def _by_own_names(
    settings: Any, options: Mapping[str, Any], where: str = "scheduler_opts"
) -> dict[str, Any]:
    """Return options with the names here for those of xqute's constructors.

    Raises
    ------
    UserError
        If one is given by two names, as in xqute.
    """
    found: dict[str, Any] = {}
    for key, value in options.items():
        name = own_name(settings, key)
        if name in settings.not_needed:
            continue
        if name in found:
            names = [other for other in options if own_name(settings, other) == name]
            raise UserError(f"{where}: {' and '.join(names)} are two names of one option.")
        found[name] = value
    return found


def take_options(settings: Any, where: str) -> tuple[Any, dict[str, str]]:
    """Take options of the command line that are settings for what they are.

    The same rule as for ``scheduler_opts`` of a profile. Where a setting is given by its own
    flag too, that one counts.

    Returns
    -------
    tuple
        The settings, and where each of those was found.
    """
    options = _by_own_names(settings, read(where, settings.options, parse_options), where)
    known = {f.name: f for f in fields(settings) if f.name not in NOT_IN_PROFILES}
    found = {
        key: options.pop(key)
        for key in known.keys() & options.keys()
        if _is_setting(settings, key, options[key])
    }
    values = {
        key: _of_type(known[key], value, f"{key} in {where}")
        for key, value in found.items()
        if not is_given(settings, key)
    }
    return replace(settings, **values, options=options), dict.fromkeys(values, where)


def with_defaults(settings: Any) -> Any:
    """Return settings with the default of each that is None or empty.

    So they come from Snakemake's Python interface, and from a profile with ``key: ""``.
    """
    values = {}
    for thefield in fields(settings):
        if getattr(settings, thefield.name) in (None, "", []):
            made = thefield.default_factory
            values[thefield.name] = thefield.default if made is MISSING else made()
    return replace(settings, **values)


def check(settings: ExecutorSettings, prefix: str, profile: "Optional[Profile]" = None) -> Checked:
    """Read and check the shared settings.

    Parameters
    ----------
    settings
        As Snakemake parsed them.
    prefix
        Name of the executor, for error messages (``pipen-local``).
    profile
        Gives what the settings leave open.

    Raises
    ------
    SettingError
        For the first value that cannot be right.
    """
    settings, sources = take_options(with_defaults(settings), _where("options", prefix, {}))
    options: dict[str, Any] = {}
    ignored: list[str] = []
    doubts: list[str] = []
    if profile is not None:
        ignored, doubts = look_at_keys(settings, profile)
        settings, options, found = lay_on_profile(settings, profile)
        sources = {**found, **sources}
    values: dict[str, Any] = {}
    for thefield in fields(ExecutorSettings):
        value = getattr(settings, thefield.name)
        if value is not None and thefield.name in READERS:
            where = _where(thefield.name, prefix, sources)
            value = read(where, value, READERS[thefield.name])
        values[thefield.name] = value
    del values["profile"]
    recheck = values.pop("recheck_interval")
    values["query_ceiling"] = None if recheck is None else recheck / 10
    for name, default in (("prescript", ""), ("postscript", ""), ("timeout", 0.0)):
        values[name] = values[name] if values[name] is not None else default
    own = values["options"] or {}
    values["options"] = {**options, **own}
    for name, reader in ONLY_OPTIONS.items():
        where = f"{name} in {sources.get(name, _where('options', prefix, {}))}"
        value = values["options"].pop(name, None)
        values[name] = read(where, value, reader)
    sources = {name: source for name, source in sources.items() if name not in own}
    said = _where("options", prefix, {})
    doubts += look_at_options(
        settings, values["options"], lambda name: f"{name} in {sources.get(name, said)}"
    )
    values["plugins"] = tuple(values["plugins"] or ())
    return Checked(
        **values,
        prefix=prefix,
        settings=settings,
        sources=sources,
        ignored=tuple(ignored),
        doubts=tuple(doubts),
    )


def table_of(checked: Checked) -> list[tuple[str, str, str]]:
    """Return name, value and origin of each effective setting."""
    given = "command line or Snakemake's profile"
    rows = []
    for name in (f.name for f in fields(checked.settings)):
        if name in ("options", "profile", "show_config"):
            continue
        value = getattr(checked.settings, name)
        origin = given if is_given(checked.settings, name) else "default"
        rows.append((name, _shown(value), checked.sources.get(name, origin)))
    for name, value in checked.options.items():
        rows.append((f"options: {name}", _shown(value), checked.sources.get(name, given)))
    return rows


def _shown(value: Any) -> str:
    return "" if value is None or value == [] else str(value)
