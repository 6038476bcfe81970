"""Tables of results: on the terminal, as Markdown, as JSON."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from .runs import Run, median, walls


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes
    ----------
    key
        Its name in the JSON file.
    title, columns, rows
        What it shows.
    notes
        Sentences below it: how it was measured.
    data
        The single values behind it.
    """

    key: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    data: Mapping[str, Any] = field(default_factory=dict)


def compare(
    key: str,
    title: str,
    results: Mapping[str, Sequence[Run]],
    notes: Sequence[str] = (),
    *,
    commands: bool = False,
) -> Table:
    """Return the table of a comparison; ratios are to the first candidate."""
    first = median(walls(next(iter(results.values()))))
    columns = ["", "median", "lowest", "highest", "ratio", "CPU", "runs"]
    columns += ["scheduler commands"] if commands else []
    rows = []
    for name, runs in results.items():
        good = walls(runs)
        if good:
            middle = median(good)
            row = [name, f"{middle:.2f} s", f"{min(good):.2f} s", f"{max(good):.2f} s"]
            row += [f"{middle / first:.2f}", f"{median([r.cpu for r in runs]):.1f} s"]
        else:
            row = [name, *["–"] * 5]
        row.append(f"{len(good)}" if len(good) == len(runs) else f"{len(good)} of {len(runs)}")
        if commands:
            row.append(f"{median([run.commands for run in runs]):g}")
        rows.append(row)
    everything = [run for runs in results.values() for run in runs]
    loads = [run.load for run in everything]
    others = [run.others for run in everything]
    conditions = (
        f"Load when a run began: {min(loads):.1f} to {max(loads):.1f}; other processes used "
        f"{100 * median(others):.0f} % of the machine (median; highest {100 * max(others):.0f} %)."
    )
    problems = dict.fromkeys(
        f"{name}: {run.problem}" for name, runs in results.items() for run in runs if run.problem
    )
    data = {name: [asdict(run) for run in runs] for name, runs in results.items()}
    return Table(key, title, columns, rows, (*notes, conditions, *problems), data)


def machine() -> dict[str, str]:
    """Describe the machine and the day."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def show(tables: Sequence[Table]) -> None:
    """Print tables."""
    console = Console()
    for table in tables:
        shown = RichTable(title=table.title, title_justify="left", caption_justify="left")
        for number, column in enumerate(table.columns):
            shown.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown)
        for note in table.notes:
            console.print(f"  {note}", markup=False, highlight=False)
        console.print()


def as_json(tables: Sequence[Table]) -> list[dict[str, Any]]:
    """Return tables as what JSON holds."""
    return [asdict(table) for table in tables]


def from_json(tables: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Return the tables that :func:`as_json` was given."""
    return [Table(**table) for table in tables]


def markdown(table: Table) -> str:
    """Return a table in Markdown."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = "|---|" + "--:|" * (len(table.columns) - 1)
    lines = [f"### {table.title}", "", line(table.columns), rule, *map(line, table.rows), ""]
    lines += [" ".join(note.replace("|", "\\|") for note in table.notes)]
    return "\n".join(lines).rstrip() + "\n"
