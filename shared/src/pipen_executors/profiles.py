"""Profiles of pipen: ``~/.pipen.toml``, then ``./.pipen.toml``, then the environment.

A profile is a table of settings with a name; the table ``default`` is below each of them.
The files are read by pipen's own library (python-simpleconf), so that values such as
``@int:3`` in ``PIPEN_<profile>_<key>`` mean here what they mean there.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from .exceptions import SettingError, UserError
from .settings import DIRECTORY_AT_IMPORT

FILES: Final = ("~/.pipen.toml", "./.pipen.toml")
ENVIRONMENT: Final = "PIPEN.osenv"
DEFAULT: Final = "default"


@dataclass(frozen=True, slots=True)
class Value:
    """A value of a profile, and where it was found."""

    value: Any
    source: str


@dataclass(frozen=True)
class Profile:
    """One profile, with what the default profile says beneath it.

    Parameters
    ----------
    name
        Its name, in lower case as pipen has it.
    values
        By key, but for ``scheduler_opts``.
    options
        By key of ``scheduler_opts``.
    """

    name: str
    values: dict[str, Value] = field(default_factory=dict)
    options: dict[str, Value] = field(default_factory=dict)

    @property
    def scheduler(self) -> str | None:
        """The scheduler that it names."""
        value = self.values.get("scheduler")
        return None if value is None else str(value.value)

    def lay_on(self, table: Mapping[str, Any], source: str) -> None:
        """Take in a table that is stronger than what is here already."""
        for key, value in table.items():
            if key == "scheduler_opts":
                if not isinstance(value, Mapping):
                    raise SettingError(f"scheduler_opts in {source}", value, "expected a table")
                for name, option in value.items():
                    self.options[name] = Value(_merged(self.options.get(name), option), source)
            else:
                self.values[key] = Value(value, source)


def read_profile(name: str, where: str) -> Profile:
    """Read a profile from the places where pipen looks.

    Parameters
    ----------
    name
        Its name; ``default`` need not exist.
    where
        The setting that named it, for error messages.

    Raises
    ------
    SettingError
        If no place has it.
    UserError
        If a file cannot be read.
    """
    name = name.lower()
    sources = list(_read_sources())
    known = {profile for tables in sources for profile in tables[1]}
    if name not in known and name != DEFAULT:
        shown = ", ".join(sorted(known - {DEFAULT})) or "none"
        raise SettingError(
            where,
            name,
            f"there is no such profile in {' or '.join(FILES)} (there: {shown}), and no "
            "environment variable PIPEN_<profile>_<key> makes one",
        )
    profile = Profile(name)
    for table in dict.fromkeys((DEFAULT, name)):
        for place, tables in sources:
            if table in tables:
                profile.lay_on(tables[table], f"profile {table} of {place}")
    return profile


def _read_sources() -> Iterable[tuple[str, dict[str, dict[str, Any]]]]:
    """Yield for each place its name and its tables, the weakest place first."""
    from simpleconf import ProfileConfig

    for place in (*FILES, ENVIRONMENT):
        config = place
        if place != ENVIRONMENT:  # Snakemake may have changed to another directory since
            config = os.path.join(DIRECTORY_AT_IMPORT, os.path.expanduser(place))
        try:
            with warnings.catch_warnings():
                # Of variables that begin with PIPEN_ and are nobody's profile.
                warnings.simplefilter("ignore")
                loaded = ProfileConfig.load_one(
                    config, ignore_nonexist=True, base="", allow_missing_base=True
                )
        except Exception as error:
            raise UserError(f"{place} cannot be read as tables [profile]: {error}") from error
        pool = ProfileConfig.pool(loaded)
        shown = "the environment (PIPEN_<profile>_<key>)" if place == ENVIRONMENT else place
        yield shown, {profile: _plain(table) for profile, table in pool.items()}


def _plain(value: Any) -> Any:
    """Return a value with plain dictionaries in it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _merged(below: Value | None, above: Any) -> Any:
    """Return a value laid on another; tables are merged, all else is replaced."""
    if below is None or not (isinstance(below.value, dict) and isinstance(above, dict)):
        return above
    merged = dict(below.value)
    for key, value in above.items():
        merged[key] = _merged(Value(merged[key], "") if key in merged else None, value)
    return merged
