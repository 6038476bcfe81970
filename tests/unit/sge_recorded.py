"""The recorded output of Grid Engine's commands, by release."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parent.parent / "recorded" / "sge"
RELEASES = sorted(path.name for path in _ROOT.iterdir() if path.name[0].isdigit())


def recorded(release: str, name: str) -> str:
    """Return what a command printed; empty if there is no such recording."""
    path = _ROOT / release / name
    return path.read_text() if path.exists() else ""


def index(release: str) -> dict[str, dict[str, Any]]:
    """Return command and exit status of every recording."""
    entries: dict[str, dict[str, Any]] = json.loads((_ROOT / release / "index.json").read_text())
    return entries
