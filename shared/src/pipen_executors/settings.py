"""The settings that every backend has.

This module must stay cheap to import, and without ``from __future__ import
annotations``: Snakemake reads the types of the fields.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, List, Optional

from snakemake_interface_executor_plugins.settings import ExecutorSettingsBase

from .exceptions import SettingError
from .units import parse_options, parse_rate, parse_seconds

ENVIRONMENT_AT_IMPORT: Final[Mapping[str, str]] = dict(os.environ)
"""The environment before the Snakefile could change it."""

EXECUTION: Final = ("auto", "direct", "snakemake")
ERROR_STRATEGIES: Final = ("ignore", "retry", "halt")


def one_of(choices: tuple[str, ...]) -> Callable[[str], str]:
    """Return a check that a value is one of a few words."""

    def check(value: str) -> str:
        if value not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return value

    return check


def whole_number(least: int) -> Callable[[Any], int]:
    """Return a check that a value is a whole number, not below ``least``."""

    def check(value: Any) -> int:
        try:
            number = int(str(value))
        except ValueError:
            number = least - 1
        if number < least:
            raise ValueError(f"a whole number, {least} or more")
        return number

    return check


@dataclass
class ExecutorSettings(ExecutorSettingsBase):
    """Settings of every pipen executor; a backend adds its own.

    Values are kept as they were given; :meth:`check` reads them.
    """

    execution: str = field(
        default="auto",
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
        default="ignore",
        metadata={
            "help": "What a failed job does: 'ignore' leaves it to Snakemake, 'retry' submits it "
            "again before Snakemake is told, 'halt' cancels all other jobs and ends the run.",
            "metavar": "ignore|retry|halt",
        },
    )
    num_retries: str = field(
        default="3",
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
        default="8",
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

    def __post_init__(self) -> None:
        """Make ready for what an earlier run has left: only this executor was chosen."""
        from .takeup import install

        install()


@dataclass(frozen=True)
class Checked:
    """The settings of a run, read and checked.

    Times are in seconds. ``query_ceiling`` is None where the scheduler's own is to be
    used.
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
    workdir: Optional[Path]
    efficiency_report: bool
    plugins: tuple[str, ...]


def read(where: str, value: Any, reader: Callable[[Any], Any]) -> Any:
    """Read one value; a ``ValueError`` of the reader says what would be right.

    Raises
    ------
    SettingError
        Naming the setting, the value and what it must be.
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
    "timeout": parse_seconds,
    "submission_batch": whole_number(1),
    "submit_rate": parse_rate,
    "recheck_interval": whole_number(1),
    "options": parse_options,
    "workdir": lambda value: Path(os.path.expandvars(value)).expanduser(),
}


def check(settings: ExecutorSettings, prefix: str) -> Checked:
    """Read and check the shared settings.

    Parameters
    ----------
    settings
        As Snakemake parsed them.
    prefix
        Name of the executor, for error messages (``pipen-local``).

    Raises
    ------
    SettingError
        For the first value that cannot be right.
    """
    values: dict[str, Any] = {}
    for thefield in fields(ExecutorSettings):
        value = getattr(settings, thefield.name)
        if value is not None and thefield.name in READERS:
            flag = f"--{prefix}-{thefield.name.replace('_', '-')}"
            value = read(flag, value, READERS[thefield.name])
        values[thefield.name] = value
    recheck = values.pop("recheck_interval")
    values["query_ceiling"] = None if recheck is None else recheck / 10
    for name, default in (("prescript", ""), ("postscript", ""), ("timeout", 0.0)):
        values[name] = values[name] if values[name] is not None else default
    values["options"] = values["options"] or {}
    values["plugins"] = tuple(values["plugins"] or ())
    return Checked(**values)
