"""The commands that look at the place: doctor and profile."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any, Final

import typer
import yaml
from rich.text import Text

from ..doctor import Entry, Finding, Level, Place, entries, examine, installed, place_of
from ..exceptions import SettingError, UserError
from ..settings import read
from ..standalone import BACKENDS, plugin_of
from ..units import parse_seconds
from .common import NOT_WELL, AsJson, Directory, console, print_json

_STYLES: Final = {Level.OK: "green", Level.WARNING: "yellow", Level.FAILURE: "bold red"}

Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE",
        help="A setting of the executor, such as sbatch=/opt/slurm/bin/sbatch or "
        "options=partition=debug (may be repeated).",
    ),
]  # fmt: skip


def _given(backend: str, settings: Sequence[str]) -> dict[str, Any]:
    """Read NAME=VALUE as the command line of Snakemake reads --pipen-<backend>-NAME VALUE."""
    known = {f.name: f for f in fields(plugin_of(backend).ExecutorSettings)}
    given: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        name = name.removeprefix(f"pipen-{backend}-").replace("-", "_")
        if not equals or name not in known:
            names = ", ".join(sorted(known))
            raise SettingError("--set", setting, f"expected NAME=VALUE with one of {names}")
        if getattr(known[name].type, "__origin__", None) is list:
            given[name] = given.get(name, []) + shlex.split(value)
        else:
            given[name] = value
    return given


def _named(backend: str) -> str:
    name = backend.removeprefix("pipen-")
    if name not in BACKENDS:
        raise UserError(f"BACKEND is {backend!r}: expected one of {', '.join(BACKENDS)}.")
    return name


def doctor(
    backend: Annotated[
        str | None, typer.Argument(metavar="[BACKEND]", help="Such as slurm; all, if not given.")
    ] = None,
    directory: Directory = Path(),
    settings: Settings = None,
    probe: Annotated[
        bool, typer.Option("--probe/--no-probe", help="Run a job of a second through it, or not.")
    ] = True,
    patience: Annotated[
        str, typer.Option("--patience", metavar="TIME", help="How long that job may take.")
    ] = "2m",
    as_json: AsJson = False,
) -> None:
    """Check a place before a first run: commands, limits, accounting, clocks, shared files.

    Exit status: 1 if a check failed.
    """
    names = [_named(backend)] if backend else installed()
    seconds = read("--patience", patience, parse_seconds) if probe else 0
    found: dict[str, list[Finding]] = {}
    for name in names:
        place = place_of(name, directory, _given(name, settings or ()))
        found[name] = asyncio.run(_examine(place, seconds, tell=not as_json))
    if as_json:
        print_json({name: [asdict(finding) for finding in them] for name, them in found.items()})
    if any(finding.level is Level.FAILURE for them in found.values() for finding in them):
        raise typer.Exit(NOT_WELL)


async def _examine(place: Place, patience: float, *, tell: bool) -> list[Finding]:
    terminal = console()
    if tell:
        terminal.print(Text(f"pipen-{place.backend}", style="bold"))
    found = []
    async for finding in examine(place, patience):
        found.append(finding)
        if tell:
            level = Text(f"{finding.level.value:8}", style=_STYLES[finding.level])
            terminal.print(level + Text(finding.text), soft_wrap=True)
            if finding.advice:
                terminal.print(Text(f"         -> {finding.advice}"), soft_wrap=True)
    return found


def profile(
    backend: Annotated[str, typer.Argument(metavar="BACKEND", help="Such as slurm.")],
    directory: Directory = Path(),
    settings: Settings = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Write DIR/config.yaml."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a Snakemake profile from what the place offers, with comments."""
    name = _named(backend)
    given = _given(name, settings or ())
    found = asyncio.run(entries(place_of(name, directory, given)))
    if as_json:
        print_json([asdict(entry) for entry in found])
        return
    text = as_profile(found, {f"pipen-{name}-{k.replace('_', '-')}": v for k, v in given.items()})
    if output is None:
        print(text, end="")
        return
    path = output / "config.yaml"
    if path.exists():
        raise UserError(f"{path} exists already: give another directory to --output.")
    output.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    console().print(f"{path}: snakemake --profile {output}", soft_wrap=True)


def as_profile(found: Sequence[Entry], given: dict[str, Any]) -> str:
    """Return the text of a Snakemake profile; what is not certain is commented out."""
    lines = ["# Made by pipen-executors profile; see `snakemake --help` for all that can be said."]
    plain = [entry for entry in found if "/" not in entry.key]
    nested = [entry for entry in found if "/" in entry.key]
    said = {entry.key for entry in plain if entry.certain}
    plain += [Entry(key, value, "as given") for key, value in given.items() if key not in said]
    for entry in plain:
        lines.append(_line(entry.key, entry))
    if nested:
        parent = nested[0].key.partition("/")[0]
        is_empty = not any(entry.certain for entry in nested)
        lines.append(f"{'# ' if is_empty else ''}{parent}:")
        lines += [_line(f"  {entry.key.partition('/')[2]}", entry) for entry in nested]
    return "\n".join(lines) + "\n"


def _line(key: str, entry: Entry) -> str:
    value = yaml.safe_dump(entry.value, default_flow_style=True, width=10_000)
    value = value.removesuffix("...\n").strip()
    comment = f"  # {entry.comment}" if entry.comment else ""
    return f"{'' if entry.certain else '# '}{key}: {value}{comment}"
