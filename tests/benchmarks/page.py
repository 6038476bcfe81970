"""The page of the documentation that shows the tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .tables import Table, markdown

_HEAD = """\
# Benchmarks

<!-- Written by `python -m tests.benchmarks page`; edit tests/benchmarks/page.py instead. -->

What a user would run instead, measured beside pipen-executors in one run on one machine: the
candidates take turns (A B A B), each in a directory of its own, and the tables give medians.
*Ratio* is to the first line of a table; *CPU* is what the command and everything it started on
the submitting machine used. A trivial job is `echo` into a file.

{machine}

To measure again:

```sh
python -m tests.benchmarks page --runs 5     # all of it, and writes this page
python -m tests.benchmarks local --runs 5
python -m tests.benchmarks slurm --only independent chain --json slurm.json
```

It needs Linux and a package index, for the clusters also Debian and root; it makes its environments
itself, below `.cache/`.
"""
_SECTIONS = (
    ("local", "pipen-local"),
    ("slurm", "pipen-slurm"),
    ("sge", "pipen-sge"),
    ("ssh", "pipen-ssh"),
    ("container", "pipen-container"),
)


def page(facts: Mapping[str, str], tables: Sequence[Table], conditions: str = "") -> str:
    """Return the page in Markdown."""
    words = f"{facts['cores']} cores, {facts['system']}, Python {facts['python']}, {facts['date']}."
    parts = [_HEAD.format(machine=f"{words} {conditions}".strip())]
    for prefix, title in _SECTIONS:
        mine = [table for table in tables if table.key.startswith(f"{prefix}-")]
        if mine:
            parts.append(f"## {title}\n")
            parts += [markdown(table) for table in mine]
    return "\n".join(parts)
