"""A third-party scheduler (tests/mysched), installed as its users would."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parent / "mysched"


def install(directory: Path) -> Path:
    """Install the package into a directory, for ``PYTHONPATH``; return the directory."""
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"),
            *("--no-build-isolation", "--target", str(directory), str(PROJECT)),
        ],
        check=True,
    )
    return directory
