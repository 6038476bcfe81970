"""The recorded output of Slurm's commands, by release."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parent.parent / "recorded" / "slurm"
RELEASES = sorted(path.name for path in _ROOT.iterdir() if path.is_dir())


def recorded(release: str, name: str) -> str:
    """Return what a command printed; empty if there is no such recording."""
    path = _ROOT / release / name
    return path.read_text() if path.exists() else ""


def index(release: str) -> dict[str, dict[str, Any]]:
    """Return command and exit status of every recording."""
    entries: dict[str, dict[str, Any]] = json.loads((_ROOT / release / "index.json").read_text())
    return entries


def queue_lines(release: str, name: str) -> str:
    """Return recorded squeue lines in the order of fields that pipen-slurm asks for.

    The recordings have more fields: id, array id, task, state, start, nodes, reason, comment.
    """
    lines = []
    for line in recorded(release, f"{name}.out").splitlines():
        jid, _, _, state, _, nodes, reason, comment = line.split("|", 7)
        lines.append(f"{jid}|{state}|{nodes}|{reason}|name|{comment}\n")
    return "".join(lines)


def accounting_lines(release: str, name: str) -> str:
    """Return recorded sacct lines in the order of fields that pipen-slurm asks for.

    The recordings have more: id, state, exit code, derived one, reason, nodes, start, end, ….
    """
    lines = []
    for line in recorded(release, f"{name}.out").splitlines():
        jid, state, exit_code, _, _, nodes, _, end, _, comment = line.split("|", 9)
        lines.append(f"{jid}|{state}|{exit_code}|{nodes}|{end}|1700000000|{comment}\n")
    return "".join(lines)
